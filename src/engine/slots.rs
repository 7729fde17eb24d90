//! The slots of this worker: what the pool is told, and what becomes of its decisions.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::agenda::Agenda;
use super::pace::Pace;
use super::pool::{Hindrance, PoolInputs, Resize};
use super::scaling::startable;
use super::{Engine, Inner, PoolReport};
use crate::domain::ProviderName;
use crate::store::Result;

impl Engine {
    /// How many providers can do work and have none here.
    pub(super) fn idle(&self, running: &BTreeMap<ProviderName, u32>) -> u32 {
        let idle = self.0.able.iter().filter(|provider| !running.contains_key(*provider));
        u32::try_from(idle.count()).unwrap_or(u32::MAX)
    }

    /// Whether one more attempt of this provider would have a slot.
    pub(super) fn has_slot_for(&self, provider: &ProviderName) -> bool {
        let running = self.0.active.working();
        let room = self.pool().room(running.values().sum(), self.idle(&running));
        room.slots > 0 || (room.beyond > 0 && !running.contains_key(provider))
    }

    /// The pool as other replicas are told of it.
    pub(super) fn pool_report(&self) -> PoolReport {
        let running = self.0.active.working();
        let machine = self.0.register.machine();
        let pool = self.pool();
        PoolReport {
            min: pool.bounds().min,
            max: pool.bounds().max,
            spare: pool.spare(running.values().sum(), self.idle(&running), &machine),
            hindered: pool.slots() < pool.bounds().max && Hindrance::of(&machine).is_some(),
        }
    }

    /// Lets the pool grow or shrink; what waits for a slot is claimed next if it grew.
    pub(super) async fn size_pool(&self, agenda: &mut Agenda, pace: &mut Pace) -> Result<()> {
        let Inner { active, register, .. } = &*self.0;
        pace.note(Instant::now(), self.0.instruments().tally());
        let waiting = self.waiting_for_slots(agenda).await?;
        let running = active.working();
        let inputs = PoolInputs {
            in_use: running.values().sum(),
            waiting,
            idle: self.idle(&running),
            mean_wait: pace.mean_wait(),
            throughput: pace.throughput(),
            machine: register.machine(),
        };
        let (resize, slots, hindrance) = {
            let mut pool = self.pool();
            let before = pool.hindrance();
            let resize = pool.step(Instant::now(), &inputs);
            // Told once, as long as it lasts.
            (resize, pool.slots(), pool.hindrance().filter(|_| before.is_none()))
        };
        if let Some(hindrance) = hindrance {
            tracing::info!(
                slots,
                "The pool stays at {slots} slots though more are needed: {hindrance}"
            );
        }
        if let Some(Resize { from, to, reason }) = resize {
            let how = if to > from { "grew" } else { "shrank" };
            tracing::info!(from, to, "The pool {how} from {from} to {to} slots: {reason}");
            if to > from {
                agenda.slots_made();
            }
        }
        Ok(())
    }

    /// How many executions only lack a slot here: this worker's share of what each provider has ready
    /// and its limit has room for. Where it does not matter a guess that is too low.
    async fn waiting_for_slots(&self, agenda: &Agenda) -> Result<u32> {
        let Inner { store, register, resources, .. } = &*self.0;
        let crowded_out = agenda.crowded_out();
        if crowded_out.is_empty() {
            return Ok(0);
        }
        if !self.pool().wants_count(Instant::now(), &register.machine()) {
            return Ok(u32::try_from(crowded_out.len()).unwrap_or(u32::MAX));
        }
        let now = self.now();
        let rows = store.providers().await?;
        let waiting = rows.iter().filter(|row| {
            let name = &row.record.name;
            crowded_out.contains(name) && !resources.holds_back(name)
        });
        let shares = waiting.map(|row| {
            let sharers = u64::from(register.sharers(&row.record.name));
            startable(row, now).div_ceil(sharers)
        });
        Ok(u32::try_from(shares.sum::<u64>()).unwrap_or(u32::MAX))
    }
}

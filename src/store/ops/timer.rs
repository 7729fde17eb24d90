//! What time alone brings about, and what a fresh server finds left over.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{
    Change, ExecutionId, Heard, Limits, ProviderName, Record, Timestamp, Told, WorkerId,
};
use crate::store::BackendError;
use crate::store::batch::{Batch, Needs};

/// The most records of each sort that one transaction moves; the rest follows in the next.
const AT_ONCE: u32 = 500;
/// When to look again for what is due and held by another transaction.
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// Makes every change that is due.
#[derive(Debug)]
pub(in crate::store) struct Advance {
    /// How long after its expiry a lease is reclaimed.
    pub(in crate::store) grace: Duration,
}

/// What was due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advanced {
    /// Scheduled or backing-off executions that are ready now.
    pub promoted: u32,
    /// Pending executions whose `queue_timeout` passed.
    pub expired: u32,
    /// Executions taken back from workers that fell silent.
    pub reclaimed: Vec<(ExecutionId, ProviderName)>,
    /// Providers whose pause was over, or whose gate is to be tried again.
    pub resumed: Vec<ProviderName>,
    /// Providers for which the time is over for which limits were set, with those that hold again.
    pub returned: Vec<(ProviderName, Limits)>,
    /// Whether more is due already.
    pub more: bool,
    /// When something is due next, leases apart.
    pub next_due: Option<Timestamp>,
}

#[async_trait]
impl Operation for Advance {
    type Answer = Advanced;

    const PHASE: Phase = Phase::Timer;

    fn needs<'a>(&'a self, _: &mut Needs<'a>) {}

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let now = batch.now();
        let mut advanced = Advanced::default();
        for mut provider in batch.providers_due().await? {
            if provider.expire_limits(now) {
                let told = Told::by_itself("the time for which limits were set is over");
                let change = provider.limits_change(told);
                advanced.returned.push((provider.name.clone(), provider.effective()));
                batch.put_provider(provider.clone(), change);
            }
            if provider.flow.doubt(now) {
                match provider.told_of_holds() {
                    Heard::Changed(change) => batch.put_provider(provider.clone(), change),
                    Heard::Noted | Heard::Nothing => batch.touch_provider(provider.clone()),
                }
            }
            if provider.gate_due_at().is_none_or(|at| at > now) {
                continue;
            }
            let closed = if provider.pause.take().is_some() {
                advanced.resumed.push(provider.name.clone());
                let closed = provider.health.resume(now);
                let reason = "the pause is over".to_owned();
                batch.put_provider(provider.clone(), Change::Resumed { reason });
                closed
            } else {
                provider.health.try_again()
            };
            if let Some(change) = closed {
                batch.put_provider(provider, change);
            }
        }
        let mut due = batch.due(now - self.grace, AT_ONCE).await?;
        // Logged in the order of the ids, whatever order the database found them in.
        for records in [&mut due.promotable, &mut due.expired, &mut due.lost] {
            records.sort_by_key(|record| record.id);
        }
        let full = usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        advanced.more = [&due.promotable, &due.expired, &due.lost].iter().any(|s| s.len() >= full);
        for record in due.expired {
            advanced.expired += 1;
            batch.change_loaded(record, Record::expire_in_queue);
        }
        let providers: BTreeSet<_> = due.promotable.iter().map(|r| r.provider.clone()).collect();
        batch.look_for_room(providers.into_iter().collect()).await?;
        for record in due.promotable {
            // One that expired just now is over.
            if batch.record(record.id).is_some_and(|seen| seen.state.is_terminal()) {
                continue;
            }
            advanced.promoted += 1;
            let wait = batch.wait_for_room(&record.provider);
            batch.change_loaded(record, |record| record.wait_for(wait));
        }
        for record in due.lost {
            advanced.reclaimed.push((record.id, record.provider.clone()));
            batch.change_loaded(record, |record| {
                record.reclaim(now, "the worker fell silent and its lease ran out")
            });
        }
        batch.flush().await?;
        let next = batch.next_due().await?;
        // What is due and was not found is held by another, who sees to it or lets go of it.
        let held = |at: &Timestamp| *at <= now && !advanced.more;
        advanced.next_due = next.map(|at| if held(&at) { now + HELD_PAUSE } else { at });
        Ok(advanced)
    }
}

/// Takes back every running execution that `worker` does not own.
#[derive(Debug)]
pub(in crate::store) struct Recover {
    pub(in crate::store) worker: WorkerId,
}

#[async_trait]
impl Operation for Recover {
    type Answer = Vec<(ExecutionId, ProviderName)>;

    const PHASE: Phase = Phase::Timer;

    fn needs<'a>(&'a self, _: &mut Needs<'a>) {}

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let now = batch.now();
        let mut recovered = Vec::new();
        let mut abandoned = batch.running_elsewhere(self.worker).await?;
        abandoned.sort_by_key(|record| record.id);
        for record in abandoned {
            recovered.push((record.id, record.provider.clone()));
            batch.change_loaded(record, |record| {
                record.reclaim(now, "the worker was gone when the server started again")
            });
        }
        Ok(recovered)
    }
}

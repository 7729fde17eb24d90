//! Claims: the only way an attempt starts.
//!
//! What must stay true (promise P1): the provider's row is locked *before* its running executions
//! are counted, both in one transaction, so that at every revision the running executions of a
//! provider are no more than the limit in force there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;

use super::claimed::{Claim, ClaimReport, Claimed};
use super::queue::{Queue, Turn};
use super::share::{AT_ONCE, Offer, hand_out};
use super::{Operation, Phase};
use crate::domain::{
    Admission, ExecutionId, Heard, Lease, ProviderName, Record, Reserved, Wait, WorkerId,
};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, Lane};

#[async_trait]
impl Operation for Claim {
    type Answer = ClaimReport;

    const LANE: Lane = Lane::Claims;

    const PHASE: Phase = Phase::Claim;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.claims.extend(self.wanted.iter().map(|wanted| wanted.provider.clone()));
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let mut wanted = self.wanted_once();
        let mut report = ClaimReport::default();
        wanted.retain(|name, _| {
            let looked_at = batch.provider(name).is_some();
            if !looked_at {
                report.passed_over.push(name.clone());
            }
            looked_at
        });
        if wanted.is_empty() {
            return Ok(report);
        }
        let names: Vec<_> = wanted.keys().cloned().collect();
        let loads = batch.fresh_loads(&names).await?;
        let now = batch.now();
        let (mut shut, mut queues) = (Vec::new(), BTreeMap::new());
        let mut offers: BTreeMap<_, _> = wanted
            .into_values()
            .filter_map(|(place, wanted)| {
                let provider = batch.provider(&wanted.provider)?;
                let load = loads.get(&wanted.provider)?;
                let mut queue = Queue::of(provider, now);
                let limit = queue.limit();
                let room = limit.saturating_sub(load.running);
                let limit = match provider.admits(now) {
                    Admission::All => limit,
                    Admission::Probe => limit.min(load.running + 1),
                    Admission::Nothing => {
                        shut.push((wanted.provider, room));
                        return None;
                    }
                };
                if !load.has_ready {
                    queue.is_empty();
                }
                let offer = Offer::new(load, limit, &wanted, place);
                let offer = if queue.is_unseen() { offer.declined() } else { offer };
                queues.insert(wanted.provider.clone(), queue);
                Some((wanted.provider, offer))
            })
            .collect();
        let kept = hand_out(offers.values_mut(), self.slots, self.kept, self.beyond);
        let mut taken = self.take(batch, &mut offers, &mut queues).await?;
        let held_back = queues.iter().filter(|(_, queue)| queue.holds_back());
        shut.extend(
            held_back.filter_map(|(name, _)| Some((name.clone(), offers.get(name)?.left()))),
        );
        let gave_way = queues.values().any(Queue::holds_back);
        let free = self.slots.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        for record in stopped_behind(batch, shut, free).await? {
            let before = record.clone();
            let (lease, charged) = batch.claim(record, self.worker, self.lease, None);
            taken.push(Taken {
                lease,
                before,
                charged,
                probe: false,
                reserved: None,
                adaptive: false,
            });
        }
        let again = leave(batch, queues, &offers, &mut report);
        end_shortages(batch, &offers, self.worker);
        let full = mark_waiting(batch, &offers).await?;
        let spare = self.slots.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        // Where nothing was taken nothing has changed, and another claim would get nothing either, unless
        // a slot went to work that is held back.
        let slots_left = spare > kept && (gave_way || !taken.is_empty());
        for (provider, offer) in offers {
            let lacked_slots = slots_left && offer.lacks_slots();
            let more = full.contains(&provider) || again.contains(&provider) || lacked_slots;
            report.add(more, provider, &offer);
        }
        report.claimed = with_specs(batch, taken).await?;
        Ok(report)
    }
}

/// An execution that a claim took.
struct Taken {
    lease: Lease,
    before: Record,
    charged: u32,
    probe: bool,
    reserved: Option<Reserved>,
    adaptive: bool,
}

impl Claim {
    /// Takes what the offers have slots for and the queues let through, in the order of each queue.
    async fn take(
        &self,
        batch: &mut Batch<'_>,
        offers: &mut BTreeMap<ProviderName, Offer>,
        queues: &mut BTreeMap<ProviderName, Queue>,
    ) -> Result<Vec<Taken>, BackendError> {
        let now = batch.now();
        let look_at = offers.iter().map(|(name, offer)| (name, offer.look_at()));
        let look_at = look_at.filter(|(_, most)| *most > 0);
        let picks: Vec<_> = look_at
            .flat_map(|(name, most)| {
                queues.get_mut(name).map(|queue| queue.picks(name, most)).unwrap_or_default()
            })
            .collect();
        let mut ready = batch.ready(&picks).await?;
        ready.sort_by(|a, b| (&a.provider, a.turn()).cmp(&(&b.provider, b.turn())));
        let mut taken = Vec::new();
        for mut record in ready {
            let Some(queue) = queues.get_mut(&record.provider) else { continue };
            match queue.turn(&record, now) {
                Turn::Waits => {}
                Turn::Moves => {
                    queue.lane_of(&record).to_owned().clone_into(&mut record.lane);
                    batch.touch_loaded(record);
                }
                Turn::Begins => {
                    let Some(offer) = offers.get_mut(&record.provider) else { continue };
                    if offer.is_full() {
                        queue.leaves_some();
                        continue;
                    }
                    if offer.has_seen_all() {
                        continue;
                    }
                    if !offer.claims_next() {
                        continue;
                    }
                    let before = record.clone();
                    let (reserved, probes) = queue.begins(&record, record.id, now);
                    let kept = reserved.clone().filter(|_| queue.counts_tokens(&record.lane));
                    let (lease, charged) = batch.claim(record, self.worker, self.lease, reserved);
                    let probe = note_probe(batch, &before.provider, lease.id) || probes;
                    let adaptive = queue.is_adaptive();
                    taken.push(Taken { lease, before, charged, probe, reserved: kept, adaptive });
                }
            }
        }
        Ok(taken)
    }
}

/// What was taken, with what is to be run.
async fn with_specs(
    batch: &mut Batch<'_>,
    taken: Vec<Taken>,
) -> Result<Vec<Claimed>, BackendError> {
    let now = batch.now();
    let ids: Vec<_> = taken.iter().map(|taken| taken.lease.id).collect();
    let mut specs: HashMap<_, _> =
        batch.specs(&ids).await?.into_iter().map(|spec| (spec.id, Arc::new(spec))).collect();
    let claimed = taken.into_iter().filter_map(|taken| {
        let Taken { lease, before, charged, probe, reserved, adaptive } = taken;
        Some(Claimed {
            spec: specs.remove(&lease.id)?,
            attempt: before.attempts + 1,
            charged,
            waited: now.since(before.due_at),
            interrupted: before.interrupted,
            handle: before.handle,
            cancel_requested: before.cancel_requested_at.is_some(),
            probe,
            lane: before.lane,
            reserved,
            adaptive,
            at: now,
            lease,
        })
    });
    Ok(claimed.collect())
}

/// Leaves at each provider what began there and what is held back; returns those that are to be looked
/// at once more: something was found in a lane that is not its own, or the limit is higher now.
fn leave(
    batch: &mut Batch<'_>,
    queues: BTreeMap<ProviderName, Queue>,
    offers: &BTreeMap<ProviderName, Offer>,
    report: &mut ClaimReport,
) -> BTreeSet<ProviderName> {
    let mut again = BTreeSet::new();
    for (name, queue) in queues {
        if queue.moved() > 0 || look_for_more(batch, &name, &queue, offers.get(&name)) {
            again.insert(name.clone());
        }
        // Where there is no room, whoever makes some looks anyway.
        let has_room = offers.get(&name).is_some_and(|offer| offer.limit > offer.running);
        if let Some(at) = queue.resumes_at(batch.now()).filter(|_| has_room) {
            report.resumes.insert(name.clone(), at);
        }
        let Some(mut record) = batch.provider(&name).cloned() else { continue };
        let Some((flow, news)) = queue.leave(batch.now()) else { continue };
        record.flow = flow;
        match if news { record.told_of_holds() } else { Heard::Noted } {
            Heard::Changed(change) => batch.put_provider(record, change),
            Heard::Noted | Heard::Nothing => batch.touch_provider(record),
        }
    }
    again
}

/// Whether the limit of a provider whose limit moves by itself goes up, now that a claim leaves work for
/// want of it.
fn look_for_more(
    batch: &mut Batch<'_>,
    name: &ProviderName,
    queue: &Queue,
    offer: Option<&Offer>,
) -> bool {
    let (true, Some(offer)) = (queue.is_adaptive(), offer) else { return false };
    let Some(mut record) = batch.provider(name).cloned() else { return false };
    let running = offer.running + offer.claimed();
    let Some(step) = record.look(running, queue.has_left(), batch.now()) else { return false };
    let change = record.limit_moved(step);
    batch.put_provider(record, change);
    step.to > step.from
}

/// What neither a closed gate nor a spent budget holds back: executions that are claimed only to be
/// stopped at their provider, as many as its limit has room for.
async fn stopped_behind(
    batch: &mut Batch<'_>,
    mut shut: Vec<(ProviderName, u32)>,
    free: u32,
) -> Result<Vec<Record>, BackendError> {
    shut.retain(|(_, room)| *room > 0);
    if shut.is_empty() || free == 0 {
        return Ok(Vec::new());
    }
    let mut found = batch.cancelling(&shut).await?;
    // One of an open lane was claimed before.
    found.retain(|record| batch.record(record.id).is_none_or(Record::is_ready));
    found.truncate(usize::try_from(free).unwrap_or(usize::MAX));
    Ok(found)
}

/// Notes that an execution was let through a gate that is not open; whether it was.
fn note_probe(batch: &mut Batch<'_>, provider: &ProviderName, id: ExecutionId) -> bool {
    let probed = batch.provider(provider).filter(|known| known.health.closure().is_some());
    let Some(mut record) = probed.cloned() else { return false };
    record.health.probed_by(id, batch.now());
    batch.touch_provider(record);
    true
}

/// Where something was taken, the machine of whoever took it has room.
fn end_shortages(batch: &mut Batch<'_>, offers: &BTreeMap<ProviderName, Offer>, worker: WorkerId) {
    for (name, _) in offers.iter().filter(|(_, offer)| offer.claimed() > 0) {
        let short = batch.provider(name).filter(|provider| provider.shortage.is_some());
        if let Some(provider) = short.cloned() {
            batch.end_shortage(provider, worker);
        }
    }
}

/// Those left behind at a provider that is full, or for which there is no slot, say from now on
/// that they wait for room. Those that another worker is expected to take do not. Returns the
/// providers at which there may be more of them.
async fn mark_waiting(
    batch: &mut Batch<'_>,
    offers: &BTreeMap<ProviderName, Offer>,
) -> Result<BTreeSet<ProviderName>, BackendError> {
    let waits =
        |offer: &Offer| offer.has_unmarked && (offer.claimed() == offer.free || offer.is_crowded());
    let full = offers.iter().filter(|(_, offer)| waits(offer));
    let full: Vec<_> = full.map(|(name, _)| name.clone()).collect();
    if full.is_empty() {
        return Ok(BTreeSet::new());
    }
    batch.flush().await?;
    let mut marked: BTreeMap<ProviderName, u32> = BTreeMap::new();
    for record in batch.unmarked(&full, AT_ONCE).await? {
        *marked.entry(record.provider.clone()).or_default() += 1;
        batch.change_loaded(record, |record| record.wait_for(Wait::Limit));
    }
    Ok(marked.into_iter().filter(|(_, count)| *count >= AT_ONCE).map(|(name, _)| name).collect())
}

//! Claims: the only way an attempt starts.
//!
//! What must stay true (promise P1): the provider's row is locked *before* its running executions
//! are counted, both in one transaction, so that at every revision the running executions of a
//! provider are no more than the limit in force there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{Lease, ProviderName, Spec, Wait, WorkerId};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, Lane, Load};

/// The most executions one claim takes of one provider; the rest follows in the next.
const AT_ONCE: u32 = 200;

/// Takes ready executions under a lease.
#[derive(Debug)]
pub struct Claim {
    /// Who will run them.
    pub worker: WorkerId,
    /// Of which providers, and how many of each at most.
    pub wanted: Vec<(ProviderName, u32)>,
    /// How long the leases last.
    pub lease: Duration,
}

/// One execution to be run now.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The right to run it.
    pub lease: Lease,
    /// What to run.
    pub spec: Arc<Spec>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts are charged, this one included.
    pub charged: u32,
    /// How long it had been due.
    pub waited: Duration,
    /// Whether its last attempt was lost or handed back.
    pub interrupted: bool,
}

/// What a claim got.
#[derive(Debug, Default)]
pub struct ClaimReport {
    /// The executions, by provider in the order they were to be claimed.
    pub claimed: Vec<Claimed>,
    /// For each provider that was looked at and had room, or has more to be looked at.
    pub providers: Vec<ProviderClaims>,
    /// Whether another claim would get more at once.
    pub more: bool,
}

/// What a claim found at one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderClaims {
    /// Which.
    pub provider: ProviderName,
    /// Running before the claim.
    pub running: u32,
    /// The limit in force.
    pub limit: u32,
    /// Taken by the claim.
    pub claimed: u32,
}

#[async_trait]
impl Operation for Claim {
    type Answer = ClaimReport;

    const LANE: Lane = Lane::Claims;

    const PHASE: Phase = Phase::Claim;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.claims.extend(self.wanted.iter().map(|(name, _)| name.clone()));
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        // A provider named twice is looked at once, with what was wanted of it in all.
        let mut wanted: BTreeMap<&ProviderName, u32> = BTreeMap::new();
        for (name, count) in &self.wanted {
            let sum = wanted.entry(name).or_default();
            *sum = sum.saturating_add(*count);
        }
        let names: Vec<_> = wanted.keys().map(|&name| name.clone()).collect();
        let loads = batch.fresh_loads(&names).await?;
        let mut offers: BTreeMap<_, _> = wanted
            .into_iter()
            .filter_map(|(name, wanted)| {
                let provider = batch.provider(name).filter(|known| known.pause.is_none())?;
                let limit = provider.effective().max_concurrent;
                Some((name.clone(), Offer::new(*loads.get(name)?, limit, wanted)))
            })
            .collect();
        let wanted: Vec<_> = offers
            .iter()
            .filter(|(_, offer)| offer.take > 0)
            .map(|(name, offer)| (name.clone(), offer.take))
            .collect();
        let now = batch.now();
        let mut taken = Vec::new();
        for record in batch.ready(&wanted).await? {
            if let Some(offer) = offers.get_mut(&record.provider) {
                offer.claimed += 1;
            }
            let before = record.clone();
            let (lease, charged) = batch.claim(record, self.worker, self.lease);
            taken.push((lease, before, charged));
        }
        let full = mark_waiting(batch, &offers).await?;
        let mut report = ClaimReport::default();
        for (provider, offer) in offers {
            let more_unmarked = full.contains(&provider);
            report.more |= more_unmarked || (offer.claimed == AT_ONCE && offer.free > AT_ONCE);
            if offer.claimed > 0 || more_unmarked {
                let Offer { running, limit, claimed, .. } = offer;
                report.providers.push(ProviderClaims { provider, running, limit, claimed });
            }
        }
        let ids: Vec<_> = taken.iter().map(|(lease, ..)| lease.id).collect();
        let mut specs: HashMap<_, _> =
            batch.specs(&ids).await?.into_iter().map(|spec| (spec.id, Arc::new(spec))).collect();
        report.claimed.extend(taken.into_iter().filter_map(|(lease, before, charged)| {
            Some(Claimed {
                spec: specs.remove(&lease.id)?,
                attempt: before.attempts + 1,
                charged,
                waited: now.since(before.due_at),
                interrupted: before.interrupted,
                lease,
            })
        }));
        Ok(report)
    }
}

/// What one provider can give to a claim.
struct Offer {
    running: u32,
    limit: u32,
    /// How many more may run.
    free: u32,
    /// How many of them this claim takes if so many are ready.
    take: u32,
    claimed: u32,
    has_unmarked: bool,
}

impl Offer {
    fn new(load: Load, limit: u32, wanted: u32) -> Self {
        let free = limit.saturating_sub(load.running);
        let take = if load.has_ready { free.min(wanted).min(AT_ONCE) } else { 0 };
        let Load { running, has_unmarked, .. } = load;
        Self { running, limit, free, take, claimed: 0, has_unmarked }
    }
}

/// Those left behind at a provider that is full say from now on that they wait for its limit.
/// Returns the providers at which there may be more of them.
async fn mark_waiting(
    batch: &mut Batch<'_>,
    offers: &BTreeMap<ProviderName, Offer>,
) -> Result<BTreeSet<ProviderName>, BackendError> {
    let full = offers.iter().filter(|(_, offer)| offer.has_unmarked && offer.claimed == offer.free);
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

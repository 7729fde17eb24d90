//! Claims: the only way an attempt starts.
//!
//! What must stay true (promise P1): the provider's row is locked *before* its running executions
//! are counted, both in one transaction, so that at every revision the running executions of a
//! provider are no more than the limit in force there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{Lease, ProviderName, Spec, Wait, WorkerId};
use crate::store::BackendError;
use crate::store::batch::{Batch, Needs};

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

    const PHASE: Phase = Phase::Claim;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.providers.extend(self.wanted.iter().map(|(name, _)| name.clone()));
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
        let now = batch.now();
        let mut report = ClaimReport::default();
        let mut taken = Vec::new();
        for (name, wanted) in wanted {
            let Some(provider) = batch.provider(name) else { continue };
            if provider.pause.is_some() {
                continue;
            }
            let load = loads.get(name).copied().unwrap_or_default();
            let limit = provider.effective().max_concurrent;
            let free = limit.saturating_sub(load.running);
            let take = free.min(wanted).min(AT_ONCE);
            let mut claimed = 0;
            if load.has_ready && take > 0 {
                for record in batch.ready(name, take).await? {
                    let before = record.clone();
                    let (lease, charged) = batch.claim(record, self.worker, self.lease);
                    taken.push((lease, before, charged));
                    claimed += 1;
                }
                report.more |= claimed == AT_ONCE && free > AT_ONCE;
            }
            let mut unmarked = false;
            if load.has_ready && claimed == free {
                unmarked = self.mark_waiting(batch, name).await?;
                report.more |= unmarked;
            }
            if claimed > 0 || unmarked {
                let running = load.running;
                let provider = name.clone();
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

impl Claim {
    /// The provider is full: those left behind say from now on that they wait for its limit.
    /// Returns whether there may be more of them.
    async fn mark_waiting(
        &self,
        batch: &mut Batch<'_>,
        name: &ProviderName,
    ) -> Result<bool, BackendError> {
        batch.flush().await?;
        let unmarked = batch.unmarked(name, AT_ONCE).await?;
        let more = unmarked.len() >= usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        for record in unmarked {
            batch.change_loaded(record, |record| record.wait_for(Wait::Limit));
        }
        Ok(more)
    }
}

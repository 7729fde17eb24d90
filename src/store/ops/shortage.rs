//! That ready work waits because a machine is short: told, and taken back.
//!
//! What must stay true: it is told only of a provider that has ready work, room for it under its limit,
//! and whose next execution was left alone for a time, so that a short worker says nothing while
//! another takes the work; one worker speaks for a provider at a time; a claim of the provider's
//! work by anybody takes it back (see `claim`).

use std::time::Duration;

use async_trait::async_trait;

use super::queue::{Queue, Turn};
use super::{Operation, Phase};
use crate::domain::{Change, ProviderName, Record, Shortage, WorkerId};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, Lane, Load};

/// What a worker wants known of the work that it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortageReport {
    /// Whose machine is short, and of what.
    pub shortage: Shortage,
    /// How long the provider's next execution must have been ready.
    pub patience: Duration,
    /// Whether to tell it, or only to look whether work waits.
    pub tell: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortageAnswer {
    /// Work waits, and it is in the log why.
    Told,
    /// Work waits, and nothing was told: it was not to be, or there is nothing new to tell.
    Waits,
    /// Nothing waits: nothing has been ready for so long, the limit leaves no room, or the provider is
    /// paused.
    NothingWaits,
    /// The provider was passed over: somebody held it, or nothing is to be claimed there.
    NotLookedAt,
}

/// Tells of a shortage.
#[derive(Debug)]
pub(in crate::store) struct TellShortage {
    pub(in crate::store) provider: ProviderName,
    pub(in crate::store) report: ShortageReport,
}

#[async_trait]
impl Operation for TellShortage {
    type Answer = ShortageAnswer;

    // Like a claim it passes over a provider that somebody holds.
    const LANE: Lane = Lane::Claims;

    const PHASE: Phase = Phase::Claim;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.claims.insert(self.provider.clone());
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let ShortageReport { shortage, patience, tell } = self.report;
        let Some(mut record) = batch.provider(&self.provider).cloned() else {
            return Ok(ShortageAnswer::NotLookedAt);
        };
        let shut = record.pause.is_some() || record.health.closure().is_some();
        if shut || !self.has_waited(batch, patience).await? {
            return Ok(ShortageAnswer::NothingWaits);
        }
        // One worker speaks for a provider at a time.
        let is_news = |known: &Shortage| {
            known.worker == shortage.worker && shortage.lack.is_news_after(&known.lack)
        };
        if !tell || !record.shortage.as_ref().is_none_or(is_news) {
            return Ok(ShortageAnswer::Waits);
        }
        record.shortage = Some(shortage);
        batch.put_provider(record, Change::ShortOf(shortage));
        Ok(ShortageAnswer::Told)
    }
}

impl TellShortage {
    /// Whether the limit has room, and what would be claimed first has been ready for so long.
    async fn has_waited(
        &self,
        batch: &mut Batch<'_>,
        patience: Duration,
    ) -> Result<bool, BackendError> {
        let loads = batch.fresh_loads(std::slice::from_ref(&self.provider)).await?;
        let has_room = |load: &Load| load.has_ready && load.running < load.limit;
        if !loads.get(&self.provider).is_some_and(has_room) {
            return Ok(false);
        }
        let ready_before = batch.now() - patience;
        let now = batch.now();
        let Some(record) = batch.provider(&self.provider) else { return Ok(false) };
        // What a budget or the gate of a model holds back does not wait for a machine.
        let mut queue = Queue::of(record, now);
        if queue.is_unseen() {
            return Ok(false);
        }
        let mut next = batch.ready(&queue.picks(&self.provider, 1)).await?;
        next.sort_by_key(Record::turn);
        let next = next.iter().find(|record| queue.turn(record, now) == Turn::Begins);
        Ok(next.is_some_and(|record| record.due_at <= ready_before))
    }
}

/// Takes back what was told of a shortage.
#[derive(Debug)]
pub(in crate::store) struct EndShortage {
    pub(in crate::store) provider: ProviderName,
    /// Who says so.
    pub(in crate::store) worker: WorkerId,
    /// Only if this one told of it; whoever did if `None`.
    pub(in crate::store) told_by: Option<WorkerId>,
}

#[async_trait]
impl Operation for EndShortage {
    type Answer = bool;

    const PHASE: Phase = Phase::Limits;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.providers.insert(self.provider.clone());
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let meant = |known: &Shortage| self.told_by.is_none_or(|teller| teller == known.worker);
        match batch.provider(&self.provider).cloned() {
            Some(record) if record.shortage.as_ref().is_some_and(meant) => {
                batch.end_shortage(record, self.worker);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

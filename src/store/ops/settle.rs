//! What the holder of a lease writes: that it still runs, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{
    Ending, ExecutionId, Fenced, Heard, Lease, Observation, ProviderName, Reserved, Signal,
};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, Lane};

/// Records how an attempt ended.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The right to say so.
    pub lease: Lease,
    /// How.
    pub ending: Ending,
    /// What that says of its provider, where there is something to be noted.
    pub news: Option<ProviderNews>,
}

/// What the end of an attempt says of its provider.
#[derive(Debug, Clone)]
pub struct ProviderNews {
    /// Which.
    pub provider: ProviderName,
    /// The queue that the attempt came from.
    pub lane: String,
    /// What may move its gate, or that of the model.
    pub signal: Option<Signal>,
    /// What was seen of it since it was last told, where its limit moves by itself.
    pub observed: Option<Observation>,
    /// What the attempt took of token budgets, to be set right by what it consumed.
    pub reserved: Option<Reserved>,
}

#[async_trait]
impl Operation for Settlement {
    type Answer = Result<(), Fenced>;

    const PHASE: Phase = Phase::Known;

    fn bytes(&self) -> usize {
        self.output().map_or(0, |output| output.len())
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.records.insert(self.lease.id);
        needs.providers.extend(self.news.iter().map(|news| news.provider.clone()));
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let now = batch.now();
        let settled =
            batch.try_change(self.lease.id, |record| record.settle(&self.lease, &self.ending, now));
        if settled.is_ok()
            && let Some(output) = self.output()
        {
            batch.put_output(self.lease.id, Arc::clone(output));
        }
        if settled.is_ok() {
            self.tell_the_provider(batch);
        }
        Ok(settled)
    }
}

impl Settlement {
    /// An ending that says nothing of its provider.
    pub fn new(lease: Lease, ending: Ending) -> Self {
        Self { lease, ending, news: None }
    }

    fn tell_the_provider(&self, batch: &mut Batch<'_>) {
        let Some(news) = &self.news else { return };
        let Some(mut provider) = batch.provider(&news.provider).cloned() else { return };
        let corrected = match (&news.reserved, self.ending.usage()) {
            (Some(reserved), Some(usage)) => provider.flow.settle(reserved, usage),
            (Some(_) | None, _) => false,
        };
        let stepped = news.observed.as_ref().and_then(|seen| provider.observe(seen, batch.now()));
        let observed = stepped.is_some();
        if let Some(step) = stepped.flatten() {
            let change = provider.limit_moved(step);
            batch.put_provider(provider.clone(), change);
        }
        let heard = news.signal.as_ref().map_or(Heard::Nothing, |signal| {
            provider.hear(&news.lane, self.lease.id, signal, batch.now())
        });
        match heard {
            Heard::Changed(change) => batch.put_provider(provider, change),
            Heard::Noted => batch.touch_provider(provider),
            Heard::Nothing if corrected || observed => batch.touch_provider(provider),
            Heard::Nothing => {}
        }
    }

    fn output(&self) -> Option<&Arc<str>> {
        match &self.ending {
            Ending::Succeeded { output, .. } => Some(output),
            Ending::Failed { output, .. } | Ending::Cancelled { output, .. } => output.as_ref(),
            Ending::Retry { .. } | Ending::Crashed { .. } | Ending::Released { .. } => None,
        }
    }
}

/// Extends leases by `duration` from now.
#[derive(Debug)]
pub(in crate::store) struct Renew {
    pub(in crate::store) leases: Vec<Lease>,
    pub(in crate::store) duration: Duration,
}

/// What became of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It is held on.
    Held {
        /// Whether the execution was asked to stop.
        cancel_requested: bool,
    },
    /// It is lost: the work must be stopped and nothing of it is recorded.
    Lost,
}

#[async_trait]
impl Operation for Renew {
    type Answer = Vec<(ExecutionId, Renewed)>;

    const PHASE: Phase = Phase::Known;

    const LANE: Lane = Lane::Leases;

    fn rows(&self) -> usize {
        self.leases.len()
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.records.extend(self.leases.iter().map(|lease| lease.id));
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let until = batch.now() + self.duration;
        let answers = self.leases.iter().map(|lease| {
            let renewed = match batch.touch(lease.id, |record| record.renew(lease, until)) {
                Some(record) => {
                    Renewed::Held { cancel_requested: record.cancel_requested_at.is_some() }
                }
                None => Renewed::Lost,
            };
            (lease.id, renewed)
        });
        Ok(answers.collect())
    }
}

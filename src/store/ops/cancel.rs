//! Cancelling: at once while pending, by a stored request while running.

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{ExecutionId, State};
use crate::store::BackendError;
use crate::store::batch::{Batch, Needs};

/// Cancels what is pending and asks what is running to stop.
#[derive(Debug)]
pub(in crate::store) struct Cancel {
    pub(in crate::store) ids: Vec<ExecutionId>,
    pub(in crate::store) reason: String,
}

/// What a cancellation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It was pending and is over.
    Cancelled,
    /// It is running and its worker will hear of it.
    Requested,
    /// It was over, or asked before.
    Unchanged,
}

#[async_trait]
impl Operation for Cancel {
    type Answer = Vec<(ExecutionId, CancelAnswer)>;

    const PHASE: Phase = Phase::Known;

    fn rows(&self) -> usize {
        self.ids.len()
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.records.extend(&self.ids);
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let now = batch.now();
        let mut answers = Vec::with_capacity(self.ids.len());
        for &id in &self.ids {
            let Some(changes) = batch.change(id, |record| record.cancel(&self.reason, now)) else {
                continue;
            };
            let answer = match batch.record(id).map(|record| record.state) {
                _ if !changes => CancelAnswer::Unchanged,
                Some(State::Cancelled) => CancelAnswer::Cancelled,
                _ => CancelAnswer::Requested,
            };
            answers.push((id, answer));
        }
        Ok(answers)
    }
}

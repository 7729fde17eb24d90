//! Storing new executions, once per `request_id`.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{ExecutionId, Record, Timestamp, Wait};
use crate::store::batch::{Batch, Needs};
use crate::store::{Appended, BackendError, NewExecution};

/// Stores new executions, all or none.
#[derive(Debug)]
pub(in crate::store) struct Submit {
    pub(in crate::store) executions: Vec<NewExecution>,
}

/// What became of one submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is stored.
    New {
        /// What it waits for.
        wait: Wait,
        /// The revision of the change that brought it about.
        revision: i64,
        /// When it was committed, on the store's clock.
        at: Timestamp,
    },
    /// The same was submitted before, as this execution.
    Replayed(ExecutionId),
}

/// A `request_id` was used before for another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request_id belongs to execution {first}")]
pub struct RequestIdConflict {
    /// Which of the batch, from 0.
    pub index: usize,
    /// The execution it belongs to.
    pub first: ExecutionId,
}

#[async_trait]
impl Operation for Submit {
    type Answer = Result<Vec<Submitted>, RequestIdConflict>;

    const PHASE: Phase = Phase::Submit;

    fn rows(&self) -> usize {
        self.executions.len()
    }

    fn bytes(&self) -> usize {
        self.executions.iter().map(|new| new.spec.input.json.len()).sum()
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        for new in &self.executions {
            needs.loads.insert(new.spec.provider.clone());
            if let Some(request_id) = &new.spec.request_id {
                needs.requests.insert(request_id);
            }
        }
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let known = match self.known(batch) {
            Ok(known) => known,
            Err(conflict) => return Ok(Err(conflict)),
        };
        let now = batch.now();
        let answers = self.executions.iter().enumerate().map(|(index, new)| {
            if let Some(&first) = known.get(&index) {
                return Submitted::Replayed(first);
            }
            let wait = batch.wait_for_room(&new.spec.provider);
            let (record, change) = Record::submit(&new.spec, now, wait);
            let wait = record.wait;
            // Holds the place in the log until the commit tells the revision.
            let revision = batch.insert(new.clone(), record, change);
            Submitted::New { wait, revision, at: now }
        });
        Ok(Ok(answers.collect()))
    }

    fn committed(&self, answer: &mut Self::Answer, appended: Appended) {
        for submitted in answer.iter_mut().flatten() {
            if let Submitted::New { revision, at, .. } = submitted {
                *revision += appended.first;
                *at = appended.at;
            }
        }
    }
}

impl Submit {
    /// Which of the submissions repeat an earlier one, or one further up in the same batch.
    fn known(&self, batch: &Batch<'_>) -> Result<HashMap<usize, ExecutionId>, RequestIdConflict> {
        let mut known = HashMap::new();
        let mut own: HashMap<&str, &NewExecution> = HashMap::new();
        for (index, new) in self.executions.iter().enumerate() {
            let Some(request_id) = new.spec.request_id.as_deref() else { continue };
            let earlier = batch
                .request(request_id)
                .or_else(|| own.get(request_id).map(|n| (n.spec.id, n.request_hash.as_str())));
            match earlier {
                None => {
                    own.insert(request_id, new);
                }
                Some((first, hash)) if hash == new.request_hash => {
                    known.insert(index, first);
                }
                Some((first, _)) => return Err(RequestIdConflict { index, first }),
            }
        }
        Ok(known)
    }
}

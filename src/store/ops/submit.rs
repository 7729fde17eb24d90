//! Storing new executions, once per `request_id`.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{ExecutionId, ProviderName, Record, Timestamp, Wait};
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

/// Why executions were not stored; none of the batch was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefused {
    /// A `request_id` was used before for another request.
    #[error("request_id belongs to execution {first}")]
    RequestIdConflict {
        /// Which of the batch, from 0.
        index: usize,
        /// The execution it belongs to.
        first: ExecutionId,
    },
    /// The provider has as many pending executions as it takes.
    #[error("{pending} executions of the provider are pending, at most {max} may be")]
    TooManyPending {
        /// The first of the batch for which there is no room, from 0.
        index: usize,
        /// The bound.
        max: u32,
        /// How many are pending without these, counted no further than one above the bound.
        pending: u64,
    },
}

#[async_trait]
impl Operation for Submit {
    type Answer = Result<Vec<Submitted>, SubmitRefused>;

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
        if let Err(full) = self.fits(batch, &known) {
            return Ok(Err(full));
        }
        let now = batch.now();
        let answers = self.executions.iter().enumerate().map(|(index, new)| {
            if let Some(&first) = known.get(&index) {
                return Submitted::Replayed(first);
            }
            let wait = batch.wait_for_room(&new.spec.provider);
            let (mut record, change) = Record::submit(&new.spec, now, wait, new.head_start);
            if let Some(load) = batch.load(&new.spec.provider) {
                record.lane = record.own_lane(|model| load.models.contains(model)).to_owned();
            }
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
    fn known(&self, batch: &Batch<'_>) -> Result<HashMap<usize, ExecutionId>, SubmitRefused> {
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
                Some((first, _)) => {
                    return Err(SubmitRefused::RequestIdConflict { index, first });
                }
            }
        }
        Ok(known)
    }

    /// Whether each provider takes what is new.
    fn fits(
        &self,
        batch: &Batch<'_>,
        known: &HashMap<usize, ExecutionId>,
    ) -> Result<(), SubmitRefused> {
        let mut pending: HashMap<&ProviderName, u64> = HashMap::new();
        for (index, new) in self.executions.iter().enumerate() {
            let provider = &new.spec.provider;
            let (Some(before), Some(max)) =
                (batch.pending(provider), batch.load(provider).and_then(|load| load.max_pending))
            else {
                continue;
            };
            if known.contains_key(&index) {
                continue;
            }
            let pending = pending.entry(provider).or_insert(before);
            *pending += 1;
            if *pending > u64::from(max) {
                return Err(SubmitRefused::TooManyPending { index, max, pending: before });
            }
        }
        Ok(())
    }
}

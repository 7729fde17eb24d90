//! The register of workers.
//!
//! What must stay true: a heartbeat is dated by the clock of the store, whatever the worker's own
//! says, because that is the clock its leases run on.

use std::time::Duration;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, Lane, WorkerRow};

/// How long a worker that fell silent is remembered.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Records that a worker lives, and what it is doing.
#[derive(Debug)]
pub(in crate::store) struct Beat {
    pub(in crate::store) worker: WorkerRow,
}

#[async_trait]
impl Operation for Beat {
    type Answer = ();

    const LANE: Lane = Lane::Leases;

    const PHASE: Phase = Phase::Known;

    fn needs<'a>(&'a self, _: &mut Needs<'a>) {}

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let worker = WorkerRow { heartbeat_at: batch.now(), ..self.worker.clone() };
        batch.put_worker(&worker, FORGET_AFTER).await
    }
}

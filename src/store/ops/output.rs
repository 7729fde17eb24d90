//! What running attempts tell before they end: output, and how their provider knows the work.

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{Change, Chunk, Fenced, Handle, Lease};
use crate::store::BackendError;
use crate::store::batch::{Batch, Needs};

/// Adds pieces of output to the log.
#[derive(Debug)]
pub(in crate::store) struct AppendOutput {
    pub(in crate::store) lease: Lease,
    pub(in crate::store) chunks: Vec<Chunk>,
}

#[async_trait]
impl Operation for AppendOutput {
    type Answer = Result<(), Fenced>;

    const PHASE: Phase = Phase::Known;

    fn rows(&self) -> usize {
        self.chunks.len()
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.content.len()).sum()
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.records.insert(self.lease.id);
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let Some(record) = batch.record(self.lease.id) else { return Ok(Err(Fenced)) };
        if let Err(fenced) = record.holds(&self.lease) {
            return Ok(Err(fenced));
        }
        let provider = record.provider.clone();
        for chunk in &self.chunks {
            batch.log(provider.clone(), Some(self.lease.id), Change::Output(chunk.clone()));
        }
        Ok(Ok(()))
    }
}

/// Notes how the provider knows the work of an attempt.
#[derive(Debug)]
pub(in crate::store) struct Attach {
    pub(in crate::store) lease: Lease,
    pub(in crate::store) handle: Handle,
}

#[async_trait]
impl Operation for Attach {
    type Answer = Result<(), Fenced>;

    const PHASE: Phase = Phase::Known;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.records.insert(self.lease.id);
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let Self { lease, handle } = self;
        Ok(batch.try_change(lease.id, |record| record.attach(lease, handle.clone())))
    }
}

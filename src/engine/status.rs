//! What the whole service is doing, as this worker sees it.

use super::figures::figures;
use super::{Engine, Status};
use crate::store::Result;

impl Engine {
    /// What the whole service is doing.
    pub async fn status(&self) -> Result<Status> {
        let inner = &*self.0;
        let scaling = self.scaling().await?;
        Ok(Status {
            worker: inner.worker,
            started_at: inner.started_at,
            serving: self.is_accepting(),
            store_kind: inner.store.kind().as_str(),
            head: inner.store.head().await?,
            totals: inner.store.totals().await?,
            commits: inner.store.commit_stats(),
            figures: figures(inner.instruments(), inner.active.len()),
            slots: self.pool().slots(),
            scaling,
        })
    }
}

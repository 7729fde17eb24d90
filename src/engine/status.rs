//! What this worker tells of itself: its status, and its row among the workers.

use std::time::Duration;

use super::{Engine, Status, WorkerView};
use crate::store::{Result, WorkerRow, WorkerStatus};

/// How often a worker says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

impl Engine {
    /// What the whole service is doing.
    pub async fn status(&self) -> Result<Status> {
        let inner = &*self.0;
        Ok(Status {
            worker: inner.worker,
            started_at: inner.started_at,
            serving: self.is_accepting(),
            store_kind: inner.store.kind().as_str(),
            head: inner.store.head().await?,
            totals: inner.store.totals().await?,
            commits: inner.store.commit_stats(),
            figures: inner.counters.figures(inner.active.len()),
            slots: inner.settings.slots,
        })
    }

    /// Every worker known to the store, this one as it stands now.
    pub async fn workers(&self) -> Result<Vec<WorkerView>> {
        let silent = self.now() - (self.0.settings.lease + self.0.settings.reclaim_grace());
        let view = |row: WorkerRow| {
            let lost = row.status != WorkerStatus::Stopped && row.heartbeat_at < silent;
            WorkerView { row, lost }
        };
        let mut workers: Vec<_> = self.0.store.workers().await?.into_iter().map(view).collect();
        let serving = self.is_accepting();
        let status = if serving { WorkerStatus::Serving } else { WorkerStatus::Stopping };
        let own = WorkerView { row: self.worker_row(status), lost: false };
        match workers.iter_mut().find(|worker| worker.row.id == own.row.id) {
            Some(row) => *row = own,
            None => workers.insert(0, own),
        }
        Ok(workers)
    }

    /// The heartbeat's loop.
    pub(super) async fn beat(self) {
        loop {
            self.say(WorkerStatus::Serving).await;
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = self.0.claiming.cancelled() => return self.say(WorkerStatus::Stopping).await,
            }
        }
    }

    /// Says that this worker has ended.
    pub async fn say_stopped(&self) {
        self.say(WorkerStatus::Stopped).await;
    }

    async fn say(&self, status: WorkerStatus) {
        if let Err(error) = self.0.store.beat(self.worker_row(status)).await {
            tracing::warn!(%error, "cannot record the heartbeat");
        }
    }

    fn worker_row(&self, status: WorkerStatus) -> WorkerRow {
        let inner = &*self.0;
        let figures = inner.counters.figures(inner.active.len());
        let active = inner.active.ids();
        WorkerRow {
            id: inner.worker,
            host: inner.settings.host.clone(),
            version: inner.settings.version.clone(),
            status,
            started_at: inner.started_at,
            heartbeat_at: self.now(),
            figures: serde_json::json!({ "figures": figures, "active_executions": active }),
        }
    }
}

//! What the whole service is doing, as this worker sees it.

use std::time::Duration;

use super::figures::figures;
use super::scaling::scaling;
use super::{Engine, Overview, Status};
use crate::domain::Timestamp;
use crate::metrics::{KEPT, Window};
use crate::store::Result;

impl Engine {
    /// What the whole service is doing.
    pub async fn status(&self) -> Result<Status> {
        Ok(self.overview().await?.status)
    }

    /// The same, with every configured provider and every worker: read once for all.
    pub async fn overview(&self) -> Result<Overview> {
        let inner = &*self.0;
        let (rows, workers) = (inner.store.providers().await?, self.workers().await?);
        let status = Status {
            worker: inner.worker,
            started_at: inner.started_at,
            serving: self.is_accepting(),
            store_kind: inner.store.kind().as_str(),
            head: inner.store.head().await?,
            totals: inner.store.totals().await?,
            commits: inner.store.commit_stats(),
            figures: figures(inner.instruments(), inner.active.len()),
            slots: self.pool().slots(),
            scaling: scaling(&rows, &workers, self.now()),
            last_minute: inner.instruments().last_minute(),
        };
        let providers = rows.into_iter().filter_map(|row| self.provider_view(row)).collect();
        Ok(Overview { status, providers, workers })
    }

    /// What this worker did in each of the minutes that ended within the last `of`, oldest first; of the last 24
    /// hours at most.
    pub fn minutes(&self, of: Duration) -> Vec<Window> {
        if of.is_zero() {
            return Vec::new();
        }
        let micros = i64::try_from(of.min(KEPT).as_micros()).unwrap_or(i64::MAX);
        let since = self.now().as_micros().saturating_sub(micros);
        self.0.instruments().minutes(Timestamp::from_micros(since))
    }
}

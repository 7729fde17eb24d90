//! Work that nobody does: of a provider that no replica which lives is configured for.
//!
//! Every replica looks with each heartbeat, whoever finds it first says so on the provider, and
//! whoever claims of the provider, or finds it served, takes that back.

use std::collections::BTreeSet;

use super::{Engine, WorkerView};
use crate::domain::HeldBy;
use crate::store::{Result, WorkerStatus};

impl Engine {
    /// Says of each provider of which work waits whether any of these workers serves it, where that
    /// is not said yet.
    pub(super) async fn look_for_the_unserved(&self, workers: &[WorkerView]) -> Result<()> {
        let store = &self.0.store;
        let told = self.0.hub.held_by(&HeldBy::NoWorker);
        let waiting = store.waiting().await?;
        let names: BTreeSet<_> = waiting.into_iter().chain(told.iter().cloned()).collect();
        for name in names {
            let served = workers.iter().any(|worker| {
                let serves = worker.row.status == WorkerStatus::Serving && !worker.lost;
                serves && worker.report.serves(&name)
            });
            if served == told.contains(&name) && store.tell_unserved(name.clone(), !served).await? {
                let how = if served { "is served again" } else { "is served by no worker" };
                tracing::info!(provider = %name, "Provider {name}, of which work waits, {how}");
            }
        }
        Ok(())
    }
}

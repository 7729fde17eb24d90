//! This worker in the register of workers: its heartbeat, and what it knows of the others by it.
//!
//! What must stay true: a worker that lives is heard of often enough that none takes it for lost,
//! also while it drains; once it has said that it stopped it says nothing more; heartbeats are dated
//! by the store, whose clock is the one that leases run on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::figures::figures;
use super::vitals::Gauge;
use super::{Engine, Inner, ServedProvider, WorkerConfiguration, WorkerReport, WorkerView};
use crate::domain::{MachineLoad, ProviderName, Timestamp};
use crate::store::{Result, WorkerRow, WorkerStatus, with_sources};

/// The most executions that a heartbeat names; how many there are is told besides.
const MAX_NAMED: usize = 1_000;

/// What this worker and the register know of each other.
#[derive(Default)]
pub(super) struct Register {
    /// Whether the last word was said. Held while something is said, so that it is the last.
    stopped: tokio::sync::Mutex<bool>,
    /// When this worker was first heard of.
    first: OnceLock<Timestamp>,
    gauge: Mutex<Gauge>,
    /// How busy the machine was at the last heartbeat.
    machine: Mutex<MachineLoad>,
    /// How many replicas with room serve a provider, this one included, where there are others.
    sharers: Mutex<BTreeMap<ProviderName, u32>>,
}

impl Register {
    /// How many replicas share this provider's limit, this one included.
    pub(super) fn sharers(&self, provider: &ProviderName) -> u32 {
        lock(&self.sharers).get(provider).copied().unwrap_or(1)
    }

    /// How busy the machine was at the last heartbeat.
    pub(super) fn machine(&self) -> MachineLoad {
        *lock(&self.machine)
    }
}

impl Engine {
    /// Every worker known to the store, this one as it stands now.
    pub async fn workers(&self) -> Result<Vec<WorkerView>> {
        let mut workers = self.registered().await?;
        let report = self.report();
        let status = self.worker_status();
        match workers.iter_mut().find(|worker| worker.row.id == self.0.worker) {
            Some(own) => {
                own.row.status = status;
                own.report = report;
                // It answers.
                own.lost = false;
            }
            None => {
                let row = self.worker_row(status, &report);
                workers.insert(0, WorkerView { row, report, lost: false });
            }
        }
        Ok(workers)
    }

    async fn registered(&self) -> Result<Vec<WorkerView>> {
        let rows = self.0.store.workers().await?;
        let view = |row| {
            let report = WorkerReport::of(&row);
            WorkerView { lost: self.is_lost(&row, &report), row, report }
        };
        Ok(rows.into_iter().map(view).collect())
    }

    /// Whether the worker of this row fell silent without having stopped. Where one server has the
    /// store to itself, whoever was last heard of before this one is gone for certain.
    fn is_lost(&self, row: &WorkerRow, report: &WorkerReport) -> bool {
        let Inner { store, settings, register, .. } = &*self.0;
        let patience = match &report.configuration {
            Some(known) => known.lease.saturating_add(known.reclaim_grace),
            None => settings.lease + settings.reclaim_grace(),
        };
        let silent = self.now().since(row.heartbeat_at) > patience;
        let replaced = register.first.get().is_some_and(|first| row.heartbeat_at < *first);
        row.status != WorkerStatus::Stopped && (silent || (store.kind().is_exclusive() && replaced))
    }

    /// The heartbeat's loop.
    pub(super) async fn beat(self) {
        let Inner { settings, claiming, .. } = &*self.0;
        let (mut told_stopping, mut failing) = (false, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(settings.heartbeat_interval()) => {}
                () = claiming.cancelled(), if !told_stopping => told_stopping = true,
            }
            let said = self.say(self.worker_status()).await;
            // Told once for as long as it lasts.
            if let (Err(error), false) = (&said, failing) {
                tracing::warn!(error = with_sources(error), "cannot record the heartbeat");
            }
            failing = said.is_err();
        }
    }

    /// Says that this worker has ended. The last word.
    pub async fn say_stopped(&self) {
        if let Err(error) = self.say(WorkerStatus::Stopped).await {
            tracing::warn!(%error, "cannot record that this worker has stopped");
        }
    }

    /// Says that this worker lives and what it is doing, and hears who else lives.
    pub(super) async fn say(&self, status: WorkerStatus) -> Result<()> {
        let Inner { store, register, .. } = &*self.0;
        let mut stopped = register.stopped.lock().await;
        if *stopped {
            return Ok(());
        }
        *stopped = status == WorkerStatus::Stopped;
        lock(&register.gauge).measure();
        *lock(&register.machine) = self.0.settings.machine.load();
        store.beat(self.worker_row(status, &self.report())).await?;
        if status == WorkerStatus::Serving {
            let workers = self.registered().await?;
            if let Some(own) = workers.iter().find(|worker| worker.row.id == self.0.worker) {
                // Only the first is kept.
                let _ = register.first.set(own.row.heartbeat_at);
            }
            *lock(&register.sharers) = self.count_sharers(&workers);
            self.end_shortages_of_the_gone(&workers);
            self.look_for_the_unserved(&workers).await?;
        }
        Ok(())
    }

    /// How many replicas serve each provider that others serve too. Those that could take no more when
    /// they were last heard of have their share.
    fn count_sharers(&self, workers: &[WorkerView]) -> BTreeMap<ProviderName, u32> {
        let claims = |worker: &&WorkerView| {
            let has_room = worker.report.spare() != Some(0);
            worker.row.id != self.0.worker && worker.is_live() && has_room
        };
        let others: Vec<_> = workers.iter().filter(claims).collect();
        let sharers = |provider: &ProviderName| {
            let others = others.iter().filter(|worker| worker.report.serves(provider)).count();
            u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1)
        };
        let counted = self.0.providers.keys().map(|name| (name.clone(), sharers(name)));
        counted.filter(|(_, sharers)| *sharers > 1).collect()
    }

    fn worker_status(&self) -> WorkerStatus {
        let claims = !self.0.claiming.is_cancelled();
        if claims { WorkerStatus::Serving } else { WorkerStatus::Stopping }
    }

    fn worker_row(&self, status: WorkerStatus, report: &WorkerReport) -> WorkerRow {
        let settings = &self.0.settings;
        WorkerRow {
            id: self.0.worker,
            host: settings.host.clone(),
            version: settings.version.clone(),
            status,
            started_at: self.0.started_at,
            heartbeat_at: self.now(),
            figures: serde_json::to_value(report)
                .expect("its keys are text and its numbers finite"),
        }
    }

    fn report(&self) -> WorkerReport {
        let Inner { active, register, .. } = &*self.0;
        let pool = self.pool_report();
        let mut active_executions = active.ids();
        active_executions.truncate(MAX_NAMED);
        WorkerReport {
            figures: figures(self.0.instruments(), active.len()),
            active_executions,
            active_by_provider: active.by_provider(),
            slots: self.pool().slots(),
            pool: Some(pool),
            pid: std::process::id(),
            configuration: Some(self.configuration()),
            vitals: lock(&register.gauge).latest(),
        }
    }

    fn configuration(&self) -> WorkerConfiguration {
        let Inner { settings, store, providers, able, .. } = &*self.0;
        let able = providers.values().filter(|provider| able.contains(&provider.name));
        let served = able.map(|provider| ServedProvider {
            name: provider.name.clone(),
            kind: provider.kind.clone(),
            max_concurrent: provider.limits.max_concurrent,
        });
        WorkerConfiguration {
            providers: served.collect(),
            lease: settings.lease,
            reclaim_grace: settings.reclaim_grace(),
            heartbeat_interval: settings.heartbeat_interval(),
            poll_interval: settings.poll_interval,
            drain_timeout: settings.drain_timeout,
            store_kind: store.kind().as_str().to_owned(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

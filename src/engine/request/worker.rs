//! What a worker tells of itself: written with every heartbeat, read by every replica.
//!
//! What must stay true: replicas of different versions read each other's reports, so what is added
//! has a default, and a field once written keeps its meaning and type.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Figures;
use crate::domain::{ExecutionId, ProviderName};
use crate::store::{WorkerRow, WorkerStatus};

/// A worker as it last described itself, and whether it is still heard of.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// Its row in the register.
    pub row: WorkerRow,
    /// What it told of itself, as far as this version understands it.
    pub report: WorkerReport,
    /// Whether it fell silent without having stopped.
    pub lost: bool,
}

impl WorkerView {
    /// Whether the worker lives and claims work.
    pub fn is_live(&self) -> bool {
        self.row.status == WorkerStatus::Serving && !self.lost
    }
}

/// What a worker tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// What it counted.
    pub figures: Figures,
    /// Executions it runs, or some of them if there are very many.
    pub active_executions: Vec<ExecutionId>,
    /// How many attempts it runs of each provider that it runs any of.
    pub active_by_provider: BTreeMap<ProviderName, u32>,
    /// How many attempts it has room for now; 0 if it never said so.
    pub slots: u32,
    /// What more there is to know of its pool of slots.
    pub pool: Option<PoolReport>,
    /// Its process; 0 if it never said so.
    pub pid: u32,
    /// How it is set up.
    pub configuration: Option<WorkerConfiguration>,
    /// What its process costs the machine.
    pub vitals: Option<Vitals>,
}

impl WorkerReport {
    /// The report in a row; what cannot be read of it is as if it had not been told.
    pub fn of(row: &WorkerRow) -> Self {
        Self::deserialize(&row.figures).unwrap_or_default()
    }

    /// Whether the worker claims executions of this provider.
    pub fn serves(&self, provider: &ProviderName) -> bool {
        let served = self.configuration.iter().flat_map(|known| &known.providers);
        served.into_iter().any(|served| served.name == *provider)
    }

    /// How many more attempts it could take; `None` if it never said how many it has room for.
    pub fn spare(&self) -> Option<u32> {
        let active = u32::try_from(self.figures.active).unwrap_or(u32::MAX);
        let free = (self.slots > 0).then(|| self.slots.saturating_sub(active));
        self.pool.map(|pool| pool.spare).or(free)
    }
}

/// A worker's pool of slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolReport {
    /// The fewest slots.
    pub min: u32,
    /// The most slots.
    pub max: u32,
    /// How many more attempts of whichever provider it could run: slots that are free or that it
    /// would grow by, and that are not kept for providers of which it runs nothing.
    pub spare: u32,
    /// Whether the pool could grow but for its machine, which has too little left.
    pub hindered: bool,
}

/// How a worker is set up: nothing that is secret, and no address that may hold a credential.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerConfiguration {
    /// What it claims executions of, by name.
    pub providers: Vec<ServedProvider>,
    /// How long its leases last.
    pub lease: Duration,
    /// How long after its expiry it reclaims a lease.
    pub reclaim_grace: Duration,
    /// How often it says that it lives.
    pub heartbeat_interval: Duration,
    /// How often it looks for work that nobody told of.
    pub poll_interval: Duration,
    /// How long its shutdown takes at most.
    pub drain_timeout: Duration,
    /// Which database it uses.
    pub store_kind: String,
}

/// A provider that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedProvider {
    /// Its name.
    pub name: ProviderName,
    /// Its kind, such as `process`.
    #[serde(default)]
    pub kind: String,
    /// The limit that the worker declares.
    #[serde(default)]
    pub max_concurrent: u32,
}

/// What a worker's process costs the machine, its modules apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// Of all the processor time that `cores` could give since the last heartbeat, the share it used.
    pub cpu_share: f64,
    /// Processors it may use.
    pub cores: u32,
    /// Memory it holds.
    pub resident_bytes: u64,
}

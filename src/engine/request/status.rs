//! What the service tells of itself.

use super::{ProviderView, Scaling, WorkerView};
use crate::domain::{Timestamp, WorkerId};
use crate::metrics::Window;
use crate::store::{CommitStats, Head, Totals};

/// What the whole service is doing.
#[derive(Debug, Clone)]
pub struct Status {
    /// This worker.
    pub worker: WorkerId,
    /// When it booted.
    pub started_at: Timestamp,
    /// Whether it takes work.
    pub serving: bool,
    /// Which database.
    pub store_kind: &'static str,
    /// Where the log stands.
    pub head: Head,
    /// Figures over everything stored.
    pub totals: Totals,
    /// How the writer fares.
    pub commits: CommitStats,
    /// This worker's own figures since it booted.
    pub figures: Figures,
    /// How many attempts this worker has room for now.
    pub slots: u32,
    /// Whether more replicas would help.
    pub scaling: Scaling,
    /// The last sixty seconds, if anything is known of them.
    pub last_minute: Option<Window>,
}

/// The status with what it was made of.
#[derive(Debug, Clone)]
pub struct Overview {
    /// What the whole service is doing.
    pub status: Status,
    /// Every configured provider, by name.
    pub providers: Vec<ProviderView>,
    /// Every worker, newest first.
    pub workers: Vec<WorkerView>,
}

/// What one worker counted since it booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Attempts started.
    pub started: u64,
    /// Executions succeeded.
    pub succeeded: u64,
    /// Executions failed for good.
    pub failed: u64,
    /// Executions cancelled while running.
    pub cancelled: u64,
    /// Attempts that failed and are tried again.
    pub retried: u64,
    /// Attempts that panicked or whose lease could not be held.
    pub crashed: u64,
    /// Writes refused because their lease was no longer held.
    pub stale_writes_rejected: u64,
    /// Attempts running now.
    pub active: u64,
    /// Watches open now.
    pub watchers: u64,
    /// Times a watch had to go back to the log because it fell behind.
    pub watch_resyncs: u64,
    /// Mean time from claim to end of an attempt, in milliseconds.
    pub mean_execution_ms: f64,
    /// Mean time from due to claim, in milliseconds.
    pub mean_wait_ms: f64,
}

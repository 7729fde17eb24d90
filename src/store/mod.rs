//! The durable truth: executions, limits and the log of every change.
//!
//! Callers hand operations to [`Store`]; one writer runs all that wait at the same moment as one
//! transaction of set-based statements, and each caller gets its own answer after the commit.
//! A caller that goes away changes nothing about that. What an operation does is written once, in
//! `ops`, over the small trait [`Transaction`] that each database implements.

mod backend;
mod batch;
mod codec;
mod error;
mod feed;
mod memory;
mod model;
mod ops;
mod postgres;
mod span;
mod sqlite;
mod stall;
mod tally;
mod transfer;
mod url;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::domain::{
    Chunk, Clock, Event, Execution, ExecutionId, Fenced, Handle, Lease, Limits, ProviderName,
    Timestamp, Told, WorkerId,
};
use crate::metrics::Instruments;
use crate::tasks::Tasks;

pub use crate::metrics::CommitStats;

pub use backend::{Backend, Bell, FARTHEST_AHEAD, Lane, Snapshot, Snapshots, Transaction};
pub use error::{BackendError, StoreError, with_sources};
pub use feed::Commit;
pub use memory::MemoryBackend;
pub use model::{
    Appended, Due, EventQuery, Head, History, ListQuery, Load, Logged, NewExecution, Notice,
    Payload, Pick, ProviderRow, Schema, StoreKind, Totals, WorkerRow, WorkerStatus,
};
pub use ops::{
    Advanced, CancelAnswer, Claim, ClaimReport, Claimed, ExpectedRevision, GateChange, LimitChange,
    ProviderClaims, ProviderNews, Renewed, SetLimitsError, Settlement, ShortageAnswer,
    ShortageReport, SubmitRefused, Submitted, Wanted,
};
pub use postgres::{ClockSource, Listen, PostgresBackend, PostgresOptions};
pub use sqlite::SqliteBackend;
pub use transfer::{Census, Outcome, TransferError, Transferred, transfer};
pub use url::StoreUrl;

use writer::Writer;

/// The result of every operation of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A handle on the store; clones share one writer.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    writer: Writer,
}

impl Store {
    /// Starts the writer over `backend`, with instruments of its own.
    pub fn start(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, tasks: &Tasks) -> Self {
        Self::start_with(backend, clock, tasks, Arc::default())
    }

    /// Starts the writer over `backend`; what it does is counted on `instruments`.
    pub fn start_with(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
        instruments: Arc<Instruments>,
    ) -> Self {
        let writer = Writer::start(Arc::clone(&backend), clock, tasks, instruments);
        Self { backend, writer }
    }

    /// Stores new executions, all or none. Answers in order.
    pub async fn submit(
        &self,
        executions: Vec<NewExecution>,
    ) -> Result<Result<Vec<Submitted>, SubmitRefused>> {
        self.writer.run(ops::Submit { executions }).await
    }

    /// Cancels what is pending and asks what is running to stop. Unknown ids are left out of the
    /// answer.
    pub async fn cancel(
        &self,
        ids: Vec<ExecutionId>,
        reason: String,
    ) -> Result<Vec<(ExecutionId, CancelAnswer)>> {
        self.writer.run(ops::Cancel { ids, reason }).await
    }

    /// Takes ready executions under a lease: the only way an attempt starts.
    pub async fn claim(&self, claim: Claim) -> Result<ClaimReport> {
        self.writer.run(claim).await
    }

    /// Extends leases by `duration` from now; tells which are lost and which are to be cancelled.
    pub async fn renew(
        &self,
        leases: Vec<Lease>,
        duration: Duration,
    ) -> Result<Vec<(ExecutionId, Renewed)>> {
        self.writer.run(ops::Renew { leases, duration }).await
    }

    /// Those of these providers that a claim may get something of, as of a moment ago.
    pub async fn claimable(&self, names: Vec<ProviderName>) -> Result<Vec<ProviderName>> {
        Ok(self.backend.claimable(names).await?)
    }

    /// Records how an attempt ended.
    pub async fn settle(&self, settlement: Settlement) -> Result<Result<(), Fenced>> {
        self.writer.run(settlement).await
    }

    /// Adds pieces of output of a running attempt to the log.
    pub async fn append_output(
        &self,
        lease: Lease,
        chunks: Vec<Chunk>,
    ) -> Result<Result<(), Fenced>> {
        self.writer.run(ops::AppendOutput { lease, chunks }).await
    }

    /// Notes how the provider knows the work of a running attempt, so that another can go on with it.
    pub async fn attach(&self, lease: Lease, handle: Handle) -> Result<Result<(), Fenced>> {
        self.writer.run(ops::Attach { lease, handle }).await
    }

    /// Makes every change that time alone brings about; leases are reclaimed `grace` after expiry.
    pub async fn advance(&self, grace: Duration) -> Result<Advanced> {
        self.writer.run(ops::Advance { grace }).await
    }

    /// Takes back every running execution that `worker` does not own. Only for a worker that has
    /// the store to itself.
    pub async fn recover(&self, worker: WorkerId) -> Result<Vec<(ExecutionId, ProviderName)>> {
        self.writer.run(ops::Recover { worker }).await
    }

    /// Records the configured limits; returns those that differ from before.
    pub async fn declare(
        &self,
        limits: Vec<(ProviderName, Limits)>,
    ) -> Result<Vec<(ProviderName, Limits)>> {
        self.writer.run(ops::Declare { limits }).await
    }

    /// Overrides or resets limits, all or none.
    pub async fn set_limits(
        &self,
        changes: Vec<LimitChange>,
        told: Told,
        expected: ExpectedRevision,
        validate_only: bool,
    ) -> Result<Result<Vec<ProviderRow>, SetLimitsError>> {
        self.writer.run(ops::SetLimits { changes, told, expected, validate_only }).await
    }

    /// Pauses or resumes a provider; `false` if it was so already.
    pub async fn set_gate(&self, provider: ProviderName, change: GateChange) -> Result<bool> {
        self.writer.run(ops::SetGate { provider, change }).await
    }

    /// Tells that ready work of this provider waits because a worker's machine is short, if so.
    pub async fn tell_shortage(
        &self,
        provider: ProviderName,
        report: ShortageReport,
    ) -> Result<ShortageAnswer> {
        self.writer.run(ops::TellShortage { provider, report }).await
    }

    /// Takes back what was told of a shortage, if `told_by` told of it, or whoever did if it is
    /// `None`; `false` if there was nothing to take back. `worker` is who says so.
    pub async fn end_shortage(
        &self,
        provider: ProviderName,
        worker: WorkerId,
        told_by: Option<WorkerId>,
    ) -> Result<bool> {
        self.writer.run(ops::EndShortage { provider, worker, told_by }).await
    }

    /// Tells whether some worker serves a provider of which work is waiting; `false` if that is known, or
    /// nothing waits.
    pub async fn tell_unserved(&self, provider: ProviderName, unserved: bool) -> Result<bool> {
        self.writer.run(ops::TellUnserved { provider, unserved }).await
    }

    /// Records that a worker lives, and what it is doing.
    pub async fn beat(&self, worker: WorkerRow) -> Result<()> {
        self.writer.run(ops::Beat { worker }).await
    }

    /// Everything about the executions of these ids that exist.
    pub async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>> {
        Ok(self.backend.histories(ids, payload).await?)
    }

    /// The executions of these ids that exist, as they stand, in the order of the ids.
    pub async fn executions(
        &self,
        ids: &[ExecutionId],
        payload: Payload,
    ) -> Result<Vec<Execution>> {
        let histories = self.backend.histories(ids, payload).await?;
        let now = histories.into_iter().filter_map(|history| history.at(i64::MAX));
        let found: HashMap<_, _> = now.map(|execution| (execution.spec.id, execution)).collect();
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    /// One execution.
    pub async fn execution(&self, id: ExecutionId, payload: Payload) -> Result<Option<Execution>> {
        Ok(self.executions(&[id], payload).await?.pop())
    }

    /// Ids of matching executions, newest first.
    pub async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>> {
        Ok(self.backend.list(query).await?)
    }

    /// A stretch of the log.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        Ok(self.backend.events(query).await?)
    }

    /// The newest entry at or before `revision` that opened or closed the provider's gate.
    pub async fn gate_at(&self, provider: &ProviderName, revision: i64) -> Result<Option<Event>> {
        Ok(self.backend.gate_at(provider, revision).await?)
    }

    /// The changes of a provider's limits below the revision `before`, newest first.
    pub async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>> {
        Ok(self.backend.limit_changes(provider, before, limit).await?)
    }

    /// Providers of which executions are ready, as of a moment ago.
    pub async fn waiting(&self) -> Result<Vec<ProviderName>> {
        Ok(self.backend.waiting().await?)
    }

    /// How many executions are claimed before this one, counted no further than
    /// [`FARTHEST_AHEAD`]; `None` unless it is ready.
    pub async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>> {
        Ok(self.backend.ahead_of(id).await?)
    }

    /// Where the log stands.
    pub async fn head(&self) -> Result<Head> {
        Ok(self.backend.head().await?)
    }

    /// Which version the schema has now.
    pub async fn schema(&self) -> Result<Schema> {
        Ok(self.backend.schema().await?)
    }

    /// Every provider with what it has pending and running, by name.
    pub async fn providers(&self) -> Result<Vec<ProviderRow>> {
        Ok(self.backend.providers().await?)
    }

    /// Figures over everything stored.
    pub async fn totals(&self) -> Result<Totals> {
        Ok(self.backend.totals().await?)
    }

    /// Every worker that was ever seen and not forgotten, newest first.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>> {
        Ok(self.backend.workers().await?)
    }

    /// Ends the writer once all that waits for it is done; later operations are refused.
    pub fn close(&self) {
        self.writer.close();
    }

    /// Which database this is.
    pub fn kind(&self) -> StoreKind {
        self.backend.kind()
    }

    /// The present on the store's clock: the same for all replicas, as far as it is known here.
    pub fn now(&self) -> Timestamp {
        self.writer.now()
    }

    /// Every commit from now on, of every replica, as it is heard of: a hint, never the truth. Who lags
    /// reads the log.
    pub fn commits(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.writer.commits()
    }

    /// How long the writer that has been at work longest without a commit has got nothing done; `None` if there is
    /// nothing to write. Of one that has much to do, it is as long as its transactions are.
    pub fn stall(&self) -> Option<Duration> {
        self.writer.stall()
    }

    /// How the writer fares.
    pub fn commit_stats(&self) -> CommitStats {
        self.instruments().commit_stats()
    }

    /// What counts and measures this store, and whatever else works on it.
    pub fn instruments(&self) -> &Arc<Instruments> {
        self.writer.instruments()
    }
}

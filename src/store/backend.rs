//! What a database must be able to do: few set-based statements inside one transaction, and reads
//! beside it. Everything that decides anything is above this trait.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::BackendError;
use crate::domain::{
    Change, Event, Execution, ExecutionId, ProviderName, ProviderRecord, Record, Spec, State,
    Timestamp, Usage, WorkerId,
};

type Result<T> = std::result::Result<T, BackendError>;

/// A database.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Begins a transaction that sees every earlier commit and that no other writer overlaps in
    /// what it locks. Dropping it without a commit undoes it.
    async fn begin(&self, lane: Lane) -> Result<Box<dyn Transaction>>;

    /// Leaves everything in good order on disk; the last call.
    async fn close(&self) -> Result<()>;

    /// Everything about the executions of these ids that exist, in no particular order.
    async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>>;

    /// Ids of matching executions, newest first.
    async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>>;

    /// Entries of the log in revision order.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>>;

    /// Those of these providers that a claim may get something of, as of a moment ago and without a
    /// lock. All of them where a claim costs no more than the question.
    async fn claimable(&self, names: Vec<ProviderName>) -> Result<Vec<ProviderName>> {
        Ok(names)
    }

    /// What the log says of the changes after `after`, without pieces of output and without claims.
    async fn notices(&self, after: i64, limit: u32) -> Result<Vec<Notice>> {
        let query = EventQuery { after, execution: None, output: true, limit };
        Ok(self.events(&query).await?.into_iter().map(Notice::from).collect())
    }

    /// The newest entry at or before `revision` that opened or closed the provider's gate.
    async fn gate_at(&self, provider: &ProviderName, revision: i64) -> Result<Option<Event>>;

    /// Where the log stands.
    async fn head(&self) -> Result<Head>;

    /// Every provider, by name.
    async fn providers(&self) -> Result<Vec<ProviderRow>>;

    /// Figures over everything stored.
    async fn totals(&self) -> Result<Totals>;

    /// Every worker known, newest first.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// How replicas that share the database wake each other; `None` if one has it to itself.
    fn bell(&self) -> Option<Arc<dyn Bell>> {
        None
    }

    /// Which database this is.
    fn kind(&self) -> StoreKind;
}

/// How replicas that share a database wake each other. A ring is a hint: it may come late or never, and
/// says nothing but that there may be something new in the log.
#[async_trait]
pub trait Bell: Send + Sync {
    /// Wakes the others.
    async fn ring(&self) -> Result<()>;

    /// Waits until another rang, or until a ring may have been lost.
    async fn heard(&self);
}

/// Ways into a database that do not wait for each other, where it has room for several writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Keeps what is held: waits for nothing but the rows it renews.
    Leases,
    /// Changes executions and providers.
    Changes,
    /// Claims.
    Claims,
}

/// A database that can be read as it stood at one moment, to be checked as a whole.
#[async_trait]
pub trait Snapshots: Backend {
    /// Everything as of now, whatever is committed meanwhile. Hold it only as long as needed: the
    /// database keeps what it shows.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;
}

/// A database as it stood at one moment.
#[async_trait]
pub trait Snapshot: Send {
    /// Where the log stood.
    async fn head(&mut self) -> Result<Head>;

    /// Entries of the log in revision order.
    async fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>>;

    /// Up to `limit` records with ids above `after`, in order of their ids.
    async fn records_page(&mut self, after: Option<ExecutionId>, limit: u32)
    -> Result<Vec<Record>>;

    /// Every provider, by name.
    async fn providers(&mut self) -> Result<Vec<ProviderRecord>>;
}

/// One transaction of the writer.
#[async_trait]
pub trait Transaction: Send {
    /// The present on the database's clock, if it has one of its own.
    async fn now(&mut self) -> Result<Option<Timestamp>>;

    /// Locks and reads the records of these ids that exist.
    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>>;

    /// Adds those of these providers that do not exist, in order of their names.
    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()>;

    /// Locks and reads these providers, those that exist, in order of their names.
    async fn lock_providers(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>>;

    /// Locks and reads those of these providers that a claim may get something of, in order of their
    /// names. May leave out, without waiting for it, one that had nothing to give a moment ago or that
    /// somebody holds.
    async fn lock_claimable(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        self.lock_providers(names).await
    }

    /// Locks and reads every provider whose gate is to be tried again by `now`: its pause is over, or
    /// the time for which it closed.
    async fn gates_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>>;

    /// How busy these providers are. Call after locking them: the count must be younger than the
    /// lock.
    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>>;

    /// Of each of these providers the first ready records, as many as are asked for, in the order
    /// they are to be claimed.
    async fn ready(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>>;

    /// Of each of these providers the first ready records that are claimed only to be stopped where
    /// their work may go on: cancelled, with a handle.
    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>>;

    /// Of each of these providers up to `limit` ready records that do not yet say they wait for its
    /// limit.
    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>>;

    /// Records whose time has come, up to `limit` of each sort.
    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due>;

    /// The earliest time at which `due` or `gates_due` will have something, leases apart.
    async fn next_due(&mut self) -> Result<Option<Timestamp>>;

    /// Running records that `worker` does not own.
    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>>;

    /// The executions first submitted under these request ids, with the hashes of their requests.
    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>>;

    /// What was submitted under these ids.
    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>>;

    /// Inserts new executions with their records.
    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()>;

    /// Writes records that changed.
    async fn put_records(&mut self, records: &[&Record]) -> Result<()>;

    /// Writes results.
    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()>;

    /// Writes providers that changed.
    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()>;

    /// Writes a worker, and forgets those not heard of since `forget`.
    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()>;

    /// Numbers `changes` and appends them to the log. The counter is the last lock a transaction
    /// takes.
    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended>;

    /// Makes it all durable.
    async fn commit(self: Box<Self>) -> Result<()>;
}

/// A change on its way into the log.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The provider concerned.
    pub provider: ProviderName,
    /// The execution that changed; `None` if the provider itself did.
    pub execution: Option<ExecutionId>,
    /// What changed.
    pub change: Change,
}

/// An entry of the log as those hear of it who need not know what was put out.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Position in the log.
    pub revision: i64,
    /// The provider concerned.
    pub provider: ProviderName,
    /// The execution that changed; `None` if the provider itself did.
    pub execution: Option<ExecutionId>,
    /// What changed; `None` if it is a piece of output, or another replica's claim.
    pub change: Option<Change>,
}

impl From<Event> for Notice {
    fn from(event: Event) -> Self {
        let Event { revision, provider, execution, change, .. } = event;
        let change = Some(change).filter(|change| !change.is_output());
        Self { revision, provider, execution, change }
    }
}

/// Where changes went in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The revision of the first.
    pub first: i64,
    /// When they were appended: never earlier than what the log has before them, if the database
    /// has a clock of its own.
    pub at: Timestamp,
}

/// An execution to be stored.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// What was submitted.
    pub spec: Arc<Spec>,
    /// Hash of the canonical request, to tell a repetition from a conflict.
    pub request_hash: String,
}

/// How busy a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Its running executions, over all workers.
    pub running: u32,
    /// Whether it has ready executions waiting.
    pub has_ready: bool,
    /// Whether some of them do not yet say that they wait for its limit.
    pub has_unmarked: bool,
    /// Its effective limit; 0 if it is unknown.
    pub limit: u32,
}

/// Records whose time has come.
#[derive(Debug, Default)]
pub struct Due {
    /// Scheduled or backing off, and due.
    pub promotable: Vec<Record>,
    /// Pending past their queue deadline.
    pub expired: Vec<Record>,
    /// Running on a lease that ended long enough ago.
    pub lost: Vec<Record>,
}

/// An execution as it was submitted, and everything that changed it since, output apart.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// What was submitted.
    pub spec: Arc<Spec>,
    /// Its own entries of the log, in order.
    pub log: Vec<Event>,
    /// Its result, as JSON text.
    pub output: Option<Arc<str>>,
}

impl History {
    /// The execution as it stood at `revision`; `None` before it was submitted.
    pub fn at(&self, revision: i64) -> Option<Execution> {
        let mut execution = Execution::unlogged(Arc::clone(&self.spec));
        let upto = self.log.iter().take_while(|event| event.revision <= revision);
        upto.for_each(|event| execution.apply(event));
        if execution.state.is_terminal() {
            execution.output.clone_from(&self.output);
        }
        (execution.revision > 0).then_some(execution)
    }
}

/// Whether a reader wants inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Leaves them out (inputs read as empty).
    Without,
    /// Brings them.
    With,
}

/// A page of executions.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Any of these; all if empty.
    pub providers: Vec<ProviderName>,
    /// Any of these; all if empty.
    pub states: Vec<State>,
    /// Every one of these.
    pub labels: BTreeMap<String, String>,
    /// Not before this.
    pub created_after: Option<Timestamp>,
    /// Before this.
    pub created_before: Option<Timestamp>,
    /// Only those that no later execution runs again.
    pub not_retried: bool,
    /// Only ids below this one.
    pub before: Option<ExecutionId>,
    /// At most this many.
    pub limit: u32,
}

/// A stretch of the log.
#[derive(Debug, Clone, Copy)]
pub struct EventQuery {
    /// Revisions above this one.
    pub after: i64,
    /// Of this execution only, its own changes and its provider's gate's; of everything if `None`.
    pub execution: Option<ExecutionId>,
    /// Whether pieces of output are wanted.
    pub output: bool,
    /// At most this many.
    pub limit: u32,
}

/// Where the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which life of the store; a restored or rebuilt one has another.
    pub epoch: String,
    /// The newest revision.
    pub revision: i64,
    /// The newest revision that is no longer held; 0 if all are.
    pub compacted: i64,
}

/// A provider with what it has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRow {
    /// Limits and gate.
    pub record: ProviderRecord,
    /// Running executions.
    pub running: u64,
    /// Pending executions, ready or not.
    pub pending: u64,
    /// When the execution that has been ready longest became due.
    pub oldest_ready: Option<Timestamp>,
    /// What all of its ended attempts consumed.
    pub usage: Usage,
}

impl ProviderRow {
    /// A provider that has nothing to do.
    pub fn idle(record: ProviderRecord) -> Self {
        Self { record, running: 0, pending: 0, oldest_ready: None, usage: Usage::default() }
    }
}

/// Figures over everything stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Executions ever submitted.
    pub submitted: u64,
    /// Pending now.
    pub pending: u64,
    /// Running now.
    pub running: u64,
    /// Ever succeeded.
    pub succeeded: u64,
    /// Ever failed.
    pub failed: u64,
    /// Ever cancelled.
    pub cancelled: u64,
    /// Bytes the store occupies.
    pub size_bytes: u64,
}

/// A worker as it last described itself.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRow {
    /// Its identity, fresh each boot.
    pub id: WorkerId,
    /// The machine it runs on.
    pub host: String,
    /// Its program's version.
    pub version: String,
    /// What it said it was doing.
    pub status: WorkerStatus,
    /// When it booted.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub heartbeat_at: Timestamp,
    /// Its figures, a JSON object.
    pub figures: serde_json::Value,
}

/// What a worker last said it was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerStatus {
    /// Claims executions.
    Serving,
    /// Shuts down: claims no more.
    Stopping,
    /// Has shut down in order.
    Stopped,
}

impl WorkerStatus {
    const ALL: [Self; 3] = [Self::Serving, Self::Stopping, Self::Stopped];

    /// Its name, as databases keep it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// The status of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// Which database a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// Embedded; one server at a time.
    Sqlite,
    /// PostgreSQL; any number of replicas.
    Postgres,
    /// In memory, for tests.
    Memory,
}

impl StoreKind {
    /// Its name, as in status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Memory => "memory",
        }
    }

    /// Whether one server has the store to itself, so that what others left running is abandoned.
    pub const fn is_exclusive(self) -> bool {
        match self {
            Self::Sqlite | Self::Memory => true,
            Self::Postgres => false,
        }
    }
}

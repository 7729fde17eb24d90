//! What goes into a database and comes out of it, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{
    Change, Event, Execution, ExecutionId, ProviderName, ProviderRecord, Record, Spec, State,
    Timestamp, Usage, WorkerId,
};

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
    /// What each point of priority is worth in the queue.
    pub head_start: Duration,
}

/// How busy a provider is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// Its running executions, over all workers.
    pub running: u32,
    /// Whether it has ready executions waiting.
    pub has_ready: bool,
    /// Whether some of them do not yet say that they wait for its limit.
    pub has_unmarked: bool,
    /// The `max_concurrent` in force; 0 if it is unknown.
    pub limit: u32,
    /// The most executions that may be pending, if there is such a bound.
    pub max_pending: Option<u32>,
    /// Models whose work waits in lanes of their own.
    pub models: BTreeSet<String>,
}

/// What is wanted of one of a provider's queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Whose.
    pub provider: ProviderName,
    /// Which: that of a model, or the common one.
    pub lane: String,
    /// At most so many.
    pub most: u32,
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

/// Which version the schema has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The newest migration that was run; `None` if there is no schema.
    pub found: Option<i64>,
    /// The newest migration known here.
    pub known: i64,
}

impl Schema {
    /// Whether it has all that is used here. A newer one has, too: migrations only expand.
    pub fn is_current(&self) -> bool {
        self.found.is_some_and(|found| found >= self.known)
    }
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
    /// Those of them that may start now.
    pub ready: u64,
    /// How many of these wait in lanes of models.
    pub ready_apart: u64,
    /// When the execution that has been ready longest became due.
    pub oldest_ready: Option<Timestamp>,
    /// What all of its ended attempts consumed.
    pub usage: Usage,
}

impl ProviderRow {
    /// How many of those that are ready nothing but the provider as a whole holds back. Where something
    /// holds back the work of some model, the work of all models with lanes is left out.
    pub fn ready_in_common(&self) -> u64 {
        let of_models = self.record.flow.holds().iter().any(|hold| hold.model.is_some());
        if of_models { self.ready.saturating_sub(self.ready_apart) } else { self.ready }
    }

    /// A provider that has nothing to do.
    pub fn idle(record: ProviderRecord) -> Self {
        Self {
            record,
            running: 0,
            pending: 0,
            ready: 0,
            ready_apart: 0,
            oldest_ready: None,
            usage: Usage::default(),
        }
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

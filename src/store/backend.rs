//! What a database must be able to do: few set-based statements inside one transaction, and reads
//! beside it. Everything that decides anything is above this trait.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Appended, BackendError, Due, EventQuery, Head, History, ListQuery, Load, Logged, NewExecution,
    Notice, Payload, Pick, ProviderRow, Schema, StoreKind, Totals, WorkerRow,
};
use crate::domain::{
    Event, ExecutionId, ProviderName, ProviderRecord, Record, Spec, Timestamp, WorkerId,
};

type Result<T> = std::result::Result<T, BackendError>;

/// How far a place in a queue is counted.
pub const FARTHEST_AHEAD: u32 = 100_000;

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

    /// The changes of a provider's limits below the revision `before`, newest first.
    async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>>;

    /// Providers of which executions are ready.
    async fn waiting(&self) -> Result<Vec<ProviderName>>;

    /// How many executions are to be claimed before this one in its queue, counted no further than
    /// [`FARTHEST_AHEAD`]; `None` unless it is ready.
    async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>>;

    /// Where the log stands.
    async fn head(&self) -> Result<Head>;

    /// Which version the schema has now, whatever it was when the store was opened. An error also where the
    /// store is no longer the one that was opened. Cheap enough for every second.
    async fn schema(&self) -> Result<Schema> {
        Ok(Schema { found: Some(0), known: 0 })
    }

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

impl Lane {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leases => "leases",
            Self::Changes => "changes",
            Self::Claims => "claims",
        }
    }
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

    /// Locks and reads every provider of which something is due by `now`: its pause is over, or the time
    /// for which its gate closed, or that for which its limits were set.
    async fn providers_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>>;

    /// How busy these providers are. Call after locking them: the count must be younger than the
    /// lock.
    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>>;

    /// How many executions of this provider are pending; counted no further than `most`.
    async fn pending(&mut self, provider: &ProviderName, most: u32) -> Result<u64>;

    /// Of each of these queues the first ready records, as many as are asked for, in the order
    /// they are to be claimed.
    async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>>;

    /// Of each of these providers the first ready records that are claimed only to be stopped where
    /// their work may go on: cancelled, with a handle.
    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>>;

    /// Of each of these providers up to `limit` ready records that do not yet say they wait for its
    /// limit.
    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>>;

    /// Records whose time has come, up to `limit` of each sort.
    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due>;

    /// The earliest time at which `due` or `providers_due` will have something, leases apart.
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

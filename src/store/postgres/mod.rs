//! PostgreSQL, shared by any number of equal replicas.
//!
//! What must stay true: every transaction is READ COMMITTED, locks before it counts, and takes the log's
//! counter last; nothing waits without an end; a replica that is frozen or gone holds no lock for long;
//! and all of it works through a pooler that hands out connections by the transaction.

mod bell;
mod connect;
mod copy;
mod import;
mod outcome;
mod read;
mod readers;
mod rows;
mod schema;
mod statements;
mod transaction;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use tokio::sync::Mutex;

use super::{
    Backend, BackendError, Bell, EventQuery, Head, History, Lane, ListQuery, Notice, Payload,
    ProviderRow, Schema, Snapshot, Snapshots, StoreKind, Totals, Transaction, WorkerRow,
};
use crate::domain::{Event, ExecutionId, ProviderName};
use bell::PgBell;
use connect::Address;
use readers::{Readers, Source};
use transaction::PgTransaction;

pub use connect::{ClockSource, Listen, PostgresOptions};
pub(super) use import::{Import, analyze, connect_to_import};
pub(crate) use schema::migrate;

type Result<T> = std::result::Result<T, BackendError>;

/// How many reads go on at the same time: of clients, and of what keeps replicas going.
const READERS: u32 = 5;
const CONTROL_READERS: u32 = 2;

/// A connection that is made when it is first needed, and again when it broke.
type Slot = Arc<Mutex<Option<PgConnection>>>;

/// PostgreSQL.
pub struct PostgresBackend {
    address: Arc<Address>,
    clock: ClockSource,
    leases: Slot,
    changes: Slot,
    claims: Slot,
    /// For clients.
    readers: Readers,
    /// For what keeps replicas going, which no client is to hold up.
    control: Readers,
    bell: Arc<PgBell>,
}

impl PostgresBackend {
    /// Connects for serving, and brings the schema up to date.
    pub async fn open(options: &PostgresOptions) -> Result<Self> {
        let backend = Self::new(options)?;
        let mut connection = backend.address.connect().await?;
        migrate(&mut connection).await?;
        Ok(backend)
    }

    /// Connects beside replicas that may be using it, for reading only.
    pub async fn open_beside(options: &PostgresOptions) -> Result<Self> {
        let backend = Self::new(options)?;
        backend.head().await?;
        Ok(backend)
    }

    fn new(options: &PostgresOptions) -> Result<Self> {
        let address = Arc::new(Address::new(options)?);
        let readers = Readers::new(Arc::clone(&address), READERS);
        let control = Readers::new(Arc::clone(&address), CONTROL_READERS);
        let bell = Arc::new(PgBell::new(Arc::clone(&address), options)?);
        let (leases, changes, claims) = Default::default();
        Ok(Self { address, clock: options.clock, leases, changes, claims, readers, control, bell })
    }
}

/// Names what was being done when a statement failed.
fn statement(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BackendError {
    move |source| BackendError::Statement { doing, source }
}

#[async_trait]
impl Backend for PostgresBackend {
    async fn begin(&self, lane: Lane) -> Result<Box<dyn Transaction>> {
        let slot = match lane {
            Lane::Leases => &self.leases,
            Lane::Changes => &self.changes,
            Lane::Claims => &self.claims,
        };
        let patience = match lane {
            // The work of a lease that is not renewed in time is stopped: another try may be in time.
            Lane::Leases => self.address.patience.short_answer,
            Lane::Changes | Lane::Claims => self.address.patience.answer,
        };
        let slot = Arc::clone(slot).lock_owned().await;
        let address = Arc::clone(&self.address);
        Ok(Box::new(PgTransaction::begin(slot, address, self.clock, patience).await?))
    }

    async fn close(&self) -> Result<()> {
        // Nothing is kept here that the server does not have.
        Ok(())
    }

    async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>> {
        read::histories(&self.readers, ids, payload).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>> {
        read::list(&self.readers, query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        read::events(Source::Pool(&self.readers), query).await
    }

    async fn notices(&self, after: i64, limit: u32) -> Result<Vec<Notice>> {
        read::notices(&self.control, after, limit).await
    }

    async fn claimable(&self, names: Vec<ProviderName>) -> Result<Vec<ProviderName>> {
        read::claimable(&self.control, &names).await
    }

    async fn gate_at(&self, provider: &ProviderName, revision: i64) -> Result<Option<Event>> {
        read::gate_at(&self.readers, provider, revision).await
    }

    async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>> {
        read::limit_changes(&self.readers, provider, before, limit).await
    }

    async fn waiting(&self) -> Result<Vec<ProviderName>> {
        read::waiting(&self.control).await
    }

    async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>> {
        read::ahead_of(&self.readers, id).await
    }

    async fn head(&self) -> Result<Head> {
        read::head(Source::Pool(&self.control)).await
    }

    async fn schema(&self) -> Result<Schema> {
        schema::version(&self.control).await
    }

    async fn providers(&self) -> Result<Vec<ProviderRow>> {
        read::providers(&self.readers).await
    }

    async fn totals(&self) -> Result<Totals> {
        read::totals(&self.readers).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        read::workers(&self.control).await
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        Some(Arc::clone(&self.bell) as Arc<dyn Bell>)
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }
}

#[async_trait]
impl Snapshots for PostgresBackend {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(self.readers.snapshot().await?))
    }
}

//! Connections that read: a pool of them, or the one that holds a snapshot.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;

use super::connect::Address;
use super::{read, statement};
use crate::domain::{Event, ExecutionId, ProviderRecord, Record};
use crate::store::codec::{self, provider_columns, record_columns};
use crate::store::{BackendError, EventQuery, Head, Snapshot};

type Result<T> = std::result::Result<T, BackendError>;

/// Makes a statement, as often as it has to be sent.
pub(super) type Make<'m, 'q> = &'m (dyn Fn() -> Query<'q, Postgres, PgArguments> + Sync);

/// Where a statement that only reads can be sent.
pub(super) enum Source<'a> {
    Pool(&'a Readers),
    Snapshot(&'a mut PgSnapshot),
}

impl Source<'_> {
    pub(super) async fn rows(
        &mut self,
        doing: &'static str,
        query: Make<'_, '_>,
    ) -> Result<Vec<PgRow>> {
        match self {
            Self::Pool(readers) => readers.rows(doing, query).await,
            Self::Snapshot(snapshot) => snapshot.rows(doing, query).await,
        }
    }
}

/// The pool.
#[derive(Clone)]
pub(super) struct Readers {
    pool: PgPool,
    connections: u32,
    address: Arc<Address>,
}

impl Readers {
    pub(super) fn new(address: Arc<Address>, connections: u32) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(address.patience.connect)
            // A broken connection shows when it is used.
            .test_before_acquire(false)
            .connect_lazy_with(address.options().clone());
        Self { pool, connections, address }
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(statement("connect to the store for reading"))
    }

    /// Reads; again if the connection broke, as all of them may have while they were idle.
    pub(super) async fn rows(
        &self,
        doing: &'static str,
        query: Make<'_, '_>,
    ) -> Result<Vec<PgRow>> {
        for _ in 0..self.connections {
            match self.rows_once(doing, query()).await {
                Err(error) if error.is_lost_connection() => {}
                rows => return rows,
            }
        }
        self.rows_once(doing, query()).await
    }

    async fn rows_once(
        &self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let connection = self.connection().await?;
        // One whose reader goes away half-way may be left inside a transaction.
        let mut reading = Reading { connection, spoiled: self.address.pooled };
        let rows = self.rows_on(&mut reading.connection, doing, query).await;
        reading.spoiled = rows.is_err();
        rows
    }

    async fn rows_on(
        &self,
        connection: &mut PoolConnection<Postgres>,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        if !self.address.pooled {
            return self.address.answer(doing, query.fetch_all(&mut **connection)).await;
        }
        // What is prepared must be run on the connection it was prepared on.
        let begin = sqlx::raw_sql(self.address.begin_reading()).execute(&mut **connection);
        self.address.answer(doing, begin).await?;
        let query = self.address.prepared(query);
        let rows = self.address.answer(doing, query.fetch_all(&mut **connection)).await?;
        let commit = sqlx::raw_sql("COMMIT").execute(&mut **connection);
        self.address.answer(doing, commit).await?;
        Ok(rows)
    }

    pub(super) async fn snapshot(&self) -> Result<PgSnapshot> {
        let mut connection = self.connection().await?;
        connection.close_on_drop();
        let begin = sqlx::raw_sql(self.address.begin_reading()).execute(&mut *connection);
        self.address.answer("begin to read", begin).await?;
        let mut snapshot = PgSnapshot { connection, address: Arc::clone(&self.address) };
        // The moment is that of the first read, not of the BEGIN.
        snapshot.head().await?;
        Ok(snapshot)
    }
}

/// A connection in use. A spoiled one is closed instead of being used again: what it is in the middle
/// of ends with it.
struct Reading {
    connection: PoolConnection<Postgres>,
    spoiled: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.spoiled {
            self.connection.close_on_drop();
        }
    }
}

/// A reading transaction that keeps seeing what it saw first, and blocks nobody. Its connection is
/// closed after it.
pub(super) struct PgSnapshot {
    connection: PoolConnection<Postgres>,
    address: Arc<Address>,
}

impl PgSnapshot {
    async fn rows(&mut self, doing: &'static str, query: Make<'_, '_>) -> Result<Vec<PgRow>> {
        let query = self.address.prepared(query());
        self.address.answer(doing, query.fetch_all(&mut *self.connection)).await
    }
}

const RECORDS_PAGE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ($1::uuid IS NULL OR id > $1)
    ORDER BY id
    LIMIT $2"
);

const PROVIDERS: &str = concat!("SELECT ", provider_columns!(), " FROM providers ORDER BY name");

#[async_trait]
impl Snapshot for PgSnapshot {
    async fn head(&mut self) -> Result<Head> {
        read::head(Source::Snapshot(self)).await
    }

    async fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>> {
        read::events(Source::Snapshot(self), query).await
    }

    async fn records_page(
        &mut self,
        after: Option<ExecutionId>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        let after = after.map(uuid::Uuid::from);
        let query = || sqlx::query(RECORDS_PAGE).bind(after).bind(i64::from(limit));
        self.rows("read records", &query).await?.iter().map(codec::record).collect()
    }

    async fn providers(&mut self) -> Result<Vec<ProviderRecord>> {
        let rows = self.rows("read providers", &|| sqlx::query(PROVIDERS)).await?;
        rows.iter().map(codec::provider).collect()
    }
}

//! The database as it stood when a reading transaction began.

use async_trait::async_trait;
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePool;

use super::{read, statement};
use crate::domain::{Event, ExecutionId, ProviderRecord, Record};
use crate::store::codec::{self, provider_columns, record_columns};
use crate::store::{BackendError, EventQuery, Head, Snapshot};

type Result<T> = std::result::Result<T, BackendError>;

const RECORDS_PAGE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE id > coalesce(?1 ->> 0, '')
    ORDER BY id
    LIMIT ?1 ->> 1"
);

const PROVIDERS: &str = concat!("SELECT ", provider_columns!(), " FROM providers ORDER BY name");

/// A reading transaction: in WAL mode it keeps seeing what it saw first, and blocks nobody.
pub(super) struct SqliteSnapshot(sqlx::Transaction<'static, Sqlite>);

impl SqliteSnapshot {
    pub(super) async fn begin(readers: &SqlitePool) -> Result<Self> {
        let mut snapshot = Self(readers.begin().await.map_err(statement("begin to read"))?);
        // The moment is that of the first read, not of the BEGIN.
        snapshot.head().await?;
        Ok(snapshot)
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn head(&mut self) -> Result<Head> {
        read::head(&mut *self.0).await
    }

    async fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>> {
        read::events(&mut *self.0, query).await
    }

    async fn records_page(
        &mut self,
        after: Option<ExecutionId>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        let page = (after, limit);
        let rows = read::rows(&mut *self.0, "read records", RECORDS_PAGE, &page).await?;
        rows.iter().map(codec::record).collect()
    }

    async fn providers(&mut self) -> Result<Vec<ProviderRecord>> {
        let rows = read::rows(&mut *self.0, "read providers", PROVIDERS, &()).await?;
        rows.iter().map(codec::provider).collect()
    }
}

//! A whole store on its way into PostgreSQL, in one transaction.
//!
//! What must stay true: nothing of it is seen before all of it is there, and nobody else writes
//! meanwhile: the schema's lock is held to the end, so that a replica that starts waits for it, and
//! so are locks on the tables.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgCopyIn};
use sqlx::{AssertSqlSafe, Connection as _, Postgres, SqlSafeStr};

use super::copy::Rows;
use super::{connect, migrate, statement};
use crate::store::BackendError;
use crate::store::transfer::{CENSUS, Cell, Census, ENTRY, Entry, TABLES, Table};

type Result<T> = std::result::Result<T, BackendError>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is sent at once, or one row.
const PIECE_BYTES: usize = 256 * 1024;

/// Connects to the database that a store is to be moved into.
pub(in crate::store) async fn connect_to_import(url: &str) -> Result<PgConnection> {
    let options = connect::parse(url)?.application_name("flowgate migrate");
    connect::connect(&options, CONNECT_TIMEOUT).await
}

/// Tells the planner what has arrived, so that the first claims need not guess. If it cannot be
/// told, it finds out by itself before long.
pub(in crate::store) async fn analyze(connection: &mut PgConnection) {
    let analyze = AssertSqlSafe(format!("ANALYZE {}", names()));
    if let Err(error) = sqlx::raw_sql(analyze).execute(connection).await {
        tracing::debug!(%error, "cannot analyze what was moved");
    }
}

// The default of a role or a database may be meant for short transactions, or for ones that may be
// lost. Whoever holds a table for longer than this is at work in it.
const SETTINGS: &str = "
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL lock_timeout = '30s';
    SET LOCAL synchronous_commit = on";

/// Every table, in the order in which writers lock them.
fn names() -> String {
    TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ")
}

/// The transaction. Dropped without a commit, it leaves nothing, not even a schema.
pub(in crate::store) struct Import<'c>(sqlx::Transaction<'c, Postgres>);

impl<'c> Import<'c> {
    /// Begins, and brings the schema up to date.
    pub(in crate::store) async fn begin(connection: &'c mut PgConnection) -> Result<Self> {
        let begin = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
        let mut import = Self(begin.await.map_err(statement("begin a transaction"))?);
        import.execute("set up the transaction", SETTINGS).await?;
        migrate(&mut import.0).await?;
        Ok(import)
    }

    /// Counts what there is.
    pub(in crate::store) async fn census(&mut self) -> Result<Census> {
        // Not under a name: a pooler may have handed out its session before.
        let census = sqlx::query_as(CENSUS).persistent(false).fetch_one(&mut *self.0);
        census.await.map_err(statement("count what there is"))
    }

    /// The entry of the log at this revision.
    pub(in crate::store) async fn entry(&mut self, revision: i64) -> Result<Option<Entry>> {
        let entry = sqlx::query_as(ENTRY).bind(revision).persistent(false);
        let entry = entry.fetch_optional(&mut *self.0);
        entry.await.map_err(statement("read the log"))
    }

    /// Keeps everybody else out of the tables until the end.
    pub(in crate::store) async fn lock(&mut self) -> Result<()> {
        let lock = AssertSqlSafe(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", names()));
        self.execute("lock the tables", lock).await
    }

    /// Forgets the epoch that the schema came with.
    pub(in crate::store) async fn clear(&mut self) -> Result<()> {
        self.execute("clear the epoch", "DELETE FROM meta").await
    }

    /// Begins to write a table.
    pub(in crate::store) async fn copy(&mut self, table: &'static Table) -> Result<Copy<'_>> {
        let sink = self.0.copy_in_raw(table.write).await.map_err(statement("write a table"))?;
        Ok(Copy { sink, document: table.document, rows: Rows::default() })
    }

    /// Makes it all durable, and seen. Where the answer is lost, a second run will tell.
    pub(in crate::store) async fn commit(self) -> Result<()> {
        let committed = self.0.commit().await.map_err(statement("commit"));
        committed.map_err(|error| match error.is_lost_connection() {
            true => BackendError::CommitUnknown(Box::new(error)),
            false => error,
        })
    }

    async fn execute(&mut self, doing: &'static str, sql: impl SqlSafeStr) -> Result<()> {
        sqlx::raw_sql(sql).execute(&mut *self.0).await.map_err(statement(doing)).map(drop)
    }
}

/// A table that is being written.
pub(in crate::store) struct Copy<'c> {
    sink: PgCopyIn<&'c mut PgConnection>,
    document: Option<usize>,
    rows: Rows,
}

/// What arrived in a table.
pub(in crate::store) struct Arrived {
    /// As many rows.
    pub(in crate::store) rows: u64,
    /// Characters U+0000 that were replaced in them.
    pub(in crate::store) replaced: u64,
}

impl Copy<'_> {
    /// Adds a row.
    pub(in crate::store) async fn row(&mut self, cells: &[Option<Cell<'_>>]) -> Result<()> {
        self.rows.add(cells, self.document);
        if self.rows.bytes.len() >= PIECE_BYTES { self.send().await } else { Ok(()) }
    }

    /// Ends the table.
    pub(in crate::store) async fn finish(mut self) -> Result<Arrived> {
        self.send().await?;
        let rows = self.sink.finish().await.map_err(statement("write a table"))?;
        Ok(Arrived { rows, replaced: self.rows.replaced })
    }

    async fn send(&mut self) -> Result<()> {
        let sent = self.sink.send(&self.rows.bytes[..]).await;
        sent.map_err(statement("send a part of a table"))?;
        self.rows.bytes.clear();
        Ok(())
    }
}

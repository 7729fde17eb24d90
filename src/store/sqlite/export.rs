//! Everything in the embedded database, to be taken elsewhere.
//!
//! What must stay true: no server has the file open meanwhile, and nothing in it is changed but
//! that its schema is brought up to date, as a server would do. What is no store is not touched.

use std::fs::File;
use std::path::Path;

use futures_util::stream::{BoxStream, StreamExt as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{
    ConnectOptions as _, Connection as _, Decode, Row as _, Sqlite, TypeInfo as _, ValueRef as _,
};

use super::{lock, migrate, statement, writing};
use crate::store::BackendError;
use crate::store::codec::corrupt;
use crate::store::transfer::{CENSUS, Cell, Census, ENTRY, Entry, Table};

type Result<T> = std::result::Result<T, BackendError>;

/// Rows that are read ahead: few, for each may hold an input or a result of 16 MiB.
const ROWS_AHEAD: usize = 4;

/// A store that nobody else has open, seen as of one moment.
pub(in crate::store) struct Export {
    connection: SqliteConnection,
    _lock: File,
}

impl Export {
    /// Takes the store in this file, if there is one and no server uses it.
    pub(in crate::store) async fn open(path: &Path) -> Result<Self> {
        let open = |source| BackendError::Open { path: path.to_owned(), source };
        // Taking the lock would create it, and opening it as a store would make it one.
        std::fs::metadata(path).map_err(open)?;
        refuse_unless_a_store(path).await?;
        let lock = lock(path)?;
        let options = writing(path).create_if_missing(false).row_buffer_size(ROWS_AHEAD);
        let mut connection = options.connect().await.map_err(statement("open the store"))?;
        migrate(&mut connection).await?;
        sqlx::raw_sql("BEGIN")
            .execute(&mut connection)
            .await
            .map_err(statement("begin to read"))?;
        Ok(Self { connection, _lock: lock })
    }

    /// Counts what there is.
    pub(in crate::store) async fn census(&mut self) -> Result<Census> {
        let census = sqlx::query_as(CENSUS).fetch_one(&mut self.connection);
        census.await.map_err(statement("count what there is"))
    }

    /// The entry of the log at this revision.
    pub(in crate::store) async fn entry(&mut self, revision: i64) -> Result<Option<Entry>> {
        let entry = sqlx::query_as(ENTRY).bind(revision).fetch_optional(&mut self.connection);
        entry.await.map_err(statement("read the log"))
    }

    /// Every row of a table, one after the other.
    pub(in crate::store) fn rows(&mut self, table: &Table) -> BoxStream<'_, Result<SqliteRow>> {
        let rows = sqlx::query(table.read).fetch(&mut self.connection);
        rows.map(|row| row.map_err(statement("read a table"))).boxed()
    }

    /// What is in a row: `None` where it is NULL.
    pub(in crate::store) fn cells(row: &SqliteRow) -> Result<Vec<Option<Cell<'_>>>> {
        (0..row.len()).map(|column| cell(row, column)).collect()
    }

    /// Leaves everything in the one file.
    pub(in crate::store) async fn close(self) -> Result<()> {
        self.connection.close().await.map_err(statement("close the store"))
    }
}

fn cell(row: &SqliteRow, column: usize) -> Result<Option<Cell<'_>>> {
    let unreadable = |error| corrupt("a column", error);
    let value = row.try_get_raw(column).map_err(|error| corrupt("a column", error))?;
    if value.is_null() {
        return Ok(None);
    }
    let cell = match value.type_info().name() {
        "INTEGER" => Cell::Int(Decode::<Sqlite>::decode(value).map_err(unreadable)?),
        "TEXT" => Cell::Text(Decode::<Sqlite>::decode(value).map_err(unreadable)?),
        other => return Err(corrupt("a column", format_args!("it holds a {other}"))),
    };
    Ok(Some(cell))
}

/// Looks before anything is written, beside a server if there is one.
async fn refuse_unless_a_store(path: &Path) -> Result<()> {
    const TABLES_OF_A_STORE: &str = "
        SELECT count(*)
        FROM sqlite_schema
        WHERE name IN ('_sqlx_migrations', 'meta', 'events', 'records')";
    let doing = "look into the file";
    let options =
        SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    let mut connection = options.connect().await.map_err(statement(doing))?;
    let found: i64 = sqlx::query_scalar(TABLES_OF_A_STORE)
        .fetch_one(&mut connection)
        .await
        .map_err(statement(doing))?;
    connection.close().await.map_err(statement(doing))?;
    if found == 4 { Ok(()) } else { Err(BackendError::NotAStore(path.to_owned())) }
}

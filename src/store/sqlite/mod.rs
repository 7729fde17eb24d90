//! The embedded database: one file, one server, one writing connection.
//!
//! What must stay true: the file is locked by at most one server; writes begin with
//! `BEGIN IMMEDIATE`, so that what a claim counts is younger than its lock; commits are durable
//! (`synchronous = FULL`) before they are answered.

mod export;
mod read;
mod rows;
mod snapshot;
mod statements;
mod transaction;

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::ConnectOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::Mutex;

use super::{
    Backend, BackendError, EventQuery, Head, History, Lane, ListQuery, Payload, ProviderRow,
    Schema, Snapshot, Snapshots, StoreKind, Totals, Transaction, WorkerRow,
};
use crate::domain::{Event, ExecutionId, ProviderName};
pub(super) use export::Export;
use snapshot::SqliteSnapshot;
use transaction::SqliteTransaction;

type Result<T> = std::result::Result<T, BackendError>;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// Connections that read beside the writer, for whoever asks for much.
const READERS: u32 = 4;

/// The embedded database.
#[derive(Debug)]
pub struct SqliteBackend {
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    /// For what takes no time and tells whether the store answers: no long list is to hold that up.
    control: SqlitePool,
    file: OpenedFile,
    /// Held as long as the server lives; the system lets go of it when the process ends.
    _lock: Option<File>,
}

impl SqliteBackend {
    /// Opens the file for serving, creating and migrating it as needed.
    pub async fn open(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let options = writing(path);
        let mut writer = options.connect().await.map_err(statement("open the store"))?;
        migrate(&mut writer).await?;
        let options = options.create_if_missing(false).read_only(true);
        let readers = reading(options.clone(), READERS).await?;
        let control = reading(options, 1).await?;
        let file = OpenedFile::at(path)?;
        let writer = Arc::new(Mutex::new(writer));
        Ok(Self { writer, readers, control, file, _lock: Some(lock) })
    }

    /// Opens the file beside a server that may be using it, for reading only.
    pub async fn open_beside(path: &Path) -> Result<Self> {
        let options =
            SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
        let writer = options.connect().await.map_err(statement("open the store"))?;
        let readers = reading(options.clone(), 1).await?;
        let control = reading(options, 1).await?;
        let file = OpenedFile::at(path)?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)), readers, control, file, _lock: None })
    }
}

/// So many connections that read.
async fn reading(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .map_err(statement("open the store for reading"))
}

/// How the file is opened by whoever has its lock.
fn writing(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .pragma("wal_autocheckpoint", "4000")
        .pragma("temp_store", "memory")
        .disable_statement_logging()
}

/// Takes the lock file beside the database, so that two servers never share one.
///
/// Its name follows the file itself, not the way it was named: through a link it is the same lock.
fn lock(path: &Path) -> Result<File> {
    let open = |source| BackendError::Open { path: path.to_owned(), source };
    if !path.exists() {
        // Through a link too. One that is there is not opened: SQLite's own locks on the file would
        // go when it is closed.
        File::options().create(true).append(true).open(path).map_err(open)?;
    }
    if std::fs::metadata(path).map_err(open)?.nlink() > 1 {
        return Err(BackendError::HardLinked(path.to_owned()));
    }
    let mut name = path.canonicalize().map_err(open)?.into_os_string();
    name.push(".lock");
    let name = PathBuf::from(name);
    let open = |source| BackendError::Open { path: name.clone(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(&name).map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BackendError::Locked(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(open(source)),
    }
}

async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    let known = known();
    match MIGRATIONS.run(connection).await {
        Ok(()) => Ok(()),
        Err(sqlx::migrate::MigrateError::VersionMissing(found)) if found > known => {
            Err(BackendError::SchemaTooNew { found, known })
        }
        Err(error) => Err(BackendError::Migrate(error)),
    }
}

fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Which file was opened. One that is removed lives on, but only as long as it is open.
#[derive(Debug)]
struct OpenedFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl OpenedFile {
    /// The size of what is committed and not yet in the file itself.
    fn log_bytes(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        std::fs::metadata(log).map_or(0, |log| log.len())
    }

    fn at(path: &Path) -> Result<Self> {
        let open = |source| BackendError::Open { path: path.to_owned(), source };
        Ok(Self { path: path.to_owned(), identity: Self::identity(path).map_err(open)? })
    }

    fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
        std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
    }

    /// Whether its name still leads to it.
    fn is_there(&self) -> Result<()> {
        match Self::identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) | Err(_) => Err(BackendError::FileGone(self.path.clone())),
        }
    }
}

/// The span of a statement.
fn span(doing: &'static str) -> tracing::Span {
    super::span::statement(StoreKind::Sqlite, doing)
}

/// Names what was being done when a statement failed.
fn statement(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BackendError {
    move |source| BackendError::Statement { doing, source }
}

#[async_trait]
impl Backend for SqliteBackend {
    async fn close(&self) -> Result<()> {
        let mut writer = self.writer.lock().await;
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut *writer)
            .await
            .map_err(statement("empty the write-ahead log"))
            .map(drop)
    }

    async fn begin(&self, _: Lane) -> Result<Box<dyn Transaction>> {
        let mut connection = Arc::clone(&self.writer).lock_owned().await;
        transaction::begin(&mut connection).await?;
        Ok(Box::new(SqliteTransaction::new(connection)))
    }

    async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>> {
        read::histories(&self.readers, ids, payload).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>> {
        read::list(&self.readers, query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        read::events(&self.readers, query).await
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
        read::waiting(&self.readers).await
    }

    async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>> {
        read::ahead_of(&self.readers, id).await
    }

    async fn head(&self) -> Result<Head> {
        read::head(&self.control).await
    }

    async fn schema(&self) -> Result<Schema> {
        self.file.is_there()?;
        let found = read::schema_version(&self.control).await?;
        Ok(Schema { found, known: known() })
    }

    async fn providers(&self) -> Result<Vec<ProviderRow>> {
        read::providers(&self.readers).await
    }

    async fn totals(&self) -> Result<Totals> {
        let mut totals = read::totals(&self.readers).await?;
        totals.size_bytes += self.file.log_bytes();
        Ok(totals)
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        read::workers(&self.readers).await
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Sqlite
    }
}

#[async_trait]
impl Snapshots for SqliteBackend {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(SqliteSnapshot::begin(&self.readers).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_reads_do_not_keep_the_store_from_saying_that_it_is_well() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("flowgate.db");
        let backend = SqliteBackend::open(&path).await.expect("it opens");
        let mut lists = Vec::new();
        for _ in 0..READERS {
            lists.push(backend.readers.acquire().await.expect("there are that many"));
        }
        assert!(backend.readers.try_acquire().is_none(), "all are taken");
        assert!(backend.schema().await.is_ok_and(|schema| schema.is_current()));
        assert!(backend.head().await.is_ok());
        drop(lists);
    }
}

//! Which database a test runs on, and where its store is in it.
//!
//! Every test that touches the store through a server or the engine runs on both databases; where
//! one does not, its module says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowgate::store::{Backend, ClockSource, PostgresBackend, PostgresOptions, SqliteBackend};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use super::postgres::Database;

/// Makes two tests of each function listed, one for every database: `name::sqlite` and
/// `name::postgres`.
///
/// ```ignore
/// on_both! {
///     #[tokio::test]
///     what_was_acknowledged_survives_a_kill;
/// }
///
/// async fn what_was_acknowledged_survives_a_kill(db: Db) {}
/// ```
macro_rules! on_both {
    ($(#[$test:meta] $name:ident;)+) => {
        $(mod $name {
            #[$test]
            async fn sqlite() {
                super::$name(crate::support::Db::Sqlite).await;
            }

            #[$test]
            async fn postgres() {
                super::$name(crate::support::Db::Postgres).await;
            }
        })+
    };
}
pub(crate) use on_both;

/// Makes a test of each function listed that means nothing on another database: `name::postgres`.
macro_rules! on_postgres {
    ($(#[$test:meta] $name:ident;)+) => {
        $(mod $name {
            #[$test]
            async fn postgres() {
                super::$name().await;
            }
        })+
    };
}
pub(crate) use on_postgres;

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Db {
    Sqlite,
    Postgres,
}

/// Where one store is. It is gone with the last of its clones.
#[derive(Clone)]
pub(crate) enum StoreHome {
    /// A file, in a folder of its own unless the test has another.
    Sqlite {
        file: PathBuf,
        _own_folder: Option<Arc<TempDir>>,
    },
    Postgres(Arc<Database>),
}

impl StoreHome {
    /// A home for a new store.
    pub(crate) async fn new(db: Db) -> Self {
        match db {
            Db::Sqlite => {
                let dir = TempDir::new().unwrap();
                Self::Sqlite { file: file_in(dir.path()), _own_folder: Some(Arc::new(dir)) }
            }
            Db::Postgres => Self::Postgres(Arc::new(Database::new().await)),
        }
    }

    /// The same, but a file lies in `dir`.
    pub(crate) async fn within(dir: &Path, db: Db) -> Self {
        match db {
            Db::Sqlite => Self::Sqlite { file: file_in(dir), _own_folder: None },
            Db::Postgres => Self::new(db).await,
        }
    }

    /// As `--store` takes it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite { file, .. } => format!("sqlite://{}", file.display()),
            Self::Postgres(database) => database.url(),
        }
    }

    /// The store, opened for serving in this process.
    pub(crate) async fn open(&self) -> Arc<dyn Backend> {
        match self {
            Self::Sqlite { file, .. } => Arc::new(SqliteBackend::open(file).await.unwrap()),
            Self::Postgres(database) => open_postgres(&database.url()).await,
        }
    }

    /// The store, opened for reading beside a server that may be using it.
    pub(crate) async fn open_beside(&self) -> Arc<dyn Backend> {
        match self {
            Self::Sqlite { file, .. } => Arc::new(SqliteBackend::open_beside(file).await.unwrap()),
            Self::Postgres(database) => open_postgres(&database.url()).await,
        }
    }

    /// Runs a statement behind the back of whoever serves the store, and tells how many rows it
    /// touched.
    pub(crate) async fn execute(&self, sql: impl sqlx::SqlSafeStr) -> u64 {
        let sql = sql.into_sql_str();
        match self {
            Self::Sqlite { file, .. } => {
                let mut connection = SqliteConnectOptions::new().filename(file).connect().await;
                let connection = connection.as_mut().expect("the file is there");
                sqlx::query(sql).execute(connection).await.expect("it can be run").rows_affected()
            }
            Self::Postgres(database) => {
                let mut connection = database.connect().await;
                let done = sqlx::query(sql).execute(&mut connection).await;
                done.expect("it can be run").rows_affected()
            }
        }
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("flowgate.db")
}

/// A PostgreSQL store on the clock that the test hands to the store, not on the database's own.
async fn open_postgres(url: &str) -> Arc<dyn Backend> {
    let options = PostgresOptions { clock: ClockSource::Injected, ..PostgresOptions::new(url) };
    Arc::new(PostgresBackend::open(&options).await.unwrap())
}

//! What can go wrong with the store itself; what can be wrong with a request is in the answers.

use std::error::Error;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::postgres::PgDatabaseError;

/// An operation could not be carried out; nothing of it is stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database failed; it may work again later.
    #[error("the store is unavailable")]
    Unavailable(#[source] Arc<BackendError>),
    /// The writer has stopped: the server is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl From<BackendError> for StoreError {
    fn from(error: BackendError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// A database said no.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A statement failed.
    #[error("cannot {doing}")]
    Statement {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// The database did not answer in time.
    #[error("cannot {0}: the database does not answer")]
    NoAnswer(&'static str),
    /// The connection was lost during a commit, and whether it was done cannot be found out.
    #[error("it is not known whether a commit was done")]
    CommitUnknown(#[source] Box<BackendError>),
    /// A row holds something this version cannot read.
    #[error("cannot read {what} from the store: {why}")]
    Corrupt {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The schema could not be brought up to date.
    #[error("cannot migrate the store")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The store was written by a newer version.
    #[error("the store has schema version {found}, this program knows versions up to {known}")]
    SchemaTooNew {
        /// Its version.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// The database's server is older than what this program was made for.
    #[error("the database is PostgreSQL {found}, this program needs {needed} or newer")]
    ServerTooOld {
        /// Its major version.
        found: u32,
        /// The oldest one that will do.
        needed: u32,
    },
    /// Another server has the file open.
    #[error("another server is using {0}")]
    Locked(PathBuf),
    /// The file has a second name, under which another server could use it unnoticed.
    #[error("{0} has hard links: a store must have one name only")]
    HardLinked(PathBuf),
    /// The file is something else.
    #[error("{0} is not a store of Flowgate's")]
    NotAStore(PathBuf),
    /// The file was removed, or another has its name: what is written is lost with this server.
    #[error("{0} is no longer the file that was opened")]
    FileGone(PathBuf),
    /// The file or its lock could not be opened.
    #[error("cannot open {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An operation hit a fault of Flowgate's own; its transaction is undone.
    #[error("an operation of the store panicked")]
    Panicked,
    /// Trouble made on purpose by a test.
    #[error("{0}")]
    Injected(&'static str),
}

/// What can be done about a transaction that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Run it again as it was: it lost to another, or its connection broke before the commit.
    RunAgain,
    /// Run its operations one by one: one of them may be to blame.
    RunSingly,
    /// Nothing: the database cannot be used now.
    GiveUp,
}

impl BackendError {
    /// What can be done about a transaction that failed with this.
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Statement { source, .. } => remedy(source),
            Self::NoAnswer(_) | Self::CommitUnknown(_) => Remedy::GiveUp,
            Self::Corrupt { .. } | Self::Panicked | Self::Injected(_) => Remedy::RunSingly,
            Self::Migrate(_)
            | Self::SchemaTooNew { .. }
            | Self::ServerTooOld { .. }
            | Self::Locked(_)
            | Self::HardLinked(_)
            | Self::NotAStore(_)
            | Self::FileGone(_)
            | Self::Open { .. } => Remedy::GiveUp,
        }
    }

    /// Whether the database gave this SQLSTATE.
    pub(super) fn has_code(&self, code: &str) -> bool {
        match self {
            Self::Statement { source: sqlx::Error::Database(database), .. } => {
                database.code().is_some_and(|given| given == code)
            }
            _ => false,
        }
    }

    /// Whether the connection broke, so that another may work.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Statement { source, .. } => is_lost_connection(source),
            _ => false,
        }
    }
}

fn remedy(error: &sqlx::Error) -> Remedy {
    if is_lost_connection(error) {
        return Remedy::RunAgain;
    }
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => Remedy::GiveUp,
            _ => Remedy::RunSingly,
        };
    };
    if database.try_downcast_ref::<PgDatabaseError>().is_none() {
        return Remedy::RunSingly;
    }
    let code = database.code().unwrap_or_default();
    match &*code {
        // Serialization failure, deadlock, a lock not had in time.
        "40001" | "40P01" | "55P03" => Remedy::RunAgain,
        // Another replica took the request id since it was looked up.
        "23505" if database.constraint() == Some("executions_by_request_id") => Remedy::RunAgain,
        // What the data is to blame for: data exceptions, constraints, limits, what is not understood.
        code if ["22", "23", "42", "54"].iter().any(|class| code.starts_with(class)) => {
            Remedy::RunSingly
        }
        // A statement that ran too long may do so because of one operation.
        "57014" => Remedy::RunSingly,
        _ => Remedy::GiveUp,
    }
}

fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::AddrNotAvailable
        ),
        // Terminated by an operator or a crash, or for holding a transaction open too long; class 08
        // is said by poolers.
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            ["57P01", "57P02", "25P03"].contains(&&*code) || code.starts_with("08")
        }),
        _ => false,
    }
}

/// What an error says, and after it what each of its sources says that was not said before.
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            write!(text, ": {said}").expect("a string takes every character");
        }
        source = error.source();
    }
    text
}

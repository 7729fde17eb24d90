//! What can go wrong with the store itself; what can be wrong with a request is in the answers.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Another server has the file open.
    #[error("another server is using {0}")]
    Locked(PathBuf),
    /// The file has a second name, under which another server could use it unnoticed.
    #[error("{0} has hard links: a store must have one name only")]
    HardLinked(PathBuf),
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

/// What an error says, and after it what each of its sources says.
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").expect("a string takes every character");
        source = error.source();
    }
    text
}

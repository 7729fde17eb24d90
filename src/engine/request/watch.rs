//! Watches: where one goes on, what it tells, why it ends.

use super::View;
use crate::domain::{Chunk, ExecutionId};
use crate::store::StoreError;

/// Where a watch goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Every change after this revision is wanted.
    pub after: i64,
    /// The store's life the revision belongs to; not checked if empty.
    pub epoch: String,
}

/// Why a watch cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No such execution.
    #[error("no execution {0}")]
    NotFound(ExecutionId),
    /// The cursor is ahead of the log.
    #[error("revision {asked} is ahead of the newest, {head}")]
    Ahead {
        /// The cursor.
        asked: i64,
        /// The newest revision.
        head: i64,
    },
    /// What follows the cursor is no longer held.
    #[error("revision {asked} is compacted away, the oldest held is {oldest}")]
    Compacted {
        /// The cursor.
        asked: i64,
        /// The oldest cursor that still works.
        oldest: i64,
    },
    /// The cursor belongs to another life of the store.
    #[error("the cursor is of store epoch {asked}, this is {current}")]
    OtherEpoch {
        /// The cursor's.
        asked: String,
        /// The store's.
        current: String,
    },
    /// The server takes no new watches.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One message of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchItem {
    /// The cursor from which the watch goes on after this message.
    pub revision: i64,
    /// What it tells.
    pub event: WatchEvent,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// The execution after a change.
    Execution(Box<View>),
    /// A piece of output.
    Output(ExecutionId, Chunk),
    /// Nothing that concerns this watch happened up to the revision.
    Heartbeat,
}

/// Why a watch ended before its time.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchEnd {
    /// The server shuts down; go on elsewhere after `revision`.
    #[error("the server is shutting down; continue after revision {revision}")]
    ShuttingDown {
        /// The cursor.
        revision: i64,
    },
    /// A fault of Flowgate itself.
    #[error("the watch panicked")]
    Panicked,
    /// The store failed; go on later after `revision`.
    #[error("the log cannot be read; continue after revision {revision}")]
    Store {
        /// The cursor.
        revision: i64,
        /// Why.
        source: StoreError,
    },
}

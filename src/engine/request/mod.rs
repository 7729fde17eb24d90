//! What callers ask of the engine and what they get, in domain terms.

mod filter;
mod provider;
mod status;
mod submission;
mod watch;

pub use filter::{BulkCancelled, Filter};
pub use provider::{ConfiguredProvider, LimitsDraft, ProviderError, ProviderView};
pub use status::{Figures, Status, WorkerView};
pub use submission::{BulkRetried, Draft, RetryError, Submission, SubmitError, View};
pub use watch::{Cursor, WatchEnd, WatchError, WatchEvent, WatchItem};

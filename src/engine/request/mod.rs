//! What callers ask of the engine and what they get, in domain terms.

mod filter;
mod provider;
mod scaling;
mod status;
mod submission;
mod watch;
mod worker;

pub use filter::{BulkCancelled, Filter};
pub use provider::{ConfiguredProvider, LimitsDraft, ProviderError, ProviderView};
pub use scaling::{Bottleneck, Scaling};
pub use status::{Figures, Overview, Status};
pub use submission::{BulkRetried, Draft, RetryError, Submission, SubmitError, View};
pub use watch::{Cursor, WatchEnd, WatchError, WatchEvent, WatchItem};
pub use worker::{
    PoolReport, ServedProvider, Vitals, WorkerConfiguration, WorkerReport, WorkerView,
};

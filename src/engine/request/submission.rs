//! Submissions, first and again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{
    Execution, ExecutionId, GateState, Input, OnLost, ProviderName, RetryRequest, State, Timestamp,
    TraceContext,
};
use crate::providers::Violation;
use crate::store::StoreError;

/// A submission that is well-formed; whether its provider takes it is yet to be seen.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Who is to do the work.
    pub provider: ProviderName,
    /// The work.
    pub input: Input,
    /// Makes a repeated submission harmless.
    pub request_id: Option<String>,
    /// Hash of the canonical request without its `request_id`.
    pub request_hash: String,
    /// Higher is first.
    pub priority: i32,
    /// The client's own marks.
    pub labels: BTreeMap<String, String>,
    /// Not before this.
    pub schedule_at: Option<Timestamp>,
    /// The longest it may wait for its first start.
    pub queue_timeout: Option<Duration>,
    /// The longest one attempt may take; the provider's default if `None`.
    pub run_timeout: Option<Duration>,
    /// What follows a failed attempt; the provider's defaults for what it leaves open.
    pub retry: RetryRequest,
    /// What follows an attempt that was lost.
    pub on_lost: OnLost,
    /// The finished execution that this one runs again.
    pub retry_of: Option<ExecutionId>,
    /// Whose child the submission is, where its caller said.
    pub trace: Option<TraceContext>,
}

/// A stored submission.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The execution as it stands.
    pub view: View,
    /// Whether an earlier submission with the same `request_id` is answered again.
    pub replayed: bool,
}

/// An execution together with what its provider's gate makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The execution.
    pub execution: Execution,
    /// What the provider's gate holds it back with; open unless it is pending.
    pub gate: GateState,
    /// How many executions are claimed before it, where that was asked for and it is ready.
    pub ahead: Option<u64>,
    /// The revision of the newest change that can be seen in this view.
    pub revision: i64,
}

/// Why submissions were not stored; none of the batch was.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No provider of that name is configured.
    #[error("unknown provider {name}")]
    UnknownProvider {
        /// Which of the batch, from 0.
        index: usize,
        /// What it named.
        name: ProviderName,
        /// What it could have named.
        known: Vec<ProviderName>,
    },
    /// The provider cannot take work at present.
    #[error("provider {name} takes no work: {reason}")]
    ProviderUnavailable {
        /// Which of the batch, from 0.
        index: usize,
        /// Which provider.
        name: ProviderName,
        /// Why.
        reason: String,
    },
    /// The provider does not understand the input.
    #[error("the input is not valid for its provider")]
    InvalidInput {
        /// Which of the batch, from 0.
        index: usize,
        /// What is wrong with it, by path below `input`.
        violations: Vec<Violation>,
    },
    /// The `request_id` was used before for something else.
    #[error("request_id was used by execution {first} for another request")]
    RequestIdConflict {
        /// Which of the batch, from 0.
        index: usize,
        /// The execution it belongs to.
        first: ExecutionId,
    },
    /// The provider has as many pending executions as it takes.
    #[error("provider {name} takes at most {max} pending executions, {pending} are")]
    TooManyPending {
        /// The first of the batch for which there is no room, from 0.
        index: usize,
        /// Which provider.
        name: ProviderName,
        /// Its bound.
        max: u32,
        /// How many are pending.
        pending: u64,
        /// When it may have room; never for so many at once where absent.
        retry_after: Option<Duration>,
    },
    /// No new work is taken.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a bulk retry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkRetried {
    /// Failed and cancelled executions that matched and were not run again yet.
    pub matched: u64,
    /// The new executions.
    pub created: Vec<ExecutionId>,
    /// Whether another call would create more.
    pub more: bool,
}

/// Why an execution was not run again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// No such execution.
    #[error("no execution {0}")]
    NotFound(ExecutionId),
    /// Only failed and cancelled executions are run again.
    #[error("execution {id} is {state:?}")]
    NotRetryable {
        /// Which.
        id: ExecutionId,
        /// Where it is.
        state: State,
    },
    /// The new execution was refused.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

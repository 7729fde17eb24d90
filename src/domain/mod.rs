//! The words and rules of Flowgate as pure types: no database, no network, no clock of their own.
//!
//! Everything that changes an execution is a method of [`Record`] that returns the [`Change`] to
//! log; everything a client sees of it is that log folded by [`Execution::apply`].

mod adaptive;
mod breaker;
mod effect;
mod event;
mod execution;
mod failure;
mod flow;
mod handle;
mod id;
mod limits;
mod provider;
mod rate;
mod record;
mod retry;
mod retry_budget;
mod shortage;
mod time;
mod trace;

pub use adaptive::{Adaptive, AdaptiveBounds, Observation, Quota, Step, StepReason};
pub use breaker::{Admission, Breaker, ClosedBy, Closure, Health, Heard, PROBE_PAUSE, Signal};
pub use effect::Effect;
pub use event::{AttemptEnd, Change, Chunk, ChunkContent, EndCause, Event, OutputStream};
pub use execution::{Attempt, Execution, Input, OWN_REQUEST_ID, OnLost, Spec, State, Wait};
pub use failure::{ErrorCode, Failure, FailureKind, Usage};
pub use flow::{COMMON_LANE, Flow, HeldBy, Hold, Spent};
pub use handle::{Handle, HandleTooLarge};
pub use id::{ExecutionId, InvalidName, ProviderName, Token, WorkerId};
pub use limits::{
    Bound, LimitUpdate, Limits, MOST_CONCURRENT, MOST_MODELS, MOST_PENDING, MOST_PER_MINUTE,
    Overrides, RateOverrides, Rates, check_model,
};
pub use provider::{Expiry, GateState, Pause, ProviderRecord, Told};
pub use rate::{Demand, Reserved, Window, second_of};
pub use record::{Ending, Fenced, Lease, Record};
pub use retry::{LONGEST_HINT, MAX_CRASHES, Retrial, RetryPolicy, RetryRequest, RetryRules};
pub use retry_budget::{RetryBudget, RetryMeter};
pub use shortage::{Lack, MachineLoad, ResourceGate, Shortage, WhenShort};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use trace::TraceContext;

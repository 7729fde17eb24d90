//! Between the contract and the domain: the one place where requests are checked.
//!
//! What comes in leaves here as types that carry the proof; everything wrong with a request is
//! told at once, each fault with the path of its field.

mod check;
mod enums;
mod execution;
mod filter;
mod get;
mod hash;
mod json;
mod limits;
mod log_level;
mod provider;
mod retry_policy;
mod scalar;
mod set_limits;
mod submit;
mod system;
mod trace;
mod watch;
mod window;

pub(super) use check::{Check, Violations, join};
pub(super) use enums::{payload, state};
pub(super) use execution::execution;
pub(super) use filter::{batch_cancel, batch_retry, filter};
pub(super) use get::{cancel, get};
pub(super) use hash::hex;
pub(super) use limits::limits_change;
pub(super) use log_level::{LogLevel, log_level};
pub(super) use provider::{effect, pause, provider, provider_name, resume, watch};
pub(super) use scalar::{required, to_i64, to_timestamp};
pub(super) use set_limits::{set_limits, too_many_models};
pub(super) use submit::{draft, drafts, retry};
pub(super) use system::{history, status, worker};
pub(super) use trace::tell_trace;
pub(crate) use trace::trace_context;
pub(super) use watch::{to_many, to_one, watch_many, watch_one};

#[cfg(test)]
pub(super) use execution::tests::view as test_view;

//! What the outcome of an attempt means for its execution.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::domain::{
    Ending, ErrorCode, Failure, FailureKind, OnLost, Quota, Retrial, RetryRules, Usage,
};
use crate::metrics;
use crate::providers::{AttemptFailure, StopReason, Success};
use crate::store::Claimed;

/// The largest result that is stored.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;

/// What the provider said, or why it could not.
pub(super) enum Outcome {
    Returned(Result<Success, AttemptFailure>),
    Panicked,
    /// It did not end within its grace and was dropped.
    Dropped {
        /// Whether the work may go on at its provider.
        attached: bool,
    },
    /// Its time was over before it could begin: the claim took too long.
    NotBegun,
}

/// What an attempt found of its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It wants to be called less often.
    RateLimited { retry_after: Option<Duration>, message: String },
    /// It did not answer, or failed in a way that may pass.
    Failed { message: String },
    /// It does its work, whatever it thinks of this piece of it.
    Answered,
}

/// What the outcome says of the provider; nothing if the attempt was stopped, or is the worker's own
/// fault. `patient` says whether it was given as much time as the provider is configured with: that a
/// client's own, shorter one passed is not the provider's fault.
pub(super) fn signal(
    outcome: &Outcome,
    reason: Option<StopReason>,
    patient: bool,
) -> Option<Found> {
    let failed = match (outcome, reason) {
        (Outcome::Returned(Ok(_)), _) => return Some(Found::Answered),
        (_, Some(StopReason::TimedOut)) if !patient => return None,
        (Outcome::Dropped { .. }, Some(StopReason::TimedOut)) => {
            return Some(Found::Failed { message: "timed out".to_owned() });
        }
        (Outcome::Returned(Err(failed)), None | Some(StopReason::TimedOut)) => failed,
        (Outcome::Returned(Err(_)) | Outcome::Dropped { .. }, _)
        | (Outcome::Panicked | Outcome::NotBegun, _) => return None,
    };
    let message = failed.failure.message.clone();
    match failed.kind {
        FailureKind::RateLimited => {
            Some(Found::RateLimited { retry_after: failed.retry_after, message })
        }
        FailureKind::Transient => Some(Found::Failed { message }),
        FailureKind::Permanent => Some(Found::Answered),
        FailureKind::Cancelled => None,
    }
}

/// How failures of the attempt's provider are tried again here.
pub(super) struct Retries<'a> {
    /// By these rules.
    pub(super) rules: &'a RetryRules,
    /// Whether another one finds room in the budget, which it then takes.
    pub(super) room: &'a (dyn Fn() -> bool + Sync),
}

/// What the provider said of how many more requests it takes.
pub(super) fn quota(outcome: &Outcome) -> Option<Quota> {
    match outcome {
        Outcome::Returned(Ok(success)) => success.quota,
        Outcome::Returned(Err(failed)) => failed.quota,
        Outcome::Panicked | Outcome::Dropped { .. } | Outcome::NotBegun => None,
    }
}

/// What the outcome means for the execution.
pub(super) fn ending(
    claimed: &Claimed,
    outcome: Outcome,
    reason: Option<StopReason>,
    retries: &Retries<'_>,
) -> Ending {
    match (outcome, reason) {
        (Outcome::Panicked, _) => {
            let failure = Failure::new(ErrorCode::Crashed, true, "the attempt panicked");
            Ending::Crashed { failure }
        }
        (Outcome::NotBegun, _) => Ending::Released { begun: false },
        (Outcome::Returned(Ok(success)), _) => succeeded(success),
        // Fenced if the store has given the execution to another; if it only could not be reached
        // for too long, this says that nobody works on it any more.
        (_, Some(StopReason::LeaseLost)) => {
            let message = "the lease could not be renewed, the work was stopped";
            Ending::Crashed { failure: Failure::new(ErrorCode::Crashed, true, message) }
        }
        (_, Some(StopReason::ShuttingDown)) => Ending::Released { begun: true },
        (Outcome::Returned(Err(failed)), Some(StopReason::Cancelled)) => cancelled(failed),
        (Outcome::Returned(Err(failed)), Some(StopReason::TimedOut) | None) => {
            failed_or_retry(claimed, failed, retries)
        }
        // Claimed once more, to be stopped there.
        (Outcome::Dropped { attached: true }, Some(StopReason::Cancelled)) => {
            Ending::Released { begun: true }
        }
        (Outcome::Dropped { attached: false }, Some(StopReason::Cancelled)) => {
            let message = "cancelled; the work was dropped";
            let failure = Failure::new(ErrorCode::Cancelled, false, message);
            Ending::Cancelled { failure, output: None, usage: None }
        }
        (Outcome::Dropped { .. }, Some(StopReason::TimedOut) | None) => {
            let seconds = claimed.spec.run_timeout.as_secs_f64();
            let message = format!("timed out after {seconds}s");
            let failure = Failure::new(ErrorCode::Timeout, true, message);
            let failed = AttemptFailure::new(FailureKind::Transient, failure);
            failed_or_retry(claimed, failed, retries)
        }
    }
}

fn succeeded(success: Success) -> Ending {
    let Success { output, usage, .. } = success;
    let usage = usage.map(Usage::believed);
    match json_text(&output) {
        Ok(output) => Ending::Succeeded { output, usage },
        Err(failure) => Ending::Failed { failure, output: None, usage },
    }
}

fn cancelled(failed: AttemptFailure) -> Ending {
    let AttemptFailure { failure, output, usage, .. } = failed;
    let usage = usage.map(Usage::believed);
    let message = failure.message;
    let failure = Failure { code: ErrorCode::Cancelled, retryable: false, message, ..failure };
    Ending::Cancelled { failure, output: kept(output.as_ref()), usage }
}

fn failed_or_retry(claimed: &Claimed, failed: AttemptFailure, retries: &Retries<'_>) -> Ending {
    let AttemptFailure { kind, mut failure, output, usage, retry_after, quota: _ } = failed;
    let usage = usage.map(Usage::believed);
    if failure.code == ErrorCode::Crashed {
        return Ending::Crashed { failure };
    }
    if kind == FailureKind::Cancelled {
        return Ending::Cancelled { failure, output: kept(output.as_ref()), usage };
    }
    // Stopped for want of time, but perhaps not at its provider: another attempt might do it twice.
    let may_run_on = failure.details.as_ref().is_some_and(|it| it.get("may_run_on").is_some());
    if may_run_on && claimed.spec.on_lost == OnLost::Fail {
        return Ending::Failed { failure, output: kept(output.as_ref()), usage };
    }
    let own = &claimed.spec.retry;
    match retries.rules.retrial(own, kind, failure.code) {
        Retrial::AtTheGate => {
            return Ending::Retry { failure, delay: Duration::ZERO, charged: false, usage };
        }
        Retrial::Charged => failure.retryable = true,
        Retrial::Never => failure.retryable = false,
    }
    if !failure.retryable || claimed.charged >= own.max_attempts {
        return Ending::Failed { failure, output: kept(output.as_ref()), usage };
    }
    let room = (retries.room)();
    if !room {
        tracing::debug!("the retry budget is spent, another attempt waits longer");
        failure.add_detail("held_back_by", "retry_budget".into());
    }
    let jitter = rand::random::<f64>();
    let delay = retries.rules.delay(own, claimed.charged, retry_after, room, jitter);
    Ending::Retry { failure, delay, charged: true, usage }
}

/// What there is of a result, unless it is too large.
fn kept(output: Option<&Value>) -> Option<Arc<str>> {
    output.and_then(|output| json_text(output).ok())
}

fn json_text(output: &Value) -> Result<Arc<str>, Failure> {
    let text = output.to_string();
    if text.len() > MAX_OUTPUT_BYTES {
        let bytes = text.len();
        let message = format!("the result has {bytes} bytes, at most {MAX_OUTPUT_BYTES} are kept");
        return Err(Failure::new(ErrorCode::OutputTooLarge, false, message));
    }
    Ok(text.into())
}

pub(super) const fn counted(ending: &Ending) -> metrics::Outcome {
    match ending {
        Ending::Succeeded { .. } => metrics::Outcome::Succeeded,
        Ending::Failed { .. } => metrics::Outcome::Failed,
        Ending::Retry { .. } => metrics::Outcome::Retried,
        Ending::Cancelled { .. } => metrics::Outcome::Cancelled,
        Ending::Crashed { .. } => metrics::Outcome::Crashed,
        Ending::Released { .. } => metrics::Outcome::Released,
    }
}

//! Every error an rpc can end with, in one table.
//!
//! Each has a reason from the contract's `ErrorReason`, which decides the status code, and details
//! for programs. What is inside the store stays out of them.

use tonic::Status;

use super::convert::{Violations, join, too_many_models};
use super::problem::{Problem, shortened};
use crate::domain::{ExecutionId, ProviderName, WorkerId};
use crate::engine::{Cursor, ProviderError, RetryError, SubmitError, WatchEnd, WatchError};
use crate::pb::ErrorReason;
use crate::providers::Violation;
use crate::store::{StoreError, with_sources};
use crate::telemetry::NotOurs;

/// Why an rpc has no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Fields of the request are wrong.
    Invalid(Violations),
    /// The request is no message of its type.
    Malformed(String),
    /// The request or the answer is too large to be sent.
    TooLarge(String),
    /// There is no such execution.
    NoExecution(ExecutionId),
    /// A submission was refused.
    Submit(SubmitError),
    /// A batch of submissions was refused.
    BatchSubmit(SubmitError),
    /// An execution is not run again.
    Retry(RetryError),
    /// A provider was not found or changed.
    Provider(ProviderError),
    /// Limits were to be set of a provider that is not configured.
    UnknownLimit {
        /// Which of the request's limits, from 0.
        index: usize,
        /// What it named.
        name: ProviderName,
        /// What it could have named.
        known: Vec<ProviderName>,
    },
    /// Limits were to be set of more models than a provider may have.
    TooManyModels {
        /// Which of the request's limits, from 0.
        index: usize,
    },
    /// A watch did not start, at the cursor it was asked to.
    Watch(WatchError, Option<Cursor>),
    /// A watch ended before its time, in this epoch of the store.
    WatchEnded(WatchEnd, String),
    /// Another replica was meant.
    OtherWorker {
        /// Which.
        meant: WorkerId,
        /// This one.
        this: WorkerId,
    },
    /// The log is not Flowgate's.
    LogNotOurs(NotOurs),
    /// The store failed.
    Store(StoreError),
    /// The server goes away.
    ShuttingDown,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// Flowgate itself is at fault.
    Fault,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Problem::of(refusal).into_status()
    }
}

macro_rules! refusals {
    ($($error:ty => $refusal:expr),* $(,)?) => {
        $(impl From<$error> for Status {
            fn from(error: $error) -> Self {
                $refusal(error).into()
            }
        })*
    };
}

refusals! {
    Violations => Refusal::Invalid,
    SubmitError => Refusal::Submit,
    RetryError => Refusal::Retry,
    ProviderError => Refusal::Provider,
    StoreError => Refusal::Store,
    NotOurs => Refusal::LogNotOurs,
}

impl Problem {
    /// The table.
    fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => Self::invalid(violations),
            Refusal::Malformed(why) => Self {
                violations: Some(one_violation("", why.clone())),
                ..Self::new(ErrorReason::MalformedMessage, why)
            },
            Refusal::TooLarge(why) => Self::new(ErrorReason::MessageTooLarge, why),
            Refusal::NoExecution(id) => Self::no_execution(id),
            Refusal::Submit(error) => Self::submit(error, |_| String::new()),
            Refusal::BatchSubmit(error) => {
                Self::submit(error, |index| format!("requests[{index}]"))
            }
            Refusal::Retry(error) => Self::retry(error),
            Refusal::Provider(error) => Self::provider(error),
            Refusal::UnknownLimit { index, name, known } => {
                Self::unknown_provider(&format!("limits[{index}].provider"), &name, &known)
            }
            Refusal::TooManyModels { index } => {
                let field = format!("limits[{index}].models");
                Self::invalid(one_violation(&field, too_many_models()))
            }
            Refusal::Watch(error, cursor) => Self::watch(error, cursor.as_ref()),
            Refusal::WatchEnded(end, epoch) => Self::watch_ended(end, &epoch),
            Refusal::OtherWorker { meant, this } => {
                let message = format!("worker_id: {meant} was meant, and {this} answers");
                Self::new(ErrorReason::OtherWorker, message).with("worker_id", &this)
            }
            Refusal::LogNotOurs(error) => Self::new(ErrorReason::LogNotOurs, error.to_string()),
            Refusal::Store(error) => Self::store(&error),
            Refusal::ShuttingDown => {
                Self::new(ErrorReason::ShuttingDown, "the server is shutting down")
            }
            Refusal::DeadlineExceeded => Self::new(
                ErrorReason::DeadlineExceeded,
                "the deadline passed; what was asked for may have been done all the same",
            ),
            Refusal::Fault => Self::new(
                ErrorReason::Internal,
                "a fault in Flowgate itself; the server's log has the details",
            ),
        }
    }

    fn submit(error: SubmitError, at: impl FnOnce(usize) -> String) -> Self {
        match error {
            SubmitError::UnknownProvider { index, name, known } => {
                let field = join(&at(index), "provider");
                Self::unknown_provider(&field, &name, &known)
            }
            SubmitError::ProviderUnavailable { index, name, reason } => {
                let field = join(&at(index), "provider");
                let message = format!("{field}: {name} takes no submissions: {reason}");
                Self::new(ErrorReason::ProviderUnavailable, message)
                    .with("provider", &name)
                    .with("field", &field)
            }
            SubmitError::InvalidInput { index, violations } => {
                let input = join(&at(index), "input");
                let kept = violations.into_iter();
                let kept =
                    kept.map(|one| Violation::new(join(&input, &one.field), one.description));
                Self::invalid(Violations { kept: kept.collect(), left_out: 0 })
            }
            SubmitError::RequestIdConflict { index, first } => {
                let field = join(&at(index), "request_id");
                let message = format!("{field}: was used by execution {first} with other content");
                Self::new(ErrorReason::RequestIdConflict, message)
                    .with("execution_id", &first)
                    .with("field", &field)
            }
            SubmitError::TooManyPending { index, name, max, pending, retry_after } => {
                let field = join(&at(index), "provider");
                let message = match retry_after {
                    Some(_) => format!(
                        "{field}: {pending} executions of {name} are pending, at most {max} may be"
                    ),
                    None => format!(
                        "at most {max} executions of {name} may be pending: submit fewer at once"
                    ),
                };
                let problem = Self::new(ErrorReason::TooManyPending, message)
                    .with("provider", &name)
                    .with("max_pending", &max);
                // None of them is at fault where there are too many of them.
                let problem =
                    if retry_after.is_some() { problem.with("field", &field) } else { problem };
                Self { retry_after, ..problem }
            }
            SubmitError::ShuttingDown => Self::of(Refusal::ShuttingDown),
            SubmitError::Store(error) => Self::store(&error),
        }
    }

    fn retry(error: RetryError) -> Self {
        match error {
            RetryError::NotFound(id) => Self::no_execution(id),
            RetryError::NotRetryable { id, state } => {
                let state = super::convert::state(state).as_str_name();
                let state = state.trim_start_matches("EXECUTION_STATE_");
                let message = format!(
                    "execution {id} is {state}: only a FAILED or CANCELLED one is run again"
                );
                Self::new(ErrorReason::ExecutionNotRetryable, message)
                    .with("execution_id", &id)
                    .with("state", &state)
            }
            RetryError::Submit(error) => Self::submit(error, |_| String::new()),
        }
    }

    fn provider(error: ProviderError) -> Self {
        match error {
            ProviderError::Unknown { name, known } => {
                Self::unknown_provider("provider", &name, &known)
            }
            ProviderError::LimitsChanged { current, expected } => {
                let message = format!(
                    "limits changed at revision {current}, after the expected {expected}: \
                     read them again"
                );
                Self::new(ErrorReason::LimitsChanged, message)
                    .with("limits_revision", &current)
                    .with("expected_revision", &expected)
            }
            ProviderError::TooManyModels(_) => {
                Self::invalid(one_violation("limits", too_many_models()))
            }
            ProviderError::Store(error) => Self::store(&error),
        }
    }

    fn watch(error: WatchError, cursor: Option<&Cursor>) -> Self {
        match error {
            WatchError::NotFound(id) => Self::no_execution(id),
            WatchError::Ahead { asked, head } => {
                let message =
                    format!("after_revision {asked} lies beyond the newest revision, {head}");
                Self::new(ErrorReason::RevisionAhead, message).with("revision", &head)
            }
            WatchError::Compacted { asked, oldest } => {
                let message = format!(
                    "changes after revision {asked} are no longer kept, only those after {oldest}: \
                     watch anew without after_revision"
                );
                Self::new(ErrorReason::RevisionCompacted, message).with("oldest_revision", &oldest)
            }
            WatchError::OtherEpoch { asked, current } => {
                let message = format!(
                    "store_epoch {asked} is not that of the store, {current}: \
                     watch anew without after_revision"
                );
                Self::new(ErrorReason::StoreEpochMismatch, message).with("store_epoch", &current)
            }
            WatchError::ShuttingDown => {
                let problem = Self::of(Refusal::ShuttingDown);
                match cursor {
                    Some(cursor) => problem.continue_after(cursor.after, &cursor.epoch),
                    None => problem,
                }
            }
            WatchError::Store(error) => Self::store(&error),
        }
    }

    fn watch_ended(end: WatchEnd, epoch: &str) -> Self {
        match end {
            // Nothing was passed yet: the watch is to be asked for again as it was.
            WatchEnd::ShuttingDown { revision: 0 } => Self::of(Refusal::ShuttingDown),
            WatchEnd::Store { revision: 0, source } => Self::store(&source),
            WatchEnd::ShuttingDown { revision } => {
                let message =
                    format!("the server is shutting down: continue after revision {revision}");
                Self::new(ErrorReason::ShuttingDown, message).continue_after(revision, epoch)
            }
            WatchEnd::Panicked => Self::of(Refusal::Fault),
            WatchEnd::Store { revision, source } => {
                Self::store(&source).continue_after(revision, epoch)
            }
        }
    }

    /// The one place where trouble with the store is logged; clients are told no more of it.
    fn store(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::error!(error = with_sources(error), "The store could not serve a request");
                Self::new(ErrorReason::StoreUnavailable, "the store does not answer at present")
            }
            StoreError::Closed => Self::of(Refusal::ShuttingDown),
        }
    }

    fn invalid(violations: Violations) -> Self {
        let message = match violations.kept.as_slice() {
            [] => "the request is not valid".to_owned(),
            [only] if violations.left_out == 0 => told(only),
            [first, others @ ..] => {
                let others = others.len() + violations.left_out;
                format!("{} (and {others} more)", told(first))
            }
        };
        Self { violations: Some(violations), ..Self::new(ErrorReason::InvalidField, message) }
    }

    fn no_execution(id: ExecutionId) -> Self {
        Self::new(ErrorReason::ExecutionNotFound, format!("there is no execution {id}"))
            .with("execution_id", &id)
            .about("flowgate.v1.Execution", &id)
    }

    fn unknown_provider(field: &str, name: &ProviderName, known: &[ProviderName]) -> Self {
        let known: Vec<_> = known.iter().map(ProviderName::as_str).collect();
        let message = format!("{field}: there is no provider {name}; known: {}", known.join(", "));
        Self::new(ErrorReason::ProviderNotFound, message)
            .with("provider", &name)
            .with("known_providers", &known.join(","))
            .with("field", &field)
            .about("flowgate.v1.Provider", &name)
    }

    fn continue_after(self, revision: i64, epoch: &str) -> Self {
        self.with("revision", &revision).with("store_epoch", &epoch)
    }
}

fn one_violation(field: &str, description: String) -> Violations {
    Violations { kept: vec![Violation::new(field, description)], left_out: 0 }
}

fn told(violation: &Violation) -> String {
    let field = shortened(&violation.field, 128);
    if field.is_empty() {
        return violation.description.clone();
    }
    format!("{field}: {}", violation.description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BackendError;
    use tonic::Code;
    use tonic_types::StatusExt;

    fn reason(status: &Status) -> String {
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has one");
        assert_eq!(info.domain, "flowgate");
        info.reason.clone()
    }

    fn metadata(status: &Status, key: &str) -> String {
        let details = status.get_error_details();
        details.error_info().expect("every error has one").metadata[key].clone()
    }

    fn names(names: &[&str]) -> Vec<ProviderName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn an_unknown_provider_is_answered_with_those_known() {
        let error = SubmitError::UnknownProvider {
            index: 7,
            name: "olama".parse().unwrap(),
            known: names(&["claude", "ollama"]),
        };
        let status = Status::from(Refusal::BatchSubmit(error));
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "PROVIDER_NOT_FOUND")
        );
        assert!(status.message().starts_with("requests[7].provider: "), "{}", status.message());
        assert!(status.message().contains("claude, ollama"));
        assert_eq!(metadata(&status, "known_providers"), "claude,ollama");
        let details = status.get_error_details();
        assert_eq!(details.resource_info().map(|info| info.resource_name.as_str()), Some("olama"));
    }

    #[test]
    fn violations_of_an_input_are_named_below_their_request() {
        let error = |index| SubmitError::InvalidInput {
            index,
            violations: vec![
                Violation::new("args[2]", "must be text"),
                Violation::new("", "is odd"),
            ],
        };
        let fields = |status: Status| {
            let details = status.get_error_details();
            let violations = &details.bad_request().expect("fields are named").field_violations;
            violations.iter().map(|one| one.field.clone()).collect::<Vec<_>>()
        };
        assert_eq!(fields(error(0).into()), ["input.args[2]", "input"]);
        let batch = Status::from(Refusal::BatchSubmit(error(3)));
        assert_eq!(fields(batch), ["requests[3].input.args[2]", "requests[3].input"]);
    }

    #[test]
    fn a_conflict_names_the_first_execution() {
        let first = ExecutionId::new();
        let status = Status::from(SubmitError::RequestIdConflict { index: 0, first });
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(metadata(&status, "execution_id"), first.to_string());
        assert!(status.message().contains(&first.to_string()));
    }

    #[test]
    fn trouble_with_the_store_tells_when_to_come_back_and_nothing_else() {
        let error = StoreError::from(BackendError::Injected("password=hunter2"));
        let status = Status::from(error.clone());
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "STORE_UNAVAILABLE")
        );
        let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry, Some(std::time::Duration::from_secs(1)));
        assert!(!format!("{status:?}").contains("hunter2"));
        assert_eq!(with_sources(&error), "the store is unavailable: password=hunter2");
        let closed = Status::from(StoreError::Closed);
        assert_eq!((closed.code(), reason(&closed).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    }

    #[test]
    fn a_watch_that_ends_early_leaves_its_cursor() {
        let end = WatchEnd::ShuttingDown { revision: 42 };
        let status = Status::from(Refusal::WatchEnded(end, "epoch".to_owned()));
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
        assert_eq!(metadata(&status, "revision"), "42");
        assert_eq!(metadata(&status, "store_epoch"), "epoch");
        let cursor = Cursor { after: 5, epoch: "epoch".to_owned() };
        let status = Status::from(Refusal::Watch(WatchError::ShuttingDown, Some(cursor)));
        assert_eq!(metadata(&status, "revision"), "5");
    }

    #[test]
    fn a_watch_that_ends_before_its_first_message_leaves_no_cursor() {
        let source = StoreError::from(BackendError::Injected("gone"));
        let ends = [
            (WatchEnd::ShuttingDown { revision: 0 }, "SHUTTING_DOWN"),
            (WatchEnd::Store { revision: 0, source }, "STORE_UNAVAILABLE"),
        ];
        for (end, expected) in ends {
            let status = Status::from(Refusal::WatchEnded(end, "epoch".to_owned()));
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, expected));
            assert!(!status.message().contains("continue after"), "{}", status.message());
            let details = status.get_error_details();
            let metadata = &details.error_info().expect("every error has one").metadata;
            assert!(metadata.is_empty(), "{metadata:?}");
        }
    }

    #[test]
    fn a_cursor_out_of_range_says_which_way() {
        let errors = [
            (WatchError::Ahead { asked: 9, head: 3 }, "REVISION_AHEAD"),
            (WatchError::Compacted { asked: 1, oldest: 3 }, "REVISION_COMPACTED"),
            (
                WatchError::OtherEpoch { asked: "a".to_owned(), current: "b".to_owned() },
                "STORE_EPOCH_MISMATCH",
            ),
        ];
        for (error, expected) in errors {
            let status = Status::from(Refusal::Watch(error, None));
            assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, expected));
        }
    }

    #[test]
    fn every_violation_that_fits_is_told() {
        let kept = vec![Violation::new("a", "is wrong"), Violation::new("b", "is wrong")];
        let status = Status::from(Violations { kept, left_out: 0 });
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD")
        );
        assert_eq!(status.message(), "a: is wrong (and 1 more)");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().map(|it| it.field_violations.len()), Some(2));
    }
}

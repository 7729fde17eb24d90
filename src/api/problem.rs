//! An error as it is told: a `google.rpc.Status` with details.
//!
//! All of it must fit the 8 KiB of trailers that gRPC clients accept by default; of more they would
//! see a broken stream and no error.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::convert::Violations;
use crate::pb::ErrorReason;

const DOMAIN: &str = "flowgate";
/// When to try again what the server could not do.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_MESSAGE_BYTES: usize = 512;
const MAX_VIOLATIONS_BYTES: usize = 2_400;
const MAX_METADATA_BYTES: usize = 800;

/// An error with what programs are told of it.
pub(super) struct Problem {
    /// Decides the status code.
    pub(super) reason: ErrorReason,
    /// For people.
    pub(super) message: String,
    /// For programs.
    pub(super) metadata: Vec<(&'static str, String)>,
    /// The fields at fault.
    pub(super) violations: Option<Violations>,
    /// Type and name of what was not found.
    pub(super) resource: Option<(&'static str, String)>,
    /// When to try again, where that is known.
    pub(super) retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            reason,
            message,
            metadata: Vec::new(),
            violations: None,
            resource: None,
            retry_after: None,
        }
    }

    pub(super) fn with(mut self, key: &'static str, value: &impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    pub(super) fn about(mut self, kind: &'static str, name: &impl ToString) -> Self {
        self.resource = Some((kind, name.to_string()));
        self
    }

    pub(super) fn into_status(self) -> Status {
        let reason = self.reason.as_str_name().trim_start_matches("ERROR_REASON_");
        let metadata = self
            .metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), shortened(&value, MAX_METADATA_BYTES)));
        let metadata: HashMap<_, _> = metadata.collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, metadata);
        if let Some(violations) = &self.violations {
            add_violations(violations, &mut details);
        }
        if let Some((kind, name)) = self.resource {
            details.set_resource_info(kind, shortened(&name, 128), "", "");
        }
        let code = code(self.reason);
        let retry_after =
            self.retry_after.or_else(|| (code == Code::Unavailable).then_some(RETRY_DELAY));
        if retry_after.is_some() {
            details.set_retry_info(retry_after);
        }
        Status::with_error_details(code, shortened(&self.message, MAX_MESSAGE_BYTES), details)
    }
}

/// The status code that the contract gives a reason.
fn code(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::InvalidField | ErrorReason::MalformedMessage => Code::InvalidArgument,
        ErrorReason::MessageTooLarge | ErrorReason::TooManyPending => Code::ResourceExhausted,
        ErrorReason::ExecutionNotFound | ErrorReason::ProviderNotFound => Code::NotFound,
        ErrorReason::ProviderUnavailable
        | ErrorReason::ExecutionNotRetryable
        | ErrorReason::OtherWorker
        | ErrorReason::LogNotOurs => Code::FailedPrecondition,
        ErrorReason::RequestIdConflict => Code::AlreadyExists,
        ErrorReason::LimitsChanged => Code::Aborted,
        ErrorReason::RevisionAhead
        | ErrorReason::RevisionCompacted
        | ErrorReason::StoreEpochMismatch => Code::OutOfRange,
        ErrorReason::ShuttingDown | ErrorReason::StoreUnavailable => Code::Unavailable,
        ErrorReason::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorReason::Internal | ErrorReason::Unspecified => Code::Internal,
    }
}

fn add_violations(violations: &Violations, details: &mut ErrorDetails) {
    let mut room = MAX_VIOLATIONS_BYTES;
    for violation in &violations.kept {
        let field = shortened(&violation.field, 128);
        let description = shortened(&violation.description, 256);
        let Some(left) = room.checked_sub(field.len() + description.len() + 8) else { return };
        room = left;
        details.add_bad_request_violation(field, description);
    }
}

/// The text without its middle if it is longer than `bytes`.
pub(super) fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(bytes / 2);
    let tail = text.ceil_char_boundary(text.len() - bytes / 3);
    format!("{} … {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ProviderName;
    use crate::engine::SubmitError;
    use crate::providers::Violation;

    #[test]
    fn a_long_text_loses_its_middle_between_two_characters() {
        assert_eq!(shortened("short", 5), "short");
        let text = shortened(&"ü".repeat(100), 31);
        assert!(text.len() <= 31 && text.contains(" … "), "{text}");
    }

    #[test]
    fn the_largest_error_fits_the_trailers_that_clients_accept() {
        let kept = (0..100).map(|index| {
            Violation::new(
                format!("requests[{index}].labels[{}]", "ü".repeat(5_000)),
                "ö".repeat(5_000),
            )
        });
        let violations = Violations { kept: kept.collect(), left_out: 900 };
        let known: Vec<ProviderName> =
            (0..1_000).map(|n| format!("provider-{n:050}").parse().unwrap()).collect();
        let unknown = SubmitError::UnknownProvider { index: 0, name: known[0].clone(), known };
        for status in [Status::from(violations), Status::from(unknown)] {
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).expect("the status is valid");
            let bytes: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
            assert!(bytes < 8 * 1_024, "{bytes}");
        }
    }
}

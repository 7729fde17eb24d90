//! What an error looks like from outside: readable text, and the exit code.

use std::io;
use std::process::ExitCode;

use anyhow::anyhow;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A reader that went away, as the shell reports death by SIGPIPE.
const SIGPIPE_EXIT: u8 = 141;

/// Ends a command: an rpc's error is made readable, and a reader that went away is no error to
/// tell anybody about.
pub(super) fn finish(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    result.or_else(|error| {
        if is_broken_pipe(&error) {
            return Ok(ExitCode::from(SIGPIPE_EXIT));
        }
        match error.downcast_ref::<Status>() {
            Some(status) => Err(anyhow!(describe(status))),
            None => Err(error),
        }
    })
}

/// Whether nobody reads stdout any more.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let write = error.downcast_ref::<io::Error>();
    write.is_some_and(|write| write.kind() == io::ErrorKind::BrokenPipe)
}

/// An rpc's error for people: the message, then what the details add, a line each.
pub(super) fn describe(status: &Status) -> String {
    let details = status.get_error_details();
    let code = code_name(status.code());
    let mut lines = vec![match status.message() {
        "" => code.clone(),
        message => message.to_owned(),
    }];
    for violation in details.bad_request().into_iter().flat_map(|bad| &bad.field_violations) {
        // One fault is often the whole message already.
        if !lines[0].contains(&violation.description) || !lines[0].contains(&violation.field) {
            lines.push(format!("  {}: {}", violation.field, violation.description));
        }
    }
    lines.push(match details.error_info() {
        Some(info) => format!("  {} ({code})", info.reason),
        None => format!("  {code}"),
    });
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        lines.push(format!("  trying again helps, after {}", humantime::format_duration(delay)));
    }
    lines.join("\n")
}

/// The code as the specification writes it, `NOT_FOUND`.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tonic_types::ErrorDetails;

    #[test]
    fn an_error_shows_its_fields_reason_and_when_to_try_again() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("requests[7].provider", "must not be empty")
            .set_error_info("INVALID_FIELD", "flowgate", [])
            .set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::InvalidArgument, "invalid request", details);
        assert_eq!(
            describe(&status),
            "invalid request\n  requests[7].provider: must not be empty\n  \
             INVALID_FIELD (INVALID_ARGUMENT)\n  trying again helps, after 2s"
        );
    }

    #[test]
    fn an_error_without_details_still_says_something() {
        assert_eq!(describe(&Status::new(Code::NotFound, "")), "NOT_FOUND\n  NOT_FOUND");
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(finish(Err(error.into())).is_ok());
    }
}

//! Executions as tables for people.

use prost_types::value::Kind;
use serde_json::Value;

use super::json::{from_struct, from_value};
use super::names::short;
use super::output::{fields, shortened, table};
use super::time::{show_between, show_duration, show_time};
use crate::pb::{Attempt, Error, ErrorCode, Execution, ExecutionState, WaitReason};

/// The longest reason in a list.
const REASON_WIDTH: usize = 60;

/// A row each.
pub(super) fn executions(executions: &[Execution]) -> String {
    let headings = ["ID", "PROVIDER", "STATE", "ATTEMPTS", "CREATED", "LABELS", "REASON"];
    let rows = executions.iter().map(|execution| {
        [
            execution.id.clone(),
            execution.provider.clone(),
            short::<ExecutionState>(execution.state),
            attempts_made(execution),
            execution.create_time.as_ref().map(show_time).unwrap_or_default(),
            labels(execution),
            shortened(&reason(execution), REASON_WIDTH),
        ]
    });
    table(headings, rows)
}

/// Everything about one.
pub(super) fn execution(execution: &Execution) -> String {
    let mut parts = vec![summary(execution)];
    if !execution.attempts.is_empty() {
        parts.push(attempts(&execution.attempts));
    }
    if let Some(input) = &execution.input {
        parts.push(section("input", &from_struct(input)));
    } else if !execution.input_json.is_empty() {
        parts.push(format!("input\n{}", execution.input_json));
    }
    if let Some(output) = &execution.output {
        parts.push(section("output", &from_value(output)));
    }
    parts.join("\n\n")
}

/// Why it waits, or why it ended as it did; empty if there is nothing to explain.
pub(super) fn reason(execution: &Execution) -> String {
    if let Some(error) = &execution.error {
        // The state says already that it was cancelled.
        if error.code() == ErrorCode::Cancelled {
            return explained(error.message.clone(), &execution.cancel_reason);
        }
        return error_text(error);
    }
    match &execution.wait_reason {
        Some(wait) => explained(short::<WaitReason>(wait.code), &wait.message),
        None if execution.cancel_requested_time.is_some() && execution.end_time.is_none() => {
            explained("cancel requested".to_owned(), &execution.cancel_reason)
        }
        None => String::new(),
    }
}

/// Its state by name.
pub(super) fn state(execution: &Execution) -> String {
    short::<ExecutionState>(execution.state)
}

/// Its place in the queue, where it was told.
fn position(execution: &Execution) -> Option<String> {
    (execution.queue_position > 0).then(|| execution.queue_position.to_string())
}

fn summary(execution: &Execution) -> String {
    let time = |time: &Option<_>| time.as_ref().map(show_time);
    let took = show_between(execution.start_time.as_ref(), execution.end_time.as_ref());
    fields([
        ("id", Some(execution.id.clone())),
        ("provider", Some(execution.provider.clone())),
        ("state", Some(state(execution))),
        ("reason", Some(reason(execution))),
        ("until", execution.wait_reason.as_ref().and_then(|wait| time(&wait.until))),
        ("queue position", position(execution)),
        ("labels", Some(labels(execution))),
        ("priority", (execution.priority != 0).then(|| execution.priority.to_string())),
        ("attempts", Some(attempts_made(execution))),
        ("crashes", (execution.crash_count != 0).then(|| execution.crash_count.to_string())),
        ("known as", execution.attempts.last().and_then(known_as)),
        ("created", time(&execution.create_time)),
        ("scheduled", time(&execution.schedule_time)),
        ("started", time(&execution.start_time)),
        ("ended", time(&execution.end_time)),
        ("took", took),
        ("cancel requested", time(&execution.cancel_requested_time)),
        ("queue timeout", execution.queue_timeout.as_ref().map(show_duration)),
        ("run timeout", execution.run_timeout.as_ref().map(show_duration)),
        ("request id", Some(execution.request_id.clone())),
        ("retry of", Some(execution.retry_of.clone())),
        ("trace id", Some(execution.trace_id.clone())),
        ("revision", Some(execution.revision.to_string())),
    ])
}

/// How its provider knows the newest attempt.
fn known_as(attempt: &Attempt) -> Option<String> {
    let ids = &attempt.handle.as_ref()?.fields;
    let pairs = ids.iter().map(|(name, id)| match &id.kind {
        Some(Kind::StringValue(id)) => format!("{name} {id}"),
        _ => name.clone(),
    });
    Some(pairs.collect::<Vec<_>>().join(", "))
}

fn attempts(attempts: &[Attempt]) -> String {
    let headings = ["ATTEMPT", "STARTED", "TOOK", "TOKENS IN/OUT", "WORKER", "ERROR"];
    let rows = attempts.iter().map(|attempt| {
        let usage = attempt.usage.as_ref();
        [
            attempt.number.to_string(),
            attempt.start_time.as_ref().map(show_time).unwrap_or_default(),
            show_between(attempt.start_time.as_ref(), attempt.end_time.as_ref())
                .unwrap_or_default(),
            usage.map(|u| format!("{}/{}", u.input_tokens, u.output_tokens)).unwrap_or_default(),
            attempt.worker_id.clone(),
            attempt.error.as_ref().map(error_text).unwrap_or_default(),
        ]
    });
    table(headings, rows)
}

fn section(name: &str, value: &Value) -> String {
    format!("{name}\n{value:#}")
}

fn attempts_made(execution: &Execution) -> String {
    format!("{}/{}", execution.attempt_count, execution.max_attempts)
}

fn labels(execution: &Execution) -> String {
    let pairs = execution.labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn error_text(error: &Error) -> String {
    explained(short::<ErrorCode>(error.code), &error.message)
}

fn explained(what: String, message: &str) -> String {
    if message.is_empty() { what } else { format!("{what}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::WaitStatus;

    #[test]
    fn a_list_says_of_each_why_it_does_not_run() {
        let waiting = Execution {
            id: "a".into(),
            provider: "claude".into(),
            state: ExecutionState::Pending.into(),
            max_attempts: 4,
            wait_reason: Some(WaitStatus {
                code: WaitReason::Limit.into(),
                message: "3 of 3 running".into(),
                until: None,
            }),
            ..Default::default()
        };
        let shown = executions(&[waiting]);
        let row = shown.lines().nth(1).expect("a row follows the headings");
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>().join(" "),
            "a claude PENDING 0/4 LIMIT: 3 of 3 running"
        );
    }

    #[test]
    fn what_is_not_set_takes_no_line() {
        let shown = execution(&Execution { id: "a".into(), ..Default::default() });
        assert!(!shown.contains("retry of") && !shown.contains("priority"), "{shown}");
    }
}

//! Executions as clients read them.

use serde_json::{Map, Value};

use super::enums;
use super::json::{to_struct, to_value};
use super::retry_policy;
use super::scalar::{to_duration, to_i32, to_i64, to_timestamp};
use crate::domain::{
    Attempt, ClosedBy, Failure, GateState, HeldBy, Hold, Input, Pause, ProviderName, State,
    Timestamp, TraceContext, Usage, Wait,
};
use crate::engine::View;
use crate::pb;
use crate::store::Payload;

/// An execution; without its payload in view BASIC.
pub(crate) fn execution(view: &View, payload: Payload) -> pb::Execution {
    let execution = &view.execution;
    let spec = &*execution.spec;
    let (input, input_json, output) = match payload {
        Payload::Without => (None, String::new(), None),
        Payload::With => {
            let (input, input_json) = input(&spec.input);
            (input, input_json, execution.output.as_deref().map(output))
        }
    };
    let (cancel_requested_at, cancel_reason) = execution.cancel.clone().unzip();
    pb::Execution {
        id: spec.id.to_string(),
        provider: spec.provider.to_string(),
        state: enums::state(execution.state).into(),
        wait_reason: wait_status(view),
        revision: view.revision,
        error: execution.failure.as_ref().map(error),
        output,
        input,
        input_json,
        priority: spec.priority,
        labels: spec.labels.clone(),
        attempt_count: to_i32(execution.charged),
        max_attempts: to_i32(spec.retry.max_attempts),
        attempts: execution.attempts.iter().map(attempt).collect(),
        create_time: Some(to_timestamp(spec.created_at)),
        schedule_time: spec.schedule_at.map(to_timestamp),
        start_time: execution.started_at().map(to_timestamp),
        end_time: execution.ended_at.map(to_timestamp),
        update_time: Some(to_timestamp(execution.updated_at)),
        cancel_requested_time: cancel_requested_at.map(to_timestamp),
        cancel_reason: cancel_reason.unwrap_or_default(),
        request_id: spec.client_request_id().unwrap_or_default().to_owned(),
        retry_of: spec.retry_of.map(|id| id.to_string()).unwrap_or_default(),
        crash_count: to_i32(execution.crashes),
        trace_id: spec.trace.as_ref().map(TraceContext::trace_id).unwrap_or_default().to_owned(),
        retry_policy: Some(retry_policy::to_pb(&spec.retry)),
        queue_timeout: spec.queue_timeout.map(to_duration),
        run_timeout: Some(to_duration(spec.run_timeout)),
        on_lost: enums::on_lost(spec.on_lost).into(),
        queue_position: view.ahead.map_or(0, |ahead| to_i64(ahead.saturating_add(1))),
    }
}

/// The input in the form it was given in.
fn input(input: &Input) -> (Option<prost_types::Struct>, String) {
    if input.exact {
        return (None, input.json.clone());
    }
    // Written from a map at submission, so it reads as one.
    let object = serde_json::from_str(&input.json).unwrap_or_default();
    (Some(to_struct(object)), String::new())
}

/// A result. One that is no JSON, which no provider leaves behind, is shown as the text it is.
fn output(json: &str) -> prost_types::Value {
    to_value(serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned())))
}

fn attempt(attempt: &Attempt) -> pb::Attempt {
    pb::Attempt {
        number: to_i32(attempt.number),
        worker_id: attempt.worker.to_string(),
        start_time: Some(to_timestamp(attempt.started_at)),
        end_time: attempt.ended_at.map(to_timestamp),
        error: attempt.end.as_ref().and_then(|end| end.failure.as_ref()).map(error),
        usage: attempt.usage().map(usage),
        handle: attempt.handle.as_ref().map(|handle| to_struct(handle.ids())),
    }
}

/// Tokens consumed.
pub(super) fn usage(usage: Usage) -> pb::Usage {
    let Usage { input_tokens, output_tokens } = usage;
    pb::Usage { input_tokens, output_tokens }
}

fn error(failure: &Failure) -> pb::Error {
    let details = failure.details.clone().map(|details| match details {
        Value::Object(details) => details,
        other => Map::from_iter([("value".to_owned(), other)]),
    });
    pb::Error {
        code: enums::error_code(failure.code).into(),
        message: failure.message.clone(),
        retryable: failure.retryable,
        details: details.map(to_struct),
    }
}

/// What a hold says to an execution that it holds back.
pub(super) fn held(provider: &ProviderName, hold: &Hold) -> pb::WaitStatus {
    let whose = match &hold.model {
        Some(model) => format!("model {model} of provider {provider}"),
        None => format!("provider {provider}"),
    };
    match &hold.by {
        HeldBy::Rate { until } => {
            let message = format!("the budget of this minute of {whose} is spent");
            waiting(pb::WaitReason::Rate, message, Some(*until))
        }
        HeldBy::Closed { cause, until, reason } => {
            let message = format!("{whose}: {}", closed(*cause, reason));
            waiting(pb::WaitReason::GateClosed, message, Some(*until))
        }
        HeldBy::Probing { cause, reason } => {
            let cause = closed(*cause, reason);
            let message = format!("one execution is let through to see at {whose}: {cause}");
            waiting(pb::WaitReason::GateClosed, message, None)
        }
        HeldBy::NoWorker => {
            let message = format!("no worker that lives is configured for {whose}");
            waiting(pb::WaitReason::NoWorker, message, None)
        }
    }
}

/// Why a pending execution does not run. What its provider's gate says goes first.
fn wait_status(view: &View) -> Option<pb::WaitStatus> {
    let execution = &view.execution;
    let provider = &execution.spec.provider;
    match execution.state {
        State::Pending => {}
        State::Running | State::Succeeded | State::Failed | State::Cancelled => return None,
    }
    match &view.gate {
        GateState::Open => {}
        GateState::Paused(pause) => return Some(paused(provider, pause)),
        GateState::Short(shortage) => {
            return Some(waiting(pb::WaitReason::Resource, shortage.lack.to_string(), None));
        }
        GateState::Closed { cause, until, reason } => {
            let message = closed(*cause, reason);
            return Some(waiting(pb::WaitReason::GateClosed, message, Some(*until)));
        }
        GateState::Probing { cause, reason } => {
            let message =
                format!("one execution is let through to see: {}", closed(*cause, reason));
            return Some(waiting(pb::WaitReason::GateClosed, message, None));
        }
        GateState::Held(holds) => {
            if let Some(hold) = holds.first() {
                return Some(held(provider, hold));
            }
        }
    }
    match execution.wait {
        Wait::None => None,
        Wait::Limit => {
            let message = format!("waiting for room under the limit of provider {provider}");
            Some(waiting(pb::WaitReason::Limit, message, None))
        }
        Wait::Scheduled { until } => {
            let message = format!("scheduled for {}", to_timestamp(until));
            Some(waiting(pb::WaitReason::Scheduled, message, Some(until)))
        }
        Wait::Backoff { until } => {
            let next = execution.attempts.len() + 1;
            let message = format!("next attempt, number {next}, at {}", to_timestamp(until));
            Some(waiting(pb::WaitReason::Backoff, message, Some(until)))
        }
    }
}

fn paused(provider: &ProviderName, pause: &Pause) -> pb::WaitStatus {
    let until = pause.until.map(|until| format!(" until {}", to_timestamp(until)));
    let until = until.unwrap_or_default();
    let message = match pause.reason.as_str() {
        "" => format!("provider {provider} is paused{until}"),
        reason => format!("provider {provider} is paused{until}: {reason}"),
    };
    waiting(pb::WaitReason::Paused, message, pause.until)
}

/// Why a gate closed by itself.
pub(super) fn closed(cause: ClosedBy, reason: &str) -> String {
    match cause {
        ClosedBy::RateLimit => format!("rate limited: {reason}"),
        ClosedBy::Failures => format!("the provider fails: {reason}"),
    }
}

fn waiting(code: pb::WaitReason, message: String, until: Option<Timestamp>) -> pb::WaitStatus {
    pb::WaitStatus { code: code.into(), message, until: until.map(to_timestamp) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::{
        AttemptEnd, Change, EndCause, ErrorCode, Event, Execution, ExecutionId, OnLost,
        RetryPolicy, Spec, Token, Usage, WorkerId,
    };
    use serde_json::json;

    pub(crate) fn view(input: Input) -> View {
        let spec = Spec {
            id: ExecutionId::new(),
            provider: "ollama".parse().unwrap(),
            input,
            demand: None,
            request_id: Some("mine".to_owned()),
            priority: -3,
            labels: [("team".to_owned(), "a".to_owned())].into(),
            schedule_at: None,
            queue_timeout: None,
            run_timeout: Duration::from_secs(600),
            retry: RetryPolicy::default(),
            on_lost: OnLost::Rerun,
            retry_of: None,
            trace: TraceContext::parse(
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                None,
            ),
            created_at: Timestamp::from_micros(1_000_000),
        };
        let execution = Execution::unlogged(Arc::new(spec));
        View { execution, gate: GateState::Open, ahead: None, revision: 0 }
    }

    fn plain() -> View {
        view(Input { json: r#"{"a":1}"#.to_owned(), exact: false })
    }

    fn apply(view: &mut View, revision: i64, change: Change) {
        let at = Timestamp::from_micros(revision * 1_000_000);
        let spec = &view.execution.spec;
        let (provider, execution) = (spec.provider.clone(), Some(spec.id));
        view.execution.apply(&Event { revision, at, provider, execution, change });
        view.revision = revision;
    }

    fn failed_attempt(view: &mut View, wait: Wait) {
        let worker = WorkerId::new();
        let claimed = Change::Claimed {
            token: Token(1),
            worker,
            attempt: 1,
            charged: 1,
            handle: None,
            reserved: None,
        };
        apply(view, 2, claimed);
        let mut failure = Failure::new(ErrorCode::Transient, true, "503");
        failure.details = Some(json!({"http_status": 503}));
        let ended = AttemptEnd {
            token: Token(1),
            worker,
            cause: EndCause::Failed,
            failure: Some(failure),
            usage: Some(Usage { input_tokens: 7, output_tokens: 9 }),
        };
        apply(view, 3, Change::Requeued { ended, wait, charged: 1, crashes: 0 });
    }

    fn reason(view: &View) -> Option<(pb::WaitReason, String, bool)> {
        execution(view, Payload::Without)
            .wait_reason
            .map(|wait| (wait.code(), wait.message.clone(), wait.until.is_some()))
    }

    #[test]
    fn the_basic_view_leaves_out_input_and_output() {
        let mut view = plain();
        view.execution.output = Some(r#"{"text":"hi"}"#.into());
        let basic = execution(&view, Payload::Without);
        assert_eq!((&basic.input, &basic.output), (&None, &None));
        let full = execution(&view, Payload::With);
        assert!(full.input.is_some() && full.output.is_some());
        assert_eq!(pb::Execution { input: None, output: None, ..full }, basic);
    }

    #[test]
    fn an_exact_input_comes_back_as_the_text_it_was() {
        let text = r#"{ "n": 123456789012345678901 }"#;
        let full = execution(&view(Input { json: text.to_owned(), exact: true }), Payload::With);
        assert_eq!((full.input, full.input_json.as_str()), (None, text));
    }

    #[test]
    fn a_submission_shows_what_it_was_made_of() {
        let shown = execution(&plain(), Payload::With);
        assert_eq!(shown.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((shown.priority, shown.request_id.as_str()), (-3, "mine"));
        assert_eq!((shown.max_attempts, shown.attempt_count), (4, 0));
        assert_eq!(shown.create_time, Some(prost_types::Timestamp { seconds: 1, nanos: 0 }));
        assert_eq!((shown.start_time, shown.end_time, shown.error), (None, None, None));
    }

    #[test]
    fn a_failed_attempt_is_told_in_full_while_the_execution_waits_for_the_next() {
        let mut view = plain();
        let until = Timestamp::from_micros(9_000_000);
        failed_attempt(&mut view, Wait::Backoff { until });
        let shown = execution(&view, Payload::Without);
        assert_eq!((shown.state(), shown.error.is_none()), (pb::ExecutionState::Pending, true));
        let attempt = &shown.attempts[0];
        let error = attempt.error.as_ref().expect("the attempt failed");
        assert_eq!((error.code(), error.retryable), (pb::ErrorCode::Transient, true));
        let details = error.details.as_ref().expect("there is more to say");
        assert!(details.fields.contains_key("http_status"));
        assert_eq!(attempt.usage.as_ref().map(|usage| usage.output_tokens), Some(9));
        let (code, message, has_until) = reason(&view).expect("it waits");
        assert_eq!((code, has_until), (pb::WaitReason::Backoff, true));
        assert_eq!(message, "next attempt, number 2, at 1970-01-01T00:00:09Z");
    }

    #[test]
    fn a_pause_covers_whatever_else_an_execution_waits_for() {
        let mut view = plain();
        assert_eq!(reason(&view), None);
        view.execution.wait = Wait::Limit;
        assert_eq!(reason(&view).map(|(code, _, _)| code), Some(pb::WaitReason::Limit));
        view.gate = GateState::Paused(Pause { reason: "invoice unpaid".to_owned(), until: None });
        let message = "provider ollama is paused: invoice unpaid".to_owned();
        assert_eq!(reason(&view), Some((pb::WaitReason::Paused, message, false)));
        view.execution.state = State::Running;
        assert_eq!(reason(&view), None);
    }
}

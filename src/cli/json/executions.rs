//! Executions and what their rpcs reply.

use serde_json::{Value, json};

use super::{Object, enum_name, from_struct, from_value};
use crate::pb;
use crate::pb::output_chunk::Content;
use crate::pb::watch_execution_response::Event;

/// Execution.
fn execution(execution: &pb::Execution) -> Value {
    let pb::Execution {
        id,
        provider,
        state,
        wait_reason,
        revision,
        error,
        output,
        input,
        input_json,
        priority,
        labels,
        attempt_count,
        max_attempts,
        attempts,
        create_time,
        schedule_time,
        start_time,
        end_time,
        update_time,
        cancel_requested_time,
        cancel_reason,
        request_id,
        retry_of,
        crash_count,
        trace_id,
        retry_policy,
        queue_timeout,
        run_timeout,
        on_lost,
        queue_position,
    } = execution;
    Object::default()
        .text("id", id)
        .text("provider", provider)
        .name::<pb::ExecutionState>("state", *state)
        .set("waitReason", wait_reason.as_ref().map(wait_status))
        .int64("revision", *revision)
        .set("error", error.as_ref().map(error_json))
        .set("output", output.as_ref().map(from_value))
        .set("input", input.as_ref().map(from_struct))
        .text("inputJson", input_json)
        .int32("priority", *priority)
        .map("labels", labels)
        .int32("attemptCount", *attempt_count)
        .int32("maxAttempts", *max_attempts)
        .list("attempts", attempts.iter().map(attempt))
        .time("createTime", create_time.as_ref())
        .time("scheduleTime", schedule_time.as_ref())
        .time("startTime", start_time.as_ref())
        .time("endTime", end_time.as_ref())
        .time("updateTime", update_time.as_ref())
        .time("cancelRequestedTime", cancel_requested_time.as_ref())
        .text("cancelReason", cancel_reason)
        .text("requestId", request_id)
        .text("retryOf", retry_of)
        .int32("crashCount", *crash_count)
        .text("traceId", trace_id)
        .set("retryPolicy", retry_policy.as_ref().map(retry_policy_json))
        .duration("queueTimeout", queue_timeout.as_ref())
        .duration("runTimeout", run_timeout.as_ref())
        .name::<pb::OnLost>("onLost", *on_lost)
        .int64("queuePosition", *queue_position)
        .done()
}

fn attempt(attempt: &pb::Attempt) -> Value {
    let pb::Attempt { number, worker_id, start_time, end_time, error, usage, handle } = attempt;
    Object::default()
        .int32("number", *number)
        .text("workerId", worker_id)
        .time("startTime", start_time.as_ref())
        .time("endTime", end_time.as_ref())
        .set("error", error.as_ref().map(error_json))
        .set("usage", usage.as_ref().map(usage_json))
        .set("handle", handle.as_ref().map(from_struct))
        .done()
}

pub(super) fn usage_json(usage: &pb::Usage) -> Value {
    let pb::Usage { input_tokens, output_tokens } = usage;
    Object::default()
        .int64("inputTokens", *input_tokens)
        .int64("outputTokens", *output_tokens)
        .done()
}

/// Error.
pub(in crate::cli) fn error_json(error: &pb::Error) -> Value {
    let pb::Error { code, message, retryable, details } = error;
    Object::default()
        .name::<pb::ErrorCode>("code", *code)
        .text("message", message)
        .boolean("retryable", *retryable)
        .set("details", details.as_ref().map(from_struct))
        .done()
}

fn wait_status(wait: &pb::WaitStatus) -> Value {
    let pb::WaitStatus { code, message, until } = wait;
    Object::default()
        .name::<pb::WaitReason>("code", *code)
        .text("message", message)
        .time("until", until.as_ref())
        .done()
}

pub(super) fn retry_policy_json(policy: &pb::RetryPolicy) -> Value {
    let pb::RetryPolicy {
        max_attempts,
        initial_backoff,
        max_backoff,
        backoff_multiplier,
        retry_on,
    } = policy;
    Object::default()
        .set("maxAttempts", max_attempts.map(Value::from))
        .duration("initialBackoff", initial_backoff.as_ref())
        .duration("maxBackoff", max_backoff.as_ref())
        .set("backoffMultiplier", backoff_multiplier.map(Value::from))
        .list("retryOn", retry_on.iter().map(|code| enum_name::<pb::ErrorCode>(*code)))
        .done()
}

/// Every reply that is an execution and perhaps `replayed`.
pub(in crate::cli) fn execution_reply(reply: &pb::Execution, replayed: bool) -> Value {
    Object::default().set("execution", Some(execution(reply))).boolean("replayed", replayed).done()
}

/// ListExecutionsResponse.
pub(in crate::cli) fn executions_page(page: &pb::ListExecutionsResponse) -> Value {
    let pb::ListExecutionsResponse { executions, next_page_token } = page;
    Object::default()
        .list("executions", executions.iter().map(execution))
        .text("nextPageToken", next_page_token)
        .done()
}

/// BatchCancelExecutionsResponse.
pub(in crate::cli) fn cancelled_batch(reply: &pb::BatchCancelExecutionsResponse) -> Value {
    let pb::BatchCancelExecutionsResponse {
        matched_count,
        cancelled_count,
        cancel_requested_count,
    } = reply;
    Object::default()
        .int64("matchedCount", *matched_count)
        .int64("cancelledCount", *cancelled_count)
        .int64("cancelRequestedCount", *cancel_requested_count)
        .done()
}

/// WatchExecutionResponse; WatchExecutionsResponse differs in its name alone.
pub(in crate::cli) fn watched(message: &pb::WatchExecutionResponse) -> Value {
    let pb::WatchExecutionResponse { revision, store_epoch, event } = message;
    let object = Object::default().int64("revision", *revision).text("storeEpoch", store_epoch);
    match event {
        None => object,
        Some(Event::Execution(change)) => object.set("execution", Some(execution(change))),
        Some(Event::Output(chunk)) => object.set("output", Some(output_chunk(chunk))),
        Some(Event::Heartbeat(pb::Heartbeat {})) => object.set("heartbeat", Some(json!({}))),
    }
    .done()
}

fn output_chunk(chunk: &pb::OutputChunk) -> Value {
    let pb::OutputChunk { execution_id, attempt, index, stream, content } = chunk;
    let object = Object::default()
        .text("executionId", execution_id)
        .int32("attempt", *attempt)
        .int64("index", *index)
        .name::<pb::OutputStream>("stream", *stream);
    match content {
        None => object,
        Some(Content::Text(text)) => object.set("text", Some(text.as_str().into())),
        Some(Content::Data(bytes)) => object.set("data", Some(base64(bytes).into())),
    }
    .done()
}

/// Standard base64 with padding. Too little to depend on a crate for.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > group.len() { '=' } else { letter.into() });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execution_is_printed_in_proto3_json() {
        let failed = pb::Execution {
            id: "0199".into(),
            state: pb::ExecutionState::Failed.into(),
            revision: 9_007_199_254_740_993,
            attempt_count: 2,
            labels: [("team".to_owned(), "a".to_owned())].into(),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 5_000_000 }),
            run_timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            error: Some(pb::Error { code: pb::ErrorCode::Timeout.into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(
            execution(&failed),
            json!({
                "id": "0199",
                "state": "EXECUTION_STATE_FAILED",
                "revision": "9007199254740993",
                "attemptCount": 2,
                "labels": {"team": "a"},
                "createTime": "1970-01-01T00:00:00.005Z",
                "runTimeout": "1.500s",
                "error": {"code": "ERROR_CODE_TIMEOUT"},
            })
        );
    }

    #[test]
    fn an_enum_value_from_a_newer_server_is_printed_as_its_number() {
        let later = pb::Execution { state: 99, ..Default::default() };
        assert_eq!(execution(&later), json!({"state": 99}));
    }

    #[test]
    fn a_oneof_is_printed_even_if_it_holds_a_default() {
        let chunk =
            pb::OutputChunk { content: Some(Content::Text(String::new())), ..Default::default() };
        assert_eq!(output_chunk(&chunk), json!({"text": ""}));
    }

    #[test]
    fn bytes_are_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}

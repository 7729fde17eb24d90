//! `claude` against llama.cpp, aimock, and replies written by hand from the vendor's documentation.

use flowgate::pb::ErrorCode;
use serde_json::json;

use super::cells::{Protocol, matrix};
use super::matrix::Gate;
use super::real::{Spoken, real};
use crate::support::providers::{Replay, Reply};

fn refusal(name: &str, message: &str) -> String {
    json!({ "type": "error", "error": { "type": name, "message": message }, "request_id": "req_1" })
        .to_string()
}

pub(super) const MESSAGES: Protocol = Protocol {
    kind: "claude",
    base: "",
    route: "POST /v1/messages",
    key: ("x-api-key", ""),
    input: || {
        json!({
            "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }],
        })
    },
    content_type: "text/event-stream; charset=utf-8",
    stream: concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m-1","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":11,"output_tokens":1}}}"#,
        "\n\n",
        "event: content_block_start\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        "\n\n",
        "event: ping\n",
        r#"data: {"type":"ping"}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
        "\n\n",
        "event: content_block_delta\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" there."}}"#,
        "\n\n",
        "event: content_block_stop\n",
        r#"data: {"type":"content_block_stop","index":0}"#,
        "\n\n",
        "event: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":7}}"#,
        "\n\n",
        "event: message_stop\n",
        r#"data: {"type":"message_stop"}"#,
        "\n\n",
    ),
    opening: 4,
    terminator: Some("event: message_stop"),
    output: || {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m-1",
            "content": [{ "type": "text", "text": "Hello there." }],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": { "input_tokens": 11, "output_tokens": 7 },
        })
    },
    usage: Some((11, 7)),
    refusal,
    told: Some(|name, message| {
        let name = if name == "server_error" { "api_error" } else { name };
        format!("event: error\ndata: {}\n\n", refusal(name, message))
    }),
};

matrix!(messages, super::MESSAGES);

const SPOKEN: Spoken = Spoken {
    kind: "claude",
    base: "",
    input: |text, tokens| {
        json!({
            "model": "tiny", "max_tokens": tokens, "temperature": 0,
            "messages": [{ "role": "user", "content": text }],
        })
    },
    text: |output| output["content"][0]["text"].as_str().unwrap_or_default(),
};

real!(real_messages, super::SPOKEN;
    llama_answers
    llama_refuses_a_wrong_key
    llama_refuses_what_is_too_long
    llama_stops_when_cancelled
    aimock_answers
    aimock_says_wait
    aimock_fails
    aimock_breaks_off
    a_first_chunk_is_seen_at_once
);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("claude", "http://127.0.0.1:9").start().await;
    let message = json!([{ "role": "user", "content": "x" }]);
    for (input, fields) in [
        (json!({}), vec!["input.model", "input.max_tokens", "input.messages"]),
        (json!({ "model": "m", "messages": message }), vec!["input.max_tokens"]),
        (json!({ "model": "m", "max_tokens": 0, "messages": message }), vec!["input.max_tokens"]),
        (json!({ "model": "m", "max_tokens": "9", "messages": message }), vec!["input.max_tokens"]),
        (json!({ "model": "m", "max_tokens": 1.5, "messages": message }), vec!["input.max_tokens"]),
        (json!({ "model": "m", "max_tokens": 1, "messages": {} }), vec!["input.messages"]),
        (json!({ "model": "m", "max_tokens": 1, "messages": [7] }), vec!["input.messages[0].role"]),
        (
            json!({ "model": "m", "max_tokens": 1, "messages": message, "stream": 1 }),
            vec!["input.stream"],
        ),
    ] {
        assert_eq!(gate.refused_fields(input.clone()).await, fields, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_of_llama_and_aimock_are_understood_byte_for_byte() {
    let replay = Replay::start().await;
    let gate = Gate::of("claude", &replay.url()).start().await;
    for name in ["llamacpp_anthropic_messages", "llamacpp_anthropic_messages_stream"] {
        replay.on(MESSAGES.route, Reply::transcript(name));
        let ended = gate.run((MESSAGES.input)()).await;
        assert_eq!((SPOKEN.text)(&ended.success()), ended.text(), "{name}");
        assert!(ended.usage().unwrap().1 > 0, "{name}");
    }
    replay.on(MESSAGES.route, Reply::transcript("aimock_anthropic_stream_cut"));
    gate.run((MESSAGES.input)()).await.failed(ErrorCode::Transient, "").kept_part();
    replay.on(MESSAGES.route, Reply::transcript("aimock_anthropic_429"));
    replay.on(MESSAGES.route, Reply::transcript("llamacpp_anthropic_messages"));
    let ended = gate.run((MESSAGES.input)()).await;
    ended.success();
    let error = ended.execution.attempts[0].error.clone().unwrap();
    assert_eq!((error.code(), error.message.contains("slow down")), (ErrorCode::RateLimited, true));
}

/// By hand from the vendor's documentation.
#[tokio::test(flavor = "multi_thread")]
async fn errors_are_classed_by_their_names() {
    let replay = Replay::start().await;
    let gate = Gate::of("claude", &replay.url()).start().await;
    for (status, name, code) in [
        (400, "invalid_request_error", ErrorCode::Permanent),
        (401, "authentication_error", ErrorCode::Permanent),
        (402, "billing_error", ErrorCode::Permanent),
        (403, "permission_error", ErrorCode::Permanent),
        (404, "not_found_error", ErrorCode::Permanent),
        (413, "request_too_large", ErrorCode::Permanent),
        (500, "api_error", ErrorCode::Transient),
        (504, "timeout_error", ErrorCode::Transient),
        // llama.cpp says so where messages are missing.
        (500, "server_error", ErrorCode::Transient),
    ] {
        let reply = Reply::new(status, "application/json", refusal(name, "so it is"));
        replay.on(MESSAGES.route, reply.header("request-id", "req_7"));
        let ended = gate.run((MESSAGES.input)()).await;
        ended.failed(code, "so it is");
        assert_eq!(ended.details()["provider_error"]["names"], json!([name]));
        assert_eq!(ended.details()["request_id"], json!("req_7"));
    }
    // Too busy, told in the middle of a stream: it costs no attempt.
    let told = format!("event: error\ndata: {}\n\n", refusal("overloaded_error", "Overloaded"));
    replay.on(MESSAGES.route, Reply::sse(&told));
    replay.on(MESSAGES.route, Reply::sse(MESSAGES.stream));
    let ended = gate.run((MESSAGES.input)()).await;
    ended.success();
    let error = ended.execution.attempts[0].error.clone().unwrap();
    assert_eq!(error.code(), ErrorCode::RateLimited);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_sent_and_can_be_configured() {
    let replay = Replay::start().await;
    replay.always(MESSAGES.route, Reply::sse(MESSAGES.stream));
    let gate = Gate::of("claude", &replay.url()).start().await;
    gate.run((MESSAGES.input)()).await.success();
    assert_eq!(replay.request(0).await.header("anthropic-version"), Some("2023-06-01"));
    let gate = Gate::of("claude", &replay.url());
    let headers = "headers = { anthropic-version = '2030-01-01', anthropic-beta = 'x-1' }";
    let gate = gate.with(headers).start().await;
    gate.run((MESSAGES.input)()).await.success();
    let request = replay.request(1).await;
    assert_eq!(request.header("anthropic-version"), Some("2030-01-01"));
    assert_eq!(request.header("anthropic-beta"), Some("x-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_a_failure_and_never_more() {
    let replay = Replay::start().await;
    let gate = Gate::of("claude", &replay.url()).start().await;
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "data: null\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
        "data: {\"type\":\"message_start\",\"message\":7}\n\n",
        "data: {\"type\":7}\n\n",
        "data: {\"type\":\"content_block_delta\"}\n\n",
        "<html>",
        "data: x\n\n",
        "{\"type\":\"message\",\"content\":null}",
        "data: {\"type\":\"content_block_delta\",\"index\":\"a\",\"delta\":{\"type\":\"citations_delta\"}}\n\n",
    ] {
        replay.on(MESSAGES.route, Reply::new(200, "text/event-stream", body));
        let (code, message) = gate.run((MESSAGES.input)()).await.failure();
        assert_eq!(code, ErrorCode::Transient, "{body}: {message}");
    }
}

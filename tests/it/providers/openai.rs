//! `openai` against llama.cpp, aimock, and replies written by hand from the vendor's documentation.

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::cells::{Protocol, matrix};
use super::matrix::Gate;
use super::real::{Spoken, real};
use crate::support::providers::{Replay, Reply};
use crate::support::{Config, Db};

fn refusal(name: &str, message: &str) -> String {
    json!({ "error": { "message": message, "type": name, "param": null, "code": null } })
        .to_string()
}

pub(super) const CHAT: Protocol = Protocol {
    kind: "openai",
    base: "/v1",
    route: "POST /v1/chat/completions",
    key: ("authorization", "Bearer "),
    input: || json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }),
    content_type: "text/event-stream",
    stream: concat!(
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","system_fingerprint":null,"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{"content":" there."},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#,
        "\n\n",
        "data: [DONE]\n\n",
    ),
    opening: 2,
    terminator: Some(
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"#,
    ),
    output: || {
        json!({
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m-1",
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": "Hello there.", "refusal": null },
            }],
            "usage": { "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 },
        })
    },
    usage: Some((11, 7)),
    refusal,
    told: Some(|name, message| format!("data: {}\n\n", refusal(name, message))),
};

matrix!(chat, super::CHAT);

const RESPONSES: Protocol = Protocol {
    kind: "openai",
    base: "/v1",
    route: "POST /v1/responses",
    key: ("authorization", "Bearer "),
    input: || json!({ "model": "m", "input": "hi" }),
    content_type: "text/event-stream",
    stream: concat!(
        "event: response.created\n",
        r#"data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","created_at":1,"status":"in_progress","error":null,"model":"m-1","output":[],"usage":null}}"#,
        "\n\n",
        "event: response.output_item.added\n",
        r#"data: {"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}}"#,
        "\n\n",
        "event: response.output_text.delta\n",
        r#"data: {"type":"response.output_text.delta","sequence_number":2,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hello"}"#,
        "\n\n",
        "event: response.output_text.delta\n",
        r#"data: {"type":"response.output_text.delta","sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"delta":" there."}"#,
        "\n\n",
        "event: response.completed\n",
        r#"data: {"type":"response.completed","sequence_number":4,"response":{"id":"resp_1","object":"response","created_at":1,"status":"completed","error":null,"model":"m-1","output":[{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello there.","annotations":[]}]}],"usage":{"input_tokens":11,"output_tokens":7,"total_tokens":18}}}"#,
        "\n\n",
    ),
    opening: 3,
    terminator: Some("event: response.completed"),
    output: || {
        json!({
            "id": "resp_1", "object": "response", "created_at": 1, "status": "completed",
            "error": null, "model": "m-1",
            "output": [{
                "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                "content": [{ "type": "output_text", "text": "Hello there.", "annotations": [] }],
            }],
            "usage": { "input_tokens": 11, "output_tokens": 7, "total_tokens": 18 },
        })
    },
    usage: Some((11, 7)),
    refusal,
    told: Some(|name, message| {
        let event = json!({ "type": "error", "code": name, "message": message, "param": null });
        format!("event: error\ndata: {event}\n\n")
    }),
};

matrix!(responses, super::RESPONSES);

const SPOKEN_CHAT: Spoken = Spoken {
    kind: "openai",
    base: "/v1",
    input: |text, tokens| {
        json!({
            "model": "tiny", "max_tokens": tokens, "temperature": 0,
            "messages": [{ "role": "user", "content": text }],
        })
    },
    text: |output| output["choices"][0]["message"]["content"].as_str().unwrap_or_default(),
};

real!(real_chat, super::SPOKEN_CHAT;
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

const SPOKEN_RESPONSES: Spoken = Spoken {
    input: |text, tokens| json!({ "model": "tiny", "max_output_tokens": tokens, "temperature": 0, "input": text }),
    text: |output| output["output"][0]["content"][0]["text"].as_str().unwrap_or_default(),
    ..SPOKEN_CHAT
};

real!(real_responses, super::SPOKEN_RESPONSES;
    llama_answers
    llama_refuses_a_wrong_key
    llama_refuses_what_is_too_long
    llama_stops_when_cancelled
    aimock_answers
    aimock_says_wait
    aimock_fails
    aimock_breaks_off
);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("openai", "http://127.0.0.1:9/v1").start().await;
    for (input, fields) in [
        (json!({}), vec!["input.model", "input"]),
        (json!({ "model": "", "input": "x" }), vec!["input.model"]),
        (json!({ "model": 7, "input": "x" }), vec!["input.model"]),
        (json!({ "model": "m", "input": [] }), vec!["input.input"]),
        (json!({ "model": "m", "input": 5 }), vec!["input.input"]),
        (json!({ "model": "m", "messages": [] }), vec!["input.messages"]),
        (json!({ "model": "m", "messages": "hi" }), vec!["input.messages"]),
        (
            json!({ "model": "m", "messages": [{ "role": "user" }, { "content": "x" }] }),
            vec!["input.messages[1].role"],
        ),
        (
            json!({ "model": "m", "messages": [{ "role": "user" }], "input": "x" }),
            vec!["input.input"],
        ),
        (json!({ "model": "m", "input": "x", "stream": "yes" }), vec!["input.stream"]),
        (
            json!({ "model": "m", "messages": [{ "role": "u" }], "background": true }),
            vec!["input.background"],
        ),
        (
            json!({ "model": "m", "input": "x", "headers": { "Authorization": "Bearer x" } }),
            vec!["input.headers.Authorization"],
        ),
    ] {
        assert_eq!(gate.refused_fields(input.clone()).await, fields, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_of_llama_are_understood_byte_for_byte() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    for (path, name, input, text) in [
        ("chat/completions", "llamacpp_openai_chat", CHAT.input, SPOKEN_CHAT.text),
        ("chat/completions", "llamacpp_openai_chat_stream", CHAT.input, SPOKEN_CHAT.text),
        ("responses", "llamacpp_openai_responses", RESPONSES.input, SPOKEN_RESPONSES.text),
        ("responses", "llamacpp_openai_responses_stream", RESPONSES.input, SPOKEN_RESPONSES.text),
    ] {
        replay.on(&format!("POST /v1/{path}"), Reply::transcript(name));
        let ended = gate.run(input()).await;
        assert_eq!(text(&ended.success()), ended.text(), "{name}");
        assert!(!ended.text().is_empty(), "{name}");
        assert!(ended.usage().unwrap().1 > 0, "{name}");
    }
    for (name, code) in [
        ("llamacpp_400_context", ErrorCode::Permanent),
        ("llamacpp_401", ErrorCode::Permanent),
        ("aimock_openai_stream_cut", ErrorCode::Transient),
    ] {
        replay.on(CHAT.route, Reply::transcript(name));
        gate.run((CHAT.input)()).await.failed(code, "");
    }
    replay.on(CHAT.route, Reply::transcript("aimock_openai_429"));
    replay.on(CHAT.route, Reply::transcript("llamacpp_openai_chat"));
    let ended = gate.run((CHAT.input)()).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 2);
}

/// By hand from the vendor's documentation.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_classed_by_its_name_before_its_status() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    let error = |kind: &str, code: &str| json!({ "error": { "message": "so it is", "type": kind, "code": code, "param": null } });
    let quota = error("insufficient_quota", "insufficient_quota");
    replay.on(CHAT.route, Reply::json(429, &quota));
    gate.run((CHAT.input)()).await.failed(ErrorCode::Permanent, "429 Too Many Requests: so it is");
    for (kind, code) in [("tokens", "rate_limit_exceeded"), ("requests", "rate_limit_exceeded")] {
        let reply = Reply::json(429, &error(kind, code));
        let reply = reply.header("x-ratelimit-remaining-tokens", "0");
        replay.on(CHAT.route, reply.header("x-ratelimit-reset-tokens", "1s"));
        replay.on(CHAT.route, Reply::sse(CHAT.stream));
        let ended = gate.run((CHAT.input)()).await;
        ended.success();
        let attempt = &ended.execution.attempts[0];
        assert_eq!(attempt.error.as_ref().unwrap().code(), ErrorCode::RateLimited);
    }
}

/// Streams as servers in use send them, against the letter of the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn a_sloppy_server_is_understood() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    let plain = |stream: &str| Reply::new(200, "text/event-stream", stream).chunked();
    let stream = CHAT.stream;
    let whole = || (CHAT.output)().to_string();
    let replies = [
        ("CRLF", plain(&stream.replace('\n', "\r\n"))),
        ("CRLF, byte by byte", plain(&stream.replace('\n', "\r\n")).pieces_of(1)),
        ("CR", plain(&stream.replace('\n', "\r"))),
        ("a byte order mark", plain(&format!("\u{feff}{stream}"))),
        ("comments", plain(&stream.replace("\n\n", "\n\n: keep-alive\n\n:\n"))),
        ("no space after the colon", plain(&stream.replace("data: ", "data:"))),
        ("no empty line at the end", plain(stream.trim_end())),
        ("events with names and ids", plain(&stream.replace("data: ", "event: x\nid: 1\ndata: "))),
        ("no DONE", plain(stream.split("data: [DONE]").next().unwrap())),
        ("more after DONE", plain(&format!("{stream}data: {{nonsense\n\n"))),
        ("the wrong type", Reply::new(200, "application/json", stream).chunked()),
        ("no type", Reply::new(200, "", stream)),
        ("not streamed", Reply::new(200, "application/json", whole())),
        (
            "not streamed, with spaces first",
            Reply::new(200, "text/plain", format!("\n\n {}", whole())),
        ),
        (
            "not streamed, with a mark",
            Reply::new(200, "application/json", format!("\u{feff}{}", whole())),
        ),
        ("not streamed, called events", Reply::new(200, "text/event-stream", whole()).pieces_of(3)),
    ];
    for (what, reply) in replies {
        replay.on(CHAT.route, reply);
        let ended = gate.run((CHAT.input)()).await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{what}: {:?}", ended.execution.error);
        assert_eq!(ended.output(), (CHAT.output)(), "{what}");
        assert_eq!(ended.text(), "Hello there.", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_a_failure_and_never_more() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    let deep = "[".repeat(100_000);
    let bodies: Vec<Vec<u8>> = [
        "",
        "\n\n",
        "null",
        "[]",
        "{}",
        "data: null\n\n",
        "data: []\n\ndata: [DONE]\n\n",
        "data: [DONE]\n\n",
        "data: {\"choices\":null}\n\ndata: [DONE]\n\n",
        "data: {\"choices\":{}}\n\n",
        "data: 7\n\n",
        "{\"choices\":[]}",
        "{\"choices\":null,\"usage\":null}",
        "{\"error\":\"no\"}",
        "{\"error\":{}}",
        "<html>sign in</html>",
        "data: {\"choices\":[{\"index\":-1,\"delta\":7}]}\n\n",
        &deep,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([
        b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n".to_vec(),
        b"\xff\xfe\x00\x01".to_vec(),
        format!("data: {{\"x\":{deep}\n\n").into_bytes(),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec(),
    ])
    .collect();
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        replay.on(CHAT.route, Reply::new(200, "text/event-stream", body));
        let (code, message) = gate.run((CHAT.input)()).await.failure();
        assert_eq!(code, ErrorCode::Transient, "{shown}: {message}");
        assert!(message.len() < 1_200, "{shown}: {message}");
    }
    assert_eq!(gate.server.http_get("/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tiny_chunks_cost_little() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    let tiny = |n: usize| {
        let chunk = json!({ "choices": [{ "index": 0, "delta": { "content": "x" } }] });
        let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
        Reply::sse(
            &(format!("data: {chunk}\n\n").repeat(n) + &format!("data: {end}\n\ndata: [DONE]\n\n")),
        )
    };
    let mut took = Vec::new();
    for n in [20_000, 160_000] {
        replay.on(CHAT.route, tiny(n));
        let began = std::time::Instant::now();
        let ended = gate.run((CHAT.input)()).await;
        took.push(began.elapsed());
        assert_eq!((SPOKEN_CHAT.text)(&ended.success()).len(), n);
        assert_eq!(ended.text().len(), n);
        assert!(ended.chunks().len() < n / 10, "{} chunks were stored", ended.chunks().len());
    }
    println!("20,000 and 160,000 chunks took {took:?}");
}

/// What PostgreSQL cannot keep as text goes through all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_databases_dislike_is_kept() {
    for db in [Db::Sqlite, Db::Postgres] {
        let replay = Replay::start().await;
        let gate = Gate::of("openai", &(replay.url() + "/v1"));
        let env = |config: Config| config.env("MATRIX_KEY", "key-of-the-matrix");
        let gate = gate.config(|_| env(Config::on(db))).start().await;
        replay.on(CHAT.route, Reply::sse(&CHAT.stream.replace("Hello", r"H\u0000llo\ud83d\ude00")));
        let ended = gate.run((CHAT.input)()).await;
        assert_eq!((SPOKEN_CHAT.text)(&ended.success()), "H\0llo\u{1f600} there.");
        assert_eq!(ended.text(), "H\0llo\u{1f600} there.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    for _ in 0..4 {
        replay.on(CHAT.route, Reply::sse(CHAT.stream).pieces_of(50));
        gate.run((CHAT.input)()).await.success();
    }
    let mut ports: Vec<u16> = replay.requests().iter().map(|request| request.from_port).collect();
    ports.dedup();
    assert_eq!(ports.len(), 1, "{ports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_choice_of_two_is_not_the_answer() {
    let replay = Replay::start().await;
    let gate = Gate::of("openai", &(replay.url() + "/v1")).start().await;
    let choice = |index: u32, text: &str, reason: Value| {
        let choice =
            json!({ "index": index, "delta": { "content": text }, "finish_reason": reason });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    let first = choice(0, "one", "stop".into());
    let mut input = (CHAT.input)();
    input["n"] = json!(2);
    replay.on(CHAT.route, Reply::sse(&first));
    gate.run(input.clone()).await.failed(ErrorCode::Transient, "complete").kept_part();
    replay.on(CHAT.route, Reply::sse(&(first + &choice(1, "two", "stop".into()))));
    let output = gate.run(input).await.success();
    assert_eq!(output["choices"][1]["message"]["content"], json!("two"));
}

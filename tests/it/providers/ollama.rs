//! `ollama` against transcripts of the real server, byte for byte, aimock, and replies written by
//! hand in the shape of the transcripts.

use flowgate::pb::ErrorCode;
use serde_json::json;

use super::cells::{Protocol, matrix};
use super::matrix::Gate;
use super::real::{Spoken, real};
use crate::support::providers::{Replay, Reply, transcripts};

fn refusal(_: &str, message: &str) -> String {
    json!({ "error": message }).to_string()
}

const CHAT: Protocol = Protocol {
    kind: "ollama",
    base: "",
    route: "POST /api/chat",
    key: ("authorization", "Bearer "),
    input: || json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }),
    content_type: "application/x-ndjson",
    stream: concat!(
        r#"{"model":"m","created_at":"t1","message":{"role":"assistant","content":"Hello"},"done":false}"#,
        "\n",
        r#"{"model":"m","created_at":"t2","message":{"role":"assistant","content":" there."},"done":false}"#,
        "\n",
        r#"{"model":"m","created_at":"t3","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":11,"eval_count":7}"#,
        "\n",
    ),
    opening: 1,
    terminator: Some("}\n"),
    output: || {
        json!({
            "model": "m", "created_at": "t3",
            "message": { "role": "assistant", "content": "Hello there." },
            "done": true, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 7,
        })
    },
    usage: Some((11, 7)),
    refusal,
    told: Some(|name, message| refusal(name, message) + "\n"),
};

matrix!(chat, super::CHAT);

const GENERATE: Protocol = Protocol {
    route: "POST /api/generate",
    input: || json!({ "model": "m", "prompt": "hi" }),
    stream: concat!(
        r#"{"model":"m","created_at":"t1","response":"Hello","done":false}"#,
        "\n",
        r#"{"model":"m","created_at":"t2","response":" there.","done":false}"#,
        "\n",
        r#"{"model":"m","created_at":"t3","response":"","done":true,"done_reason":"stop","context":[1,2],"prompt_eval_count":11,"eval_count":7}"#,
        "\n",
    ),
    output: || {
        json!({
            "model": "m", "created_at": "t3", "response": "Hello there.", "context": [1, 2],
            "done": true, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 7,
        })
    },
    ..CHAT
};

matrix!(generate, super::GENERATE);

const SPOKEN_CHAT: Spoken = Spoken {
    kind: "ollama",
    base: "",
    input: |text, tokens| {
        json!({
            "model": "tiny", "options": { "num_predict": tokens },
            "messages": [{ "role": "user", "content": text }],
        })
    },
    text: |output| output["message"]["content"].as_str().unwrap_or_default(),
};

real!(real_chat, super::SPOKEN_CHAT;
    aimock_answers
    aimock_says_wait
    aimock_fails
    aimock_breaks_off
);

const SPOKEN_GENERATE: Spoken = Spoken {
    input: |text, _| json!({ "model": "tiny", "prompt": text }),
    text: |output| output["response"].as_str().unwrap_or_default(),
    ..SPOKEN_CHAT
};

real!(real_generate, super::SPOKEN_GENERATE;
    aimock_answers
    aimock_says_wait
    aimock_fails
    aimock_breaks_off
);

/// What each transcript of an answer to chat or generate is to become: the text of the result and
/// the tokens, or the code and message of the failure.
enum Becomes {
    Result(&'static str, (i64, i64)),
    Failure(ErrorCode, &'static str),
}

const FIRST_WORDS: &str = " after form did but no";

#[tokio::test(flavor = "multi_thread")]
async fn every_transcript_of_the_real_server_has_its_outcome() {
    use Becomes::{Failure, Result};
    let killed = "an error was encountered while running the model: unexpected EOF";
    let outcomes = [
        ("ollama_chat", Result(FIRST_WORDS, (21, 5))),
        ("ollama_chat_bad_json", Failure(ErrorCode::Permanent, "invalid character 'b'")),
        ("ollama_chat_natural_stop", Result(" after form did but no like was", (21, 66))),
        (
            "ollama_chat_no_model",
            Failure(ErrorCode::Permanent, "400 Bad Request: model is required"),
        ),
        ("ollama_chat_runner_killed", Failure(ErrorCode::Transient, killed)),
        ("ollama_chat_stream", Result(FIRST_WORDS, (21, 5))),
        ("ollama_chat_unknown_model", Failure(ErrorCode::Permanent, "model 'nope' not found")),
        ("ollama_generate", Result(FIRST_WORDS, (21, 5))),
        ("ollama_generate_stream", Result(FIRST_WORDS, (21, 5))),
    ];
    let replay = Replay::start().await;
    let gate = Gate::of("ollama", &replay.url()).start().await;
    // What answers something else is asked for by nobody; one file has a note of its own in it.
    let other = ["ollama_ps", "ollama_show", "ollama_tags", "ollama_version"];
    let special = "ollama_chat_stream_runner_killed";
    let mut names = transcripts("ollama_");
    names.retain(|name| !other.contains(&name.as_str()) && name != special);
    assert_eq!(names, outcomes.each_ref().map(|(name, _)| *name), "each has its outcome here");
    for (name, outcome) in outcomes {
        let is_generate = name.contains("generate");
        let protocol = if is_generate { &GENERATE } else { &CHAT };
        for reply in [Reply::transcript(name), Reply::transcript(name).pieces_of(5)] {
            replay.on(protocol.route, reply);
            let ended = gate.run((protocol.input)()).await;
            match &outcome {
                Failure(code, message) => {
                    ended.failed(*code, message);
                }
                Result(text, usage) => {
                    let output = ended.success();
                    assert!(ended.text().starts_with(text), "{name}: {}", ended.text());
                    let of = if is_generate { SPOKEN_GENERATE.text } else { SPOKEN_CHAT.text };
                    assert_eq!(of(&output), ended.text(), "{name}");
                    assert_eq!(output["done"], json!(true), "{name}");
                    assert_eq!(ended.usage(), Some(*usage), "{name}");
                }
            }
        }
    }
}

/// In the file a line says that others were left out; a line like that is no answer's, so this takes
/// what stands around it.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_line_after_a_200_is_a_failure() {
    let replay = Replay::start().await;
    let gate = Gate::of("ollama", &replay.url()).start().await;
    let name = "ollama_chat_stream_runner_killed";
    let file = std::fs::read_to_string(format!("tests/servers/transcripts/{name}.txt")).unwrap();
    let lines = file.lines().filter(|line| line.starts_with('{'));
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    replay.on(CHAT.route, Reply::new(200, "application/x-ndjson", body).chunked());
    let ended = gate.run((CHAT.input)()).await;
    ended.failed(ErrorCode::Transient, "unexpected EOF").kept_part();
    assert_eq!(ended.text(), " see oil have before now at live");
    assert_eq!((SPOKEN_CHAT.text)(&ended.output()), ended.text());
    // As it stands in the file it is a broken answer, whose beginning is kept as well.
    replay.on(CHAT.route, Reply::transcript(name));
    let ended = gate.run((CHAT.input)()).await;
    ended.failed(ErrorCode::Transient, "").kept_part();
    assert_eq!(ended.text(), " see oil have before now at");
}

/// Seen of the real server with a model that says nothing but blanks, see `format: json`.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_done_is_a_failure() {
    let replay = Replay::start().await;
    let gate = Gate::of("ollama", &replay.url()).start().await;
    let answer = json!({ "model": "tiny", "message": { "role": "assistant", "content": "\n\n" }, "done": false });
    for answer in [answer.to_string(), answer.to_string() + "\n"] {
        replay.on(CHAT.route, Reply::new(200, "application/json; charset=utf-8", answer));
        gate.run((CHAT.input)()).await.failed(ErrorCode::Transient, "done: true").kept_part();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("ollama", "http://127.0.0.1:9").start().await;
    for (input, fields) in [
        (json!({}), vec!["input.model", "input"]),
        (
            json!({ "model": "m", "messages": [{ "role": "user" }], "prompt": "x" }),
            vec!["input.prompt"],
        ),
        (json!({ "model": "m", "messages": [] }), vec!["input.messages"]),
        (json!({ "model": "m", "messages": [{ "role": "" }] }), vec!["input.messages[0].role"]),
        (json!({ "model": "m", "prompt": 5 }), vec!["input.prompt"]),
        (json!({ "model": "m", "prompt": "x", "stream": "no" }), vec!["input.stream"]),
    ] {
        assert_eq!(gate.refused_fields(input.clone()).await, fields, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_thoughts_are_put_together_by_hand() {
    let replay = Replay::start().await;
    let gate = Gate::of("ollama", &replay.url()).start().await;
    let call = json!({ "function": { "name": "weather", "arguments": { "city": "Rome" } } });
    let lines = [
        json!({ "model": "m", "message": { "role": "assistant", "content": "", "thinking": "h" }, "done": false }),
        json!({ "model": "m", "message": { "role": "assistant", "content": "", "thinking": "m" }, "done": false }),
        json!({ "model": "m", "message": { "role": "assistant", "content": "", "tool_calls": [call] }, "done": false }),
        json!({ "model": "m", "message": { "role": "assistant", "content": "" }, "done": true, "done_reason": "stop" }),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\r\n\r\n")).collect();
    replay.on(CHAT.route, Reply::new(200, "application/x-ndjson", format!("\u{feff}{body}")));
    let output = gate.run((CHAT.input)()).await.success();
    let message =
        json!({ "role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call] });
    assert_eq!(output["message"], message);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_a_failure_and_never_more() {
    let replay = Replay::start().await;
    let gate = Gate::of("ollama", &replay.url()).start().await;
    for body in [
        "",
        "\n\n",
        "null\n",
        "[]\n",
        "7\n",
        "{\n",
        "{}\n",
        "{\"done\":\"true\"}\n",
        "{\"message\":7}\n",
        "{\"message\":{\"content\":7}}\n",
        "<html>\n",
        "{\"error\":{}}\n",
        "{\"error\":7}\n",
        "\u{0}\n",
    ] {
        replay.on(CHAT.route, Reply::new(200, "application/x-ndjson", body));
        let (code, message) = gate.run((CHAT.input)()).await.failure();
        assert_eq!(code, ErrorCode::Transient, "{body}: {message}");
    }
}

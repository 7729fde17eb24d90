//! What a call of a provider tells, and what it must not.

use flowgate::pb::ExecutionState;
use serde_json::{Value, json};

use super::{TRACE, attempt, child, submit_traced, traceparent};
use crate::support::collector::{Collector, Span};
use crate::support::providers::{Replay, Reply};
use crate::support::{Config, TestServer, submit};

const KEY: &str = "key-that-nobody-is-to-see";
const PROMPT: &str = "prompt-that-nobody-is-to-see";
const PATH: &str = "path-that-nobody-is-to-see";
const ANSWER: &str = "answer-that-nobody-is-to-see";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_told_by_name_and_tokens_and_never_by_what_was_said() {
    let (collector, replay) = (Collector::start().await, Replay::start().await);
    let route = "POST /v1/chat/completions";
    let failure =
        json!({ "error": { "message": format!("{KEY} {PROMPT}"), "type": "server_error" } });
    replay.on(route, Reply::json(500, &failure));
    let chunk = json!({
        "id": "c1", "model": "tiny-2", "usage": { "prompt_tokens": 7, "completion_tokens": 3 },
        "choices": [{ "index": 0, "delta": { "content": ANSWER }, "finish_reason": "stop" }],
    });
    replay.on(route, Reply::sse(&format!("data: {chunk}\n\ndata: [DONE]\n\n")));
    let base = replay.url();
    let toml = format!(
        "[providers.model]\nkind = 'openai'\nbase_url = '{base}/v1'\napi_key_env = 'MODEL_KEY'\n\
         headers = {{ X-Second = {{ env = 'MODEL_KEY' }} }}\n"
    );
    let config = Config::new().env("MODEL_KEY", KEY).env("FLOWGATE_TRACE_LEVEL", "debug");
    let server = TestServer::start(collector.of(config).toml(&toml)).await;
    let messages = json!([{ "role": "user", "content": PROMPT }]);
    let input = json!({ "model": "tiny", "messages": messages });
    let (execution, _) = submit_traced(&server, submit("model", input), "01").await;
    let ended = server.ended(&execution.id).await;
    assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");

    for (number, status) in [(1, 500), (2, 200)] {
        let attempt = attempt(&collector, &execution.id, number).await;
        let call = child(&collector, "chat tiny", &attempt).await;
        let http = child(&collector, "POST", &call).await;
        assert_eq!((call.kind, http.kind), ("client", "client"));
        assert_eq!((call.is_error, http.is_error), (number == 1, number == 1));
        for (name, value) in [
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "tiny"),
            ("provider", "model"),
            ("provider.kind", "openai"),
        ] {
            assert!(call.is(name, value), "{name} in {call:?}");
        }
        assert!(http.is("http.response.status_code", status), "{http:?}");
        assert!(http.is("http.request.method", "POST") && http.is("server.address", "127.0.0.1"));
        assert!(http.is("url.full", format!("{}/v1/chat/completions", replay.url())), "{http:?}");
        let sent = replay.request(number as usize - 1).await;
        assert_eq!(sent.header("traceparent"), Some(traceparent(&http).as_str()));
        assert_eq!(sent.header("tracestate"), Some("rojo=1"));
        if number == 2 {
            assert!(call.is("gen_ai.usage.input_tokens", 7), "{call:?}");
            assert!(call.is("gen_ai.usage.output_tokens", 3), "{call:?}");
            assert!(
                call.is("gen_ai.response.model", "tiny-2") && call.is("gen_ai.response.id", "c1")
            );
            assert!(call.is("gen_ai.response.finish_reasons", json!(["stop"])), "{call:?}");
        }
    }
    collector.span("transaction", |_| true).await;
    hold_nothing(&collector.spans(), &[KEY, PROMPT, ANSWER]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_input_puts_into_a_path_is_not_told() {
    let (collector, replay) = (Collector::start().await, Replay::start().await);
    replay.always(&format!("POST /base/{PATH}"), Reply::json(200, &json!({})));
    replay.always(&format!("POST /base/webhook/{PATH}"), Reply::json(200, &json!({})));
    let base = format!("{}/base", replay.url());
    let toml = format!(
        "[providers.http]\nkind = 'http'\nbase_url = '{base}'\n\
         [providers.n8n]\nkind = 'n8n'\nbase_url = '{base}'\n"
    );
    let config = Config::new().env("FLOWGATE_TRACE_LEVEL", "debug");
    let server = TestServer::start(collector.of(config).toml(&toml)).await;
    let path = format!("/{PATH}?a={PATH}");
    for (provider, input, template) in [
        ("http", json!({ "method": "POST", "path": path }), Value::Null),
        ("n8n", json!({ "webhook": path }), json!("/base/webhook/{webhook}")),
    ] {
        let execution = server.submit(submit(provider, input)).await;
        let ended = server.ended(&execution.id).await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
        let attempt = attempt(&collector, &execution.id, 1).await;
        let call = child(&collector, &format!("call {provider}"), &attempt).await;
        let http = child(&collector, "POST", &call).await;
        assert!(http.is("url.full", base.as_str()), "{http:?}");
        assert_eq!(http.get("url.template"), template, "{http:?}");
        child(&collector, "settle", &attempt).await;
    }
    assert_eq!(replay.request(0).await.target, format!("/base{path}"));
    hold_nothing(&collector.spans(), &[PATH]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_told_its_trace_and_only_its_exit_is_told_of_it() {
    let collector = Collector::start().await;
    let script = format!(
        "#!/bin/sh\nprintf '%s %s' \"$TRACEPARENT\" \"$TRACESTATE\"\necho {ANSWER} >&2\nexit 3\n"
    );
    let server = TestServer::start(collector.of(Config::new().module("told", &script))).await;
    let input = json!({ "module": "told", "args": [PROMPT] });
    let (execution, _) = submit_traced(&server, submit("process", input), "01").await;
    let ended = server.ended(&execution.id).await;
    let call = collector.span("call process", |span| span.trace == TRACE).await;
    assert_eq!((call.kind, call.is_error), ("internal", true));
    assert!(call.is("process.exit.code", 3) && call.is("error.type", "MODULE_FAILED"), "{call:?}");
    let said = format!("{:?}", ended.output);
    assert!(said.contains(&format!("{} rojo=1", traceparent(&call))), "{said}");
    hold_nothing(&collector.spans(), &[PROMPT, ANSWER]);
}

/// Asserts that no span has any of these in it.
fn hold_nothing(spans: &[Span], secrets: &[&str]) {
    let told: Vec<Value> = spans.iter().map(|span| json!(format!("{span:?}"))).collect();
    for secret in secrets {
        let found = told.iter().find(|span| span.as_str().unwrap_or_default().contains(secret));
        assert_eq!(found, None, "{secret} is told");
    }
}

//! `n8n` against transcripts of the real server, and replies written by hand where they do not show
//! the case: those are marked. `tests/real_providers` has it against the server itself.

mod stops;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::jobs::{RateLimits, all_show_the_key, asked, handle, handles, is_asked};
use super::matrix::{Gate, KEY, Started};
use crate::support::providers::{Ending, Replay, Reply};

const WEBHOOK: &str = "POST /webhook/async";
const EXECUTION: &str = "GET /api/v1/executions/*";
const STOP: &str = "POST /api/v1/executions/*/stop";

fn input() -> Value {
    json!({ "webhook": "async", "body": { "text": "hi", "mode": "sleep", "seconds": 3 } })
}

/// What the real server says of a workflow that answers with the id of its execution, 4.
async fn replayed() -> Replay {
    let replay = Replay::start().await;
    replay.always(WEBHOOK, Reply::transcript("n8n_webhook_async"));
    replay.always(EXECUTION, Reply::transcript("n8n_execution_success"));
    replay.always(STOP, Reply::transcript("n8n_stop"));
    replay
}

/// The same, but the execution does not end.
async fn unending() -> Replay {
    let replay = replayed().await;
    replay.always(EXECUTION, Reply::transcript("n8n_execution_running"));
    replay
}

async fn started(replay: &Replay) -> Started {
    Gate::of("n8n", &replay.url()).start().await
}

/// By hand: an execution as the transcripts have it, with another status.
fn execution(status: &str, result: &Value) -> Reply {
    let data = json!({ "resultData": result });
    Reply::json(200, &json!({ "id": "4", "status": status, "data": data }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_tells_an_id_is_followed_to_the_last_nodes_items() {
    let replay = replayed().await;
    // Right after the answer it may not be known yet.
    replay.on(EXECUTION, Reply::json(404, &json!({ "message": "Not Found" })));
    replay.on(EXECUTION, Reply::transcript("n8n_execution_running"));
    // By hand: it waits for something, or does what only a later version knows.
    replay.on(EXECUTION, execution("waiting", &Value::Null));
    replay.on(EXECUTION, execution("resting", &Value::Null));
    let ended = started(&replay).await.run(input()).await;
    assert_eq!(ended.success(), json!([{ "result": "step saw hi", "executionId": "4" }]));
    assert_eq!(handles(&ended), [json!({ "execution_id": "4" })]);
    assert_eq!(asked(&replay, WEBHOOK).len(), 1);
    let last = asked(&replay, EXECUTION).pop().unwrap();
    assert_eq!(last.target, "/api/v1/executions/4?includeData=true");
    all_show_the_key(&replay, EXECUTION, "x-n8n-api-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_called_as_the_input_says_and_without_the_apis_key() {
    let replay = replayed().await;
    replay.on("PUT /webhook/a/b", Reply::transcript("n8n_webhook_lastnode"));
    let gate = Gate::of("n8n", &replay.url());
    let gate = gate.with("headers = { X-Hook-Key = { env = 'MATRIX_HOOK' } }");
    let gate = gate.config(|config| config.env("MATRIX_HOOK", "hook-secret")).start().await;
    let asked = json!({
        "webhook": "/a/b?c=d", "method": "PUT", "body": [1, "zwei"],
        "headers": { "X-Mine": "7", "X-Hook-Key": "forged" },
    });
    gate.run(asked).await.success();
    let request = replay.request(0).await;
    assert_eq!(request.target, "/webhook/a/b?c=d");
    assert_eq!(request.json(), json!([1, "zwei"]));
    assert_eq!(request.header("x-mine"), Some("7"));
    assert_eq!(request.header("x-hook-key"), Some("hook-secret"), "the configuration decides");
    assert_eq!(request.header("x-n8n-api-key"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_any_other_webhook_is_the_output() {
    let replay = replayed().await;
    let gate = started(&replay).await;
    replay.on(WEBHOOK, Reply::transcript("n8n_webhook_lastnode"));
    let output = gate.run(input()).await.success();
    assert_eq!(output["result"], "echo:hi", "{output}");
    // By hand: what workflows may answer with.
    let started = json!({ "message": "Workflow was started" });
    for (reply, output) in [
        (Reply::json(200, &started), started.clone()),
        (Reply::json(200, &json!([{ "a": 1 }])), json!([{ "a": 1 }])),
        (Reply::json(200, &json!(7)), json!(7)),
        (Reply::new(200, "text/html", "<p>7</p>"), json!("<p>7</p>")),
        (Reply::new(200, "text/html", "7"), json!("7")),
        (Reply::new(204, "text/plain", ""), Value::Null),
        (
            Reply::new(200, "image/png", b"\xff\xfe".as_slice()),
            json!({ "body": "//4=", "body_encoding": "base64" }),
        ),
    ] {
        replay.on(WEBHOOK, reply);
        assert_eq!(gate.run(input()).await.success(), output);
    }
    assert!(asked(&replay, EXECUTION).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_for_the_api_the_answer_is_the_output() {
    let replay = replayed().await;
    let gate = Gate::at("n8n", &format!("base_url = {:?}", replay.url())).start().await;
    assert_eq!(gate.run(input()).await.success(), json!({ "executionId": "4" }));

    let missing = format!("base_url = {:?}\napi_key_env = 'NOT_SET'", replay.url());
    let gate = Gate::at("n8n", &missing).start().await;
    gate.run(input()).await.failed(ErrorCode::Permanent, "key is missing");
    assert_eq!(replay.requests().len(), 1, "only where the key is there is anything begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_refuses_is_permanent() {
    for (name, says) in [
        ("n8n_webhook_403", "Authorization data is wrong!"),
        ("n8n_webhook_404", "is not registered"),
        ("n8n_webhook_422", "Failed to parse request body"),
    ] {
        let replay = replayed().await;
        replay.on(WEBHOOK, Reply::transcript(name));
        let gate = started(&replay).await;
        let id = gate.submit_tried(input(), 3).await;
        gate.ended(&id).await.failed(ErrorCode::Permanent, says);
        assert_eq!(replay.requests().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_for_the_api_is_permanent() {
    let replay = replayed().await;
    replay.on(EXECUTION, Reply::transcript("n8n_api_401"));
    let ended = started(&replay).await.run(input()).await;
    ended.failed(ErrorCode::Permanent, "401 Unauthorized");
    assert_eq!(ended.details()["handle"]["execution_id"], "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("n8n", "http://127.0.0.1:1").start().await;
    let refused = async |input: Value| gate.refused_fields(input).await;
    assert_eq!(refused(json!({ "body": 1 })).await, ["input.webhook"]);
    for out in ["", "/", "../api/v1/users", "a/../../b", "a/%2e%2e/b", "a\\b", "//host/a", "a#b"] {
        assert_eq!(refused(json!({ "webhook": out })).await, ["input.webhook"], "{out}");
    }
    let cases = [
        ("method", json!("TRACE")),
        ("headers", json!({ "a b": "c" })),
        ("headers", json!({ "a": "b\r\nc: d" })),
        ("path", json!("/")),
    ];
    for (name, value) in cases {
        let mut bad = input();
        bad[name] = value;
        assert_eq!(refused(bad).await, [format!("input.{name}")]);
    }
    for name in ["Host", "Authorization", "Cookie"] {
        let mut bad = input();
        bad["headers"] = json!({ name: "x" });
        assert_eq!(refused(bad).await, [format!("input.headers.{name}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_fails_is_a_permanent_failure() {
    let replay = replayed().await;
    let gate = started(&replay).await;
    replay.on(WEBHOOK, Reply::transcript("n8n_async_fail"));
    replay.on(EXECUTION, Reply::transcript("n8n_execution_error"));
    replay.on(EXECUTION, Reply::transcript("n8n_execution_error"));
    let id = gate.submit_tried(input(), 3).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Permanent, "workflow failed on purpose: boom [line 2]");
    assert_eq!(ended.details()["provider_error"]["node"], "Work");

    // The same where its webhook waits for it: n8n is not broken.
    replay.on(WEBHOOK, Reply::transcript("n8n_webhook_fail"));
    let id = gate.submit_tried(input(), 3).await;
    gate.ended(&id).await.failed(ErrorCode::Permanent, "Error in workflow");
    assert_eq!(asked(&replay, WEBHOOK).len(), 2);
}

/// By hand, from n8n's source: why else executions end.
#[tokio::test(flavor = "multi_thread")]
async fn why_an_execution_ended_decides_what_follows() {
    let cancelled = |reason: &str| json!({ "error": { "message": "stopped", "reason": reason } });
    for (status, result, code) in [
        ("crashed", json!({ "error": { "message": "out of memory" } }), ErrorCode::Transient),
        ("canceled", cancelled("shutdown"), ErrorCode::Transient),
        ("canceled", cancelled("timeout"), ErrorCode::Permanent),
    ] {
        let replay = replayed().await;
        replay.always(EXECUTION, execution(status, &result));
        let ended = started(&replay).await.run(input()).await;
        assert_eq!(ended.failure().0, code, "{status}");
    }
    for result in [cancelled("manual"), Value::Null] {
        let replay = replayed().await;
        replay.always(EXECUTION, execution("canceled", &result));
        let ended = started(&replay).await.run(input()).await;
        assert_eq!(ended.state(), ExecutionState::Cancelled);
        let error = ended.execution.error.as_ref().unwrap();
        assert!(error.message.contains("cancelled at the provider"), "{error:?}");
    }
}

/// By hand: the workflow keeps no data of its executions, or n8n none of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_is_not_kept_is_not_begun_anew() {
    let replay = replayed().await;
    replay.always(EXECUTION, Reply::json(200, &json!({ "id": "4", "status": "success" })));
    assert_eq!(started(&replay).await.run(input()).await.success(), Value::Null);

    let replay = replayed().await;
    replay.always(EXECUTION, Reply::json(404, &json!({ "message": "Not Found" })));
    let gate = started(&replay).await;
    let id = gate.submit_tried(input(), 3).await;
    gate.ended(&id).await.failed(ErrorCode::Permanent, "does not know the execution");
    assert_eq!(asked(&replay, WEBHOOK).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_waits_as_asked_and_costs_nothing() {
    let replay = replayed().await;
    let limits = RateLimits::on(&replay, WEBHOOK);
    let ended = started(&replay).await.run(input()).await;
    limits.were_waited_for(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_called_once_whatever_becomes_of_its_answer() {
    let half = Reply::transcript("n8n_webhook_lastnode").cut_after(10);
    for reply in [Reply::close(), half, Reply::new(502, "text/html", "bad gateway")] {
        let replay = replayed().await;
        replay.on(WEBHOOK, reply);
        let ended = started(&replay).await.run(input()).await;
        assert_eq!(ended.failure().0, ErrorCode::Transient);
        assert_eq!(asked(&replay, WEBHOOK).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_in_the_middle_of_an_execution_is_waited_for() {
    let mut replay = unending().await;
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    replay.go_away().await;
    handle(&gate, &id).await;
    replay.always(EXECUTION, Reply::transcript("n8n_execution_success"));
    // Trouble says nothing of the execution.
    replay.on(EXECUTION, Reply::json(503, &json!({ "message": "starting up" })));
    replay.come_back().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!((ended.execution.attempts.len(), asked(&replay, WEBHOOK).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_left() {
    let endless = || Reply::new(200, "application/json", "[[[[").endless();
    let replay = replayed().await;
    let gate = started(&replay).await;
    replay.on(WEBHOOK, endless());
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    // Its data is more than is read, not its status.
    replay.on(EXECUTION, Reply::transcript("n8n_execution_success"));
    replay.on(EXECUTION, endless());
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_nowhere_to_be_seen() {
    let replay = replayed().await;
    let said = json!({ "message": format!("key {KEY}!") });
    replay.on(WEBHOOK, Reply::json(200, &said));
    let gate = started(&replay).await;
    assert_eq!(gate.run(input()).await.success(), json!({ "message": "key [redacted]!" }));
    replay.on(WEBHOOK, Reply::new(200, "image/png", format!("\u{1}{KEY}").into_bytes()));
    assert_eq!(gate.run(input()).await.success(), json!("\u{1}[redacted]"));
    let error = json!({ "error": { "message": format!("key {KEY}!") } });
    replay.always(EXECUTION, execution("error", &error));
    gate.run(input()).await.failed(ErrorCode::Permanent, "key [redacted]!");
}

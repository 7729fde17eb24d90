//! `langgraph` against the real server; in `replayed` against transcripts of it, and replies written
//! by hand where neither shows the case: those are marked; in `taken_up` through ends of Flowgate.

mod replayed;
mod taken_up;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::jobs::{cancelled, handle, handles, was_stopped_there};
use super::matrix::{Gate, Started, next_text};
use crate::support::eventually;
use crate::support::providers::{self, RealServer, Replay, Reply};

const BEGIN: &str = "POST /threads/*/runs";
const STREAM: &str = "GET /threads/*/runs/*/stream";
const RUN: &str = "GET /threads/*/runs/*";
const CANCEL: &str = "POST /threads/*/runs/*/cancel";
/// Of the transcripts.
const RUN_ID: &str = "01a1f918-e029-753d-acf4-7ab0b85ef937";

fn input(mode: &str) -> Value {
    json!({ "assistant_id": "echo", "input": { "text": "one two", "mode": mode, "seconds": 0.2 } })
}

fn sleeping(seconds: u32) -> Value {
    let input = json!({ "text": "zzz", "mode": "sleep", "seconds": seconds });
    json!({ "assistant_id": "echo", "input": input })
}

/// At a real server.
fn real(server: &RealServer) -> Gate {
    let gate = Gate::at("langgraph", &format!("base_url = {:?}", server.url));
    let key = server.key.to_owned();
    gate.with("api_key_env = 'LANGGRAPH_KEY'\nmax_concurrent = 4")
        .config(|config| config.env("LANGGRAPH_KEY", &key))
}

/// What the real server says of a run that writes three words, step by step.
async fn replayed() -> Replay {
    let replay = Replay::start().await;
    replay.always("POST /threads", Reply::transcript("langgraph_thread"));
    replay.always("GET /threads/*/runs", Reply::transcript("langgraph_runs_none"));
    replay.always(BEGIN, Reply::transcript("langgraph_run_begun"));
    replay.always(STREAM, Reply::transcript("langgraph_run_stream"));
    replay.always(RUN, Reply::transcript("langgraph_run_success"));
    replay.always("GET /threads/*/state", Reply::transcript("langgraph_state"));
    replay.always(CANCEL, Reply::transcript("langgraph_cancel_over"));
    replay
}

async fn started(replay: &Replay) -> Started {
    Gate::of("langgraph", &replay.url()).start().await
}

/// By hand: a run as the transcripts have it, with another status.
fn run(status: &str) -> Reply {
    Reply::json(200, &json!({ "run_id": RUN_ID, "status": status }))
}

/// The status that the real server has for the run of a handle.
async fn status_of(server: &RealServer, handle: &Value) -> String {
    let (thread, run) = (handle["thread_id"].as_str(), handle["run_id"].as_str());
    let url = format!("{}/threads/{}/runs/{}", server.url, thread.unwrap(), run.unwrap());
    let request = providers::http().get(url).header("x-api-key", server.key);
    let run: Value = request.send().await.unwrap().json().await.unwrap();
    run["status"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_with_its_state_on_a_thread_of_its_own() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let mut asked = input("echo");
    asked["metadata"] = json!({ "mine": 7 });
    asked["config"] = json!({ "recursion_limit": 9 });
    let (first, second) = tokio::join!(gate.run(asked), gate.run(input("echo")));
    let state =
        json!({ "text": "one two", "mode": "echo", "seconds": 0.2, "result": "echo:one two" });
    assert_eq!(first.success()["result"], state["result"]);
    let (first, second) = (&handles(&first)[0], &handles(&second)[0]);
    assert_ne!(first["thread_id"], second["thread_id"]);

    let url = format!(
        "{}/threads/{}/runs/{}",
        server.url,
        first["thread_id"].as_str().unwrap(),
        first["run_id"].as_str().unwrap()
    );
    let request = providers::http().get(url).header("x-api-key", server.key);
    let run: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(run["metadata"]["mine"], json!(7), "{run}");
    assert_eq!(run["metadata"]["flowgate_attempt"], json!(1), "{run}");
    assert_eq!(run["kwargs"]["config"]["recursion_limit"], json!(9), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_graph_writes_is_passed_on_while_it_runs() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let mut slow = input("tokens");
    slow["input"]["seconds"] = json!(1);
    let id = gate.submit(slow).await;
    let mut watch = gate.watch(&id).await;
    let (first, state) = next_text(&mut watch).await;
    assert_eq!((first.as_str(), state), ("{\"token\":\"one\"}\n", ExecutionState::Running));
    let ended = gate.ended(&id).await;
    assert_eq!(ended.text(), "{\"token\":\"one\"}\n{\"token\":\"two\"}\n");
    assert_eq!(ended.success()["result"], "echo:one two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_permanent_and_a_missing_one_is_told() {
    let server = providers::langgraph().await;
    let gate = Gate::of("langgraph", &server.url).start().await;
    gate.run(input("echo")).await.failed(ErrorCode::Permanent, "invalid x-api-key");

    let missing = format!("base_url = {:?}\napi_key_env = 'NOT_SET'", server.url);
    let gate = Gate::at("langgraph", &missing).start().await;
    gate.run(input("echo")).await.failed(ErrorCode::Permanent, "key is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_graph_and_a_body_that_the_server_refuses_are_permanent() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let unknown = json!({ "assistant_id": "nope", "input": {} });
    gate.run(unknown).await.failed(ErrorCode::Permanent, "Invalid assistant: 'nope'");
    let unknown = json!({ "assistant_id": "88c22553-d46d-4aef-bbc7-9a87e135594f" });
    gate.run(unknown).await.failed(ErrorCode::Permanent, "404");
    let mut bad = input("echo");
    bad["config"] = json!({ "tags": 7 });
    gate.run(bad).await.failed(ErrorCode::Permanent, "422");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("langgraph", "http://127.0.0.1:1").start().await;
    let refused = async |input: Value| gate.refused_fields(input).await;
    assert_eq!(refused(json!({})).await, ["input.assistant_id"]);
    assert_eq!(refused(json!({ "assistant_id": "" })).await, ["input.assistant_id"]);
    for name in ["config", "metadata", "context"] {
        let mut bad = input("echo");
        bad[name] = json!("text");
        assert_eq!(refused(bad).await, [format!("input.{name}")]);
    }
    for name in ["webhook", "thread_id", "multitask_strategy", "command", "interrupt_before"] {
        let mut bad = input("echo");
        bad[name] = json!("text");
        assert_eq!(refused(bad).await, [format!("input.{name}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_fails_is_a_permanent_failure_with_its_error_and_state() {
    let server = providers::langgraph().await;
    let ended = real(server).start().await.run(input("fail")).await;
    ended.failed(ErrorCode::Permanent, "workflow failed on purpose: one two");
    assert_eq!(ended.details()["provider_error"]["names"], json!(["ValueError"]));
    ended.kept_part();
    assert_eq!(ended.output()["mode"], "fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_asks_somebody_has_succeeded_and_says_what_it_asks() {
    let server = providers::langgraph().await;
    let output = real(server).start().await.run(input("interrupt")).await.success();
    assert_eq!(output["text"], "one two");
    assert_eq!(output["__interrupt__"][0]["value"], json!({ "question": "one two" }), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_too_long_is_stopped_at_the_server() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let id = gate.submit_within(sleeping(60), 2_500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out; the provider stopped the work");
    was_stopped_there(&ended);
    ended.kept_part();
    assert_eq!(status_of(server, &handles(&ended)[0]).await, "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_in_the_middle_it_is_stopped_at_the_server() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let id = gate.submit(sleeping(60)).await;
    let handle = handle(&gate, &id).await;
    let running = async || (status_of(server, &handle).await == "running").then_some(());
    eventually("it runs", running).await;
    let ended = cancelled(&gate, &id).await;
    was_stopped_there(&ended);
    assert_eq!(status_of(server, &handle).await, "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_stopped_at_the_server_is_cancelled() {
    let server = providers::langgraph().await;
    let gate = real(server).start().await;
    let id = gate.submit(sleeping(60)).await;
    let ids = handle(&gate, &id).await;
    let (thread, run) = (ids["thread_id"].as_str().unwrap(), ids["run_id"].as_str().unwrap());
    let url = format!("{}/threads/{thread}/runs/{run}/cancel?wait=1", server.url);
    let request = providers::http().post(url).header("x-api-key", server.key);
    assert!(request.send().await.unwrap().status().is_success());
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    let error = ended.execution.error.as_ref().unwrap();
    assert!(error.message.contains("cancelled at the provider"), "{error:?}");
}

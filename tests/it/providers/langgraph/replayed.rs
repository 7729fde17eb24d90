//! Replies of a server that says what the test tells it to.

use std::time::Duration;

use flowgate::pb::ErrorCode;
use serde_json::{Value, json};

use super::super::jobs::{
    RateLimits, all_show_the_key, asked, cancelled, handle, is_asked, may_run_on,
};
use super::super::matrix::{Gate, KEY, NAME};
use super::{BEGIN, CANCEL, RUN, RUN_ID, STREAM, input, replayed, run, started};
use crate::support::providers::{Ending, Replay, Reply};
use crate::support::submit;

#[tokio::test(flavor = "multi_thread")]
async fn the_alias_langsmith_means_the_same() {
    let replay = replayed().await;
    let gate = Gate::of("langsmith", &replay.url()).start().await;
    let ended = gate.run(input("tokens")).await;
    assert_eq!(ended.success()["result"], "echo:one two three");
    assert_eq!(ended.text(), "{\"token\":\"one\"}\n{\"token\":\"two\"}\n{\"token\":\"three\"}\n");
    for route in ["POST /threads", BEGIN, STREAM, RUN, "GET /threads/*/state"] {
        all_show_the_key(&replay, route, "x-api-key");
    }
    let begin = is_asked(&replay, BEGIN).await;
    assert_eq!(begin.json()["multitask_strategy"], "reject");
    assert_eq!(begin.json()["stream_resumable"], true);
    let thread = is_asked(&replay, "POST /threads").await.json();
    assert_eq!(thread["if_exists"], "do_nothing");
    assert!(begin.path().contains(thread["thread_id"].as_str().unwrap()), "{}", begin.target);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_goes_along_with_the_run() {
    let replay = replayed().await;
    let gate = started(&replay).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = tonic::Request::new(submit(NAME, input("echo")));
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    let reply = gate.server.execution().submit_execution(request).await.unwrap();
    gate.ended(&reply.into_inner().execution.unwrap().id).await.success();
    let told = is_asked(&replay, BEGIN).await;
    let told = told.header("traceparent").expect("it goes along").to_owned();
    assert_eq!(told.split('-').nth(1), trace.split('-').nth(1), "{told}");
}

/// By hand, from the vendor's documentation of the stream mode `messages-tuple`: there is no model
/// among the test servers that a graph could call.
#[tokio::test(flavor = "multi_thread")]
async fn what_models_write_is_passed_on_and_what_they_consumed_is_told() {
    let replay = replayed().await;
    let message = |content: Value, usage: Value| {
        let chunk = json!({ "type": "AIMessageChunk", "id": "run--1", "content": content,
            "usage_metadata": usage });
        format!("event: messages\ndata: {}\n\n", json!([chunk, { "langgraph_node": "work" }]))
    };
    let used = json!({ "input_tokens": 11, "output_tokens": 7, "total_tokens": 18 });
    let events = [
        message(json!("Hello"), Value::Null),
        message(json!([{ "type": "text", "text": " there." }]), Value::Null),
        message(json!(""), used),
    ];
    replay.on(STREAM, Reply::sse(&events.concat()));
    let ended = started(&replay).await.run(input("echo")).await;
    ended.success();
    assert_eq!(ended.text(), "Hello there.");
    assert_eq!(ended.usage(), Some((11, 7)));

    // A failure's is told too.
    replay.on(STREAM, Reply::sse(&events.concat()));
    replay.on(RUN, run("error"));
    replay.always("GET /threads/*/runs/*/join", Reply::json(200, &json!({})));
    let ended = started(&replay).await.run(input("echo")).await;
    assert_eq!(ended.failure().0, ErrorCode::Permanent);
    assert_eq!(ended.usage(), Some((11, 7)));
}

/// By hand: what the state of a graph holds that called models.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_stream_the_status_is_asked_for_and_the_state_counted() {
    let replay = replayed().await;
    replay.always(STREAM, Reply::json(404, &json!({ "detail": "Not Found" })));
    for status in ["pending", "running", "queued-by-a-later-version"] {
        replay.on(RUN, run(status));
    }
    let used = json!({ "input_tokens": 20, "output_tokens": 5, "total_tokens": 25 });
    let before = json!({ "type": "ai", "content": "before",
        "usage_metadata": { "input_tokens": 8, "output_tokens": 1, "total_tokens": 9 } });
    let after = json!({ "type": "ai", "content": "after", "usage_metadata": used });
    let values = json!({ "messages": [before, after] });
    let state = json!({ "values": values, "next": [], "tasks": [] });
    replay.on("GET /threads/*/state", Reply::json(200, &state));
    let asked_for = json!({ "assistant_id": "echo", "input": { "messages": [before] } });
    let ended = started(&replay).await.run(asked_for).await;
    assert_eq!(ended.success(), values);
    assert_eq!(ended.usage(), Some((20, 5)));
    assert_eq!(asked(&replay, STREAM).len(), 1, "it is not asked for what it does not have");
    assert_eq!(asked(&replay, RUN).len(), 4);
}

/// By hand: what a graph raises when the service that it calls is busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_failed_for_what_passes_is_run_again_on_another_thread() {
    let replay = replayed().await;
    let error = json!({ "error": "APITimeoutError", "message": "Request timed out." });
    replay.on(STREAM, Reply::sse(&format!("event: error\ndata: {error}\n\n")));
    replay.on(RUN, run("error"));
    let gate = started(&replay).await;
    let id = gate.submit_tried(input("echo"), 2).await;
    let ended = gate.ended(&id).await;
    ended.success();
    let error = ended.execution.attempts[0].error.as_ref().unwrap();
    assert_eq!(
        (error.code(), error.message.as_str()),
        (ErrorCode::Transient, "Request timed out.")
    );
    let threads = asked(&replay, "POST /threads");
    assert_ne!(threads[0].json()["thread_id"], threads[1].json()["thread_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_waits_as_asked_and_costs_nothing() {
    let replay = replayed().await;
    let limits = RateLimits::on(&replay, BEGIN);
    let ended = started(&replay).await.run(input("echo")).await;
    limits.were_waited_for(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_after_too_often_is_asked_again_later() {
    let replay = replayed().await;
    let busy = Reply::json(429, &json!({ "detail": "slow down" }));
    replay.on(RUN, busy.header("Retry-After", "1"));
    let begun = std::time::Instant::now();
    let ended = started(&replay).await.run(input("echo")).await;
    ended.success();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!((ended.execution.attempts.len(), asked(&replay, BEGIN).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_left() {
    let replay = Replay::start().await;
    replay.on("POST /threads", Reply::hang());
    let gate = started(&replay).await;
    let id = gate.submit_within(input("echo"), 500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "the connection was dropped");
    may_run_on(&ended);
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_goes_on_where_it_was() {
    let replay = replayed().await;
    let whole = std::fs::read("tests/servers/transcripts/langgraph_run_stream.txt").unwrap();
    let whole = String::from_utf8(whole).unwrap();
    let body = whole.split_once("\r\n\r\n").unwrap().1;
    let second = body.find("{\"token\":\"two\"}").unwrap();
    replay.on(STREAM, Reply::transcript("langgraph_run_stream").cut_after(second));
    replay.on(RUN, run("running"));
    // Cleanly ended, but not at its end: the run's status tells.
    replay.on(STREAM, Reply::sse("event: custom\ndata: \"half\"\n\n"));
    replay.on(RUN, run("running"));
    replay.on(STREAM, Reply::sse("event: custom\ndata: \" and half\"\n\n"));
    let ended = started(&replay).await.run(input("echo")).await;
    assert_eq!(ended.success()["result"], "echo:one two three");
    assert_eq!(ended.text(), "{\"token\":\"one\"}\nhalf and half");
    let streams = asked(&replay, STREAM);
    assert_eq!(streams[0].header("last-event-id"), Some("-1"));
    let last = streams[1].header("last-event-id").unwrap();
    assert!(body[..second].contains(last) && last.len() > 10, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_in_the_middle_of_a_run_is_waited_for() {
    let mut replay = replayed().await;
    let (stream, mut pieces) = Reply::transcript("langgraph_run_stream").stepped();
    replay.on(STREAM, stream);
    let gate = started(&replay).await;
    let id = gate.submit(input("echo")).await;
    assert!(pieces.next().await);
    replay.go_away().await;
    drop(pieces);
    let handle = handle(&gate, &id).await;
    replay.come_back().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 1);
    assert_eq!(handle["run_id"], RUN_ID);
    assert_eq!(asked(&replay, BEGIN).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_finds_its_run() {
    let replay = replayed().await;
    replay.on(BEGIN, Reply::close());
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs_none"));
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs"));
    let ended = started(&replay).await.run(input("echo")).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 1);
    assert_eq!(asked(&replay, BEGIN).len(), 1, "it was begun once");
    // One that began meanwhile, of which this request is told that the thread is busy.
    let replay = replayed().await;
    replay.on(BEGIN, Reply::transcript("langgraph_run_busy"));
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs_none"));
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs"));
    started(&replay).await.run(input("echo")).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_the_server_lost_is_begun_anew() {
    let replay = replayed().await;
    replay.on(RUN, Reply::json(404, &json!({ "detail": "Not Found" })));
    let gate = started(&replay).await;
    let id = gate.submit_tried(input("echo"), 2).await;
    let ended = gate.ended(&id).await;
    ended.success();
    let error = ended.execution.attempts[0].error.as_ref().unwrap();
    assert_eq!(error.code(), ErrorCode::Transient, "{error:?}");
    assert!(error.message.contains("does not know the run"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_before_it_was_begun_it_is_never_begun() {
    let replay = replayed().await;
    replay.on("POST /threads", Reply::hang());
    let gate = started(&replay).await;
    let running = gate.submit(input("echo")).await;
    let waiting = gate.submit(input("echo")).await;
    replay.request(0).await;
    cancelled(&gate, &waiting).await;
    let ended = cancelled(&gate, &running).await;
    may_run_on(&ended);
    assert_eq!(replay.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_it_is_over_it_has_succeeded() {
    let replay = replayed().await;
    let (stream, mut pieces) = Reply::transcript("langgraph_run_stream").stepped();
    replay.on(STREAM, stream);
    let gate = started(&replay).await;
    let id = gate.submit(input("echo")).await;
    assert!(pieces.next().await);
    // Its stream has told nothing of that yet.
    gate.cancel(&id).await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success()["result"], "echo:one two three");
    drop(pieces);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_to_stop_is_said_to_run_on() {
    let replay = replayed().await;
    replay.always(STREAM, Reply::hang());
    replay.always(CANCEL, Reply::json(500, &json!({ "detail": "no" })));
    let gate = started(&replay).await;
    let id = gate.submit(input("echo")).await;
    is_asked(&replay, STREAM).await;
    let ended = cancelled(&gate, &id).await;
    let details = ended.details();
    assert_eq!(details["stopped"], json!({ "by": "provider", "confirmed": false }), "{details}");
    assert_eq!(details["may_run_on"], true, "{details}");
    assert!(asked(&replay, CANCEL).len() > 1, "it is asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_left() {
    let replay = replayed().await;
    let endless = |kind: &str| Reply::new(200, kind, "data: \"xxxxxxxx\"\n\n").endless();
    // More events than are read: the status is asked for instead.
    replay.on(STREAM, endless("text/event-stream"));
    replay.on(RUN, run("running"));
    started(&replay).await.run(input("echo")).await.success();
    assert_eq!(asked(&replay, STREAM).len(), 1);

    replay.on("GET /threads/*/state", endless("application/json"));
    let gate = started(&replay).await;
    gate.run(input("echo")).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
    replay.on("POST /threads", endless("application/json"));
    gate.run(input("echo")).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
    assert_eq!(asked(&replay, BEGIN).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_nowhere_to_be_seen() {
    let replay = replayed().await;
    // A server that repeats what it was sent.
    let state = json!({ "values": { "echo": format!("key {KEY}!") }, "next": [], "tasks": [] });
    replay.on("GET /threads/*/state", Reply::json(200, &state));
    replay.on(STREAM, Reply::sse(&format!("event: custom\ndata: \"{KEY}\"\n\n")));
    let ended = started(&replay).await.run(input("echo")).await;
    assert_eq!(ended.success(), json!({ "echo": "key [redacted]!" }));
    assert_eq!(ended.text(), "[redacted]");
}

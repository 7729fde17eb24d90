//! `langflow` against transcripts of the real server, and replies written by hand where they do not
//! show the case: those are marked. `tests/real_providers` has it against the server itself.

mod stops;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::jobs::{RateLimits, all_show_the_key, asked, handle, handles, is_asked};
use super::matrix::{Gate, KEY, Started, next_text};
use crate::support::providers::{Replay, Reply};

const BEGIN: &str = "POST /api/v2/workflows";
const EVENTS: &str = "GET /api/v2/workflows/*/events";
const JOB: &str = "GET /api/v2/workflows";
const STOP: &str = "POST /api/v2/workflows/stop";
/// Of the transcripts.
const FLOW_ID: &str = "048c2c6e-14c2-474a-827c-1a33d9433b82";
const JOB_ID: &str = "41282993-bd13-468d-a65d-5852bb6cdc57";

fn input() -> Value {
    json!({ "flow_id": FLOW_ID, "input_value": "sleep:2", "session_id": "s-1" })
}

/// What the real server says of a flow that takes two seconds.
async fn replayed() -> Replay {
    let replay = Replay::start().await;
    replay.always(BEGIN, Reply::transcript("langflow_job_begun"));
    replay.always(EVENTS, Reply::transcript("langflow_job_events"));
    replay.always(JOB, Reply::transcript("langflow_job_completed"));
    replay.always(STOP, Reply::transcript("langflow_job_stop"));
    replay
}

async fn started(replay: &Replay) -> Started {
    Gate::of("langflow", &replay.url()).start().await
}

/// By hand: the job as the transcripts have it, with another status.
fn job(status: &str) -> Reply {
    Reply::json(200, &json!({ "job_id": JOB_ID, "object": "job", "status": status }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_with_its_response() {
    let replay = replayed().await;
    replay.on(JOB, Reply::transcript("langflow_job_in_progress"));
    let ended = started(&replay).await.run(input()).await;
    let output = ended.success();
    assert_eq!(output["object"], "response", "{output}");
    assert_eq!(output["output"]["text"], "step saw sleep:2", "{output}");
    assert_eq!(ended.text(), "step saw sleep:2");
    assert_eq!(handles(&ended), [json!({ "job_id": JOB_ID })]);

    let begin = is_asked(&replay, BEGIN).await.json();
    assert_eq!((&begin["mode"], &begin["session_id"]), (&json!("background"), &json!("s-1")));
    assert!(uuid::Uuid::try_parse(begin["idempotency_key"].as_str().unwrap()).is_ok(), "{begin}");
    for route in [BEGIN, EVENTS, JOB] {
        all_show_the_key(&replay, route, "x-api-key");
    }
    let job = &asked(&replay, JOB)[0];
    assert_eq!(job.target, format!("/api/v2/workflows?job_id={JOB_ID}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_flow_writes_is_passed_on_while_it_runs() {
    let replay = replayed().await;
    let (events, mut pieces) = Reply::transcript("langflow_job_events").stepped();
    replay.on(EVENTS, events);
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    let mut watch = gate.watch(&id).await;
    // Up to what the flow writes, which is not the end.
    while pieces.left() > 3 {
        assert!(pieces.next().await);
    }
    let (text, state) = next_text(&mut watch).await;
    assert_eq!((text.as_str(), state), ("step saw sleep:2", ExecutionState::Running));
    pieces.rest().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(ended.text(), "step saw sleep:2");
}

/// By hand, in the shape of the transcripts and from the server's source: the flows of the tests
/// call no model.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_passed_on_and_counted() {
    let replay = replayed().await;
    let event = |name: &str, data: Value| {
        format!("data: {}\nid: 7\n\n", json!({ "event": name, "data": data }))
    };
    let message =
        |text: &str| event("add_message", json!({ "id": "m", "sender": "Machine", "text": text }));
    let usage = json!({ "input_tokens": 11, "output_tokens": 7, "total_tokens": 18 });
    let ended = json!({ "build_data": { "id": "Model-1", "data": { "token_usage": usage } } });
    let events = [
        event("add_message", json!({ "id": "q", "sender": "User", "text": "hi" })),
        message("Hello"),
        event("token", json!({ "id": "m", "chunk": " there" })),
        message("Hello there."),
        event("end_vertex", ended),
        event("end", json!({})),
    ];
    replay.on(EVENTS, Reply::sse(&events.concat()));
    let ended = started(&replay).await.run(input()).await;
    ended.success();
    assert_eq!(ended.text(), "Hello there.");
    assert_eq!(ended.usage(), Some((11, 7)));

    // What there was of a job that failed is kept.
    replay.on(EVENTS, Reply::sse(&events.concat()));
    replay.on(JOB, Reply::transcript("langflow_job_failed"));
    let ended = started(&replay).await.run(input()).await;
    assert_eq!(ended.failure().0, ErrorCode::Permanent);
    assert_eq!(ended.usage(), Some((11, 7)));
    ended.kept_part();
    assert_eq!(ended.output(), json!({ "output": { "text": "Hello there." } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_events_the_status_is_asked_for() {
    let replay = replayed().await;
    replay.always(EVENTS, Reply::transcript("langflow_job_unknown"));
    for status in ["queued", "suspended", "named-by-a-later-version"] {
        replay.on(JOB, job(status));
    }
    let ended = started(&replay).await.run(input()).await;
    ended.success();
    assert_eq!(ended.text(), "step saw sleep:2");
    assert_eq!((asked(&replay, EVENTS).len(), asked(&replay, JOB).len()), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_permanent() {
    for (name, says) in [
        ("langflow_403", "Invalid API key"),
        ("langflow_flow_unknown", "Flow not found"),
        ("langflow_422", "Input should be a valid string"),
    ] {
        let replay = replayed().await;
        replay.on(BEGIN, Reply::transcript(name));
        let ended = started(&replay).await.run(input()).await;
        ended.failed(ErrorCode::Permanent, says);
        assert_eq!(replay.requests().len(), 1);
    }
    let missing = "base_url = 'http://127.0.0.1:1'\napi_key_env = 'NOT_SET'";
    let gate = Gate::at("langflow", missing).start().await;
    gate.run(input()).await.failed(ErrorCode::Permanent, "key is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("langflow", "http://127.0.0.1:1").start().await;
    let refused = async |input: Value| gate.refused_fields(input).await;
    assert_eq!(refused(json!({ "input_value": "hi" })).await, ["input.flow_id"]);
    assert_eq!(refused(json!({ "flow_id": "echo" })).await, ["input.flow_id"]);
    let cases = [
        ("input_value", json!({ "text": "hi" })),
        ("session_id", json!("")),
        ("tweaks", json!([])),
        ("globals", json!({ "a": 1 })),
        ("output_ids", json!(["ChatOutput-1"])),
        ("mode", json!("sync")),
        ("idempotency_key", json!("k")),
    ];
    for (name, value) in cases {
        let mut bad = input();
        bad[name] = value;
        assert_eq!(refused(bad).await, [format!("input.{name}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_is_a_permanent_failure_although_it_comes_as_a_500() {
    let replay = replayed().await;
    replay.on(BEGIN, Reply::transcript("langflow_job_begun_to_fail"));
    replay.on(EVENTS, Reply::transcript("langflow_job_events_fail"));
    replay.on(JOB, Reply::transcript("langflow_job_failed"));
    let gate = started(&replay).await;
    let id = gate.submit_tried(input(), 3).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Permanent, "step failed on purpose: boom");
    assert_eq!(ended.details()["provider_error"]["names"], json!(["JOB_FAILED"]));
    assert_eq!(ended.execution.attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_tells_of_a_failure_is_one_although_it_comes_as_a_200() {
    let replay = replayed().await;
    replay.on(JOB, Reply::transcript("langflow_v2_sync_fail"));
    let ended = started(&replay).await.run(input()).await;
    ended.failed(ErrorCode::Permanent, "step failed on purpose: boom");
    ended.kept_part();
    assert_eq!(ended.output()["status"], "failed");
}

/// By hand, from the server's source: what it says of a job whose worker is gone, and of one that
/// took longer than it lets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_for_what_passes_is_begun_anew_under_another_key() {
    let lost = json!({ "detail": { "error": "Job failed", "code": "JOB_FAILED",
        "message": "Job 1 has failed execution.", "error_detail": { "type": "worker_lost" } } });
    let late = json!({ "detail": { "error": "Execution timeout", "code": "EXECUTION_TIMEOUT",
        "message": "Workflow execution timed out" } });
    let gone = Reply::transcript("langflow_job_unknown");
    for reply in [Reply::json(500, &lost), Reply::json(408, &late), gone] {
        let replay = replayed().await;
        replay.on(JOB, reply);
        let gate = started(&replay).await;
        let id = gate.submit_tried(input(), 2).await;
        let ended = gate.ended(&id).await;
        ended.success();
        let error = ended.execution.attempts[0].error.as_ref().unwrap();
        assert_eq!(error.code(), ErrorCode::Transient, "{error:?}");
        let begun = asked(&replay, BEGIN);
        assert_eq!(begun.len(), 2);
        assert_ne!(begun[0].json()["idempotency_key"], begun[1].json()["idempotency_key"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_waits_as_asked_and_costs_nothing() {
    let replay = replayed().await;
    let limits = RateLimits::on(&replay, BEGIN);
    let ended = started(&replay).await.run(input()).await;
    limits.were_waited_for(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_cut_go_on_where_they_were() {
    let replay = replayed().await;
    let file = std::fs::read_to_string("tests/servers/transcripts/langflow_job_events.txt");
    let file = file.unwrap();
    let body = file.split_once("\r\n\r\n").unwrap().1;
    let fifth = body.find("id: 5").unwrap();
    replay.on(EVENTS, Reply::transcript("langflow_job_events").cut_after(fifth));
    replay.on(JOB, Reply::transcript("langflow_job_in_progress"));
    // Cleanly ended, but not at its end: the job's status tells.
    replay.on(EVENTS, Reply::transcript("langflow_job_events").truncated(fifth));
    replay.on(JOB, Reply::transcript("langflow_job_in_progress"));
    let ended = started(&replay).await.run(input()).await;
    ended.success();
    assert_eq!(ended.text(), "step saw sleep:2");
    let last: Vec<_> = asked(&replay, EVENTS)
        .iter()
        .map(|it| it.header("last-event-id").map(str::to_owned))
        .collect();
    assert_eq!(last, [None, Some("4".to_owned()), Some("4".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_in_the_middle_of_a_job_is_waited_for() {
    let mut replay = replayed().await;
    let (events, mut pieces) = Reply::transcript("langflow_job_events").stepped();
    replay.on(EVENTS, events);
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    assert!(pieces.next().await);
    replay.go_away().await;
    drop(pieces);
    handle(&gate, &id).await;
    replay.come_back().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!((ended.execution.attempts.len(), asked(&replay, BEGIN).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_trouble_says_nothing_of_the_job() {
    let replay = replayed().await;
    for status in [500, 502, 503] {
        replay.on(JOB, Reply::json(status, &json!({ "detail": { "code": "BROKEN" } })));
    }
    let ended = started(&replay).await.run(input()).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_is_repeated_under_the_same_key() {
    let replay = replayed().await;
    replay.on(BEGIN, Reply::close());
    // By hand, from the server's source: the first request is still being worked on.
    let duplicate = json!({ "detail": { "error": "Duplicate request",
        "code": "DUPLICATE_REQUEST" } });
    replay.on(BEGIN, Reply::json(409, &duplicate));
    let ended = started(&replay).await.run(input()).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 1);
    let keys = asked(&replay, BEGIN).into_iter();
    let keys: Vec<_> = keys.map(|begin| begin.json()["idempotency_key"].clone()).collect();
    assert_eq!((keys.len(), &keys[0], &keys[1]), (3, &keys[1], &keys[2]));
}

/// By hand: a server that takes the start and is cut off, then a gateway that has no patience.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_doubt_is_repeated_where_it_was_sent() {
    let (one, two) = (replayed().await, replayed().await);
    one.on(BEGIN, Reply::close());
    one.on(BEGIN, Reply::new(504, "text/plain", "gateway timeout"));
    let endpoints = format!("endpoints = [{:?}, {:?}]", one.url(), two.url());
    let gate = Gate::at("langflow", &endpoints).start().await;
    let ended = gate.run(input()).await;
    ended.success();
    assert_eq!((asked(&one, BEGIN).len(), two.requests().len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_left() {
    let replay = replayed().await;
    let endless = |kind: &str| Reply::new(200, kind, "data: \"xxxxxxxx\"\n\n").endless();
    // More events than are read: the status is asked for instead.
    replay.on(EVENTS, endless("text/event-stream"));
    replay.on(JOB, Reply::transcript("langflow_job_in_progress"));
    let gate = started(&replay).await;
    gate.run(input()).await.success();
    assert_eq!(asked(&replay, EVENTS).len(), 1);
    replay.on(JOB, endless("application/json"));
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
    replay.on(BEGIN, endless("application/json"));
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_nowhere_to_be_seen() {
    let replay = replayed().await;
    let response = json!({ "object": "response", "status": "completed",
        "output": { "text": format!("key {KEY}!") } });
    replay.on(JOB, Reply::json(200, &response));
    replay.on(EVENTS, Reply::sse("data: {}\n\n"));
    let ended = started(&replay).await.run(input()).await;
    assert_eq!(ended.success()["output"]["text"], "key [redacted]!");
    assert_eq!(ended.text(), "key [redacted]!");
}

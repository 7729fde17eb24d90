//! Work that is stopped: by a client, by time, by somebody at the provider; and an end of Flowgate, which
//! stops none.

use std::time::Duration;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::json;

use super::super::jobs::{asked, cancelled, handles, is_asked, may_run_on, was_stopped_there};
use super::super::matrix::Gate;
use super::{BEGIN, EVENTS, JOB, JOB_ID, STOP, input, replayed, started};
use crate::support::providers::{Ending, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_is_stopped_at_the_server() {
    let replay = replayed().await;
    replay.always(EVENTS, Reply::hang());
    let gate = started(&replay).await;
    let id = gate.submit_within(input(), 500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out; the provider stopped the work");
    was_stopped_there(&ended);
    assert_eq!(is_asked(&replay, STOP).await.json(), json!({ "job_id": JOB_ID }));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_before_it_was_begun_it_is_never_begun() {
    let replay = replayed().await;
    replay.on(BEGIN, Reply::hang());
    let gate = started(&replay).await;
    let running = gate.submit(input()).await;
    let waiting = gate.submit(input()).await;
    replay.request(0).await;
    cancelled(&gate, &waiting).await;
    may_run_on(&cancelled(&gate, &running).await);
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    assert_eq!(replay.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_it_is_begun_it_is_stopped() {
    let replay = replayed().await;
    let begun = "tests/servers/transcripts/langflow_job_begun.txt";
    let file = std::fs::read_to_string(begun).unwrap();
    let body = file.split_once("\r\n\r\n").unwrap().1;
    let body = body.split_once("\n[curl").unwrap().0.to_owned();
    let (begin, mut pieces) = Reply::new(200, "application/json", body + "\n").stepped();
    replay.on(BEGIN, begin);
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    replay.request(0).await;
    gate.cancel(&id).await;
    // The answer that tells the id comes only now.
    assert!(pieces.next().await);
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    was_stopped_there(&ended);
    assert_eq!(asked(&replay, STOP).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_to_a_cancellation_is_told() {
    let stopped = |confirmed: bool| json!({ "by": "provider", "confirmed": confirmed });
    // By hand: a job that cannot be stopped.
    let not_cancellable = json!({ "detail": { "error": "Job cannot be stopped",
        "code": "JOB_NOT_CANCELLABLE" } });
    for (reply, confirmed) in [
        (Reply::transcript("langflow_job_stop"), true),
        (Reply::transcript("langflow_job_stop_unknown"), true),
        (Reply::json(409, &not_cancellable), false),
    ] {
        let replay = replayed().await;
        replay.always(EVENTS, Reply::hang());
        replay.always(STOP, reply);
        let gate = started(&replay).await;
        let id = gate.submit(input()).await;
        is_asked(&replay, EVENTS).await;
        let ended = cancelled(&gate, &id).await;
        assert_eq!(ended.details()["stopped"], stopped(confirmed), "{:?}", ended.details());
        let may_run_on = ended.details()["may_run_on"] == json!(true);
        assert_eq!(may_run_on, !confirmed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_it_is_over_it_has_succeeded() {
    let replay = replayed().await;
    let (events, mut pieces) = Reply::transcript("langflow_job_events").stepped();
    replay.on(EVENTS, events);
    replay.always(STOP, Reply::transcript("langflow_job_stop_finished"));
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    assert!(pieces.next().await);
    gate.cancel(&id).await;
    assert_eq!(gate.ended(&id).await.success()["status"], "completed");
    drop(pieces);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_stopped_at_the_server_is_cancelled() {
    let replay = replayed().await;
    replay.on(EVENTS, Reply::transcript("langflow_job_events_cancelled"));
    replay.on(JOB, Reply::transcript("langflow_job_cancelled"));
    let ended = started(&replay).await.run(input()).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    let error = ended.execution.error.as_ref().unwrap();
    assert!(error.message.contains("cancelled at the provider"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_takes_up_the_same_job() {
    let replay = replayed().await;
    replay.on(EVENTS, Reply::hang());
    let mut gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EVENTS).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(handles(&ended), [json!({ "job_id": JOB_ID }), json!({ "job_id": JOB_ID })]);
    assert_eq!(asked(&replay, BEGIN).len(), 1, "the server was asked for one job");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_handle_was_kept_it_asks_under_the_same_key() {
    let replay = replayed().await;
    replay.on(BEGIN, Reply::hang());
    let mut gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, BEGIN).await;
    gate.server.kill9();
    gate.server.restart().await;
    gate.ended(&id).await.success();
    let begun = asked(&replay, BEGIN);
    assert_eq!(begun.len(), 2);
    assert_eq!(begun[0].json()["idempotency_key"], begun[1].json()["idempotency_key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn handed_back_by_a_server_that_stops_it_goes_on_with_the_next() {
    let replay = replayed().await;
    replay.on(EVENTS, Reply::hang());
    let gate = Gate::of("langflow", &replay.url());
    let gate = gate.config(|config| config.env("FLOWGATE_DRAIN_TIMEOUT", "1s"));
    let mut gate = gate.start().await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EVENTS).await;
    gate.server.sigterm();
    assert!(gate.server.wait_exit(Duration::from_secs(10)).await.success());
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!((handles(&ended).len(), asked(&replay, BEGIN).len()), (2, 1));
    assert!(asked(&replay, STOP).is_empty(), "it was handed back, not stopped");
}

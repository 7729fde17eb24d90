//! Work that is stopped: by a client, by time, by somebody at the provider; and an end of Flowgate, which
//! stops none.

use std::time::Duration;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::json;

use super::super::jobs::{
    all_show_the_key, asked, cancelled, handles, is_asked, may_run_on, was_stopped_there,
};
use super::super::matrix::Gate;
use super::{EXECUTION, STOP, WEBHOOK, input, replayed, started, unending};
use crate::support::providers::{Ending, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_takes_too_long_is_stopped_at_the_server() {
    let replay = unending().await;
    let gate = started(&replay).await;
    let id = gate.submit_within(input(), 500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out; the provider stopped the work");
    was_stopped_there(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_waits_too_long_is_left_and_goes_on() {
    let replay = replayed().await;
    replay.on(WEBHOOK, Reply::hang());
    let gate = started(&replay).await;
    let id = gate.submit_within(input(), 300).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "the connection was dropped");
    may_run_on(&ended);
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_before_it_was_begun_it_is_never_begun() {
    let replay = replayed().await;
    replay.on(WEBHOOK, Reply::hang());
    let gate = started(&replay).await;
    let running = gate.submit(input()).await;
    let waiting = gate.submit(input()).await;
    replay.request(0).await;
    cancelled(&gate, &waiting).await;
    // This one waits for an answer that does not come.
    may_run_on(&cancelled(&gate, &running).await);
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    assert_eq!(replay.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_in_the_middle_it_is_stopped_at_the_server() {
    let replay = unending().await;
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    let ended = cancelled(&gate, &id).await;
    was_stopped_there(&ended);
    let stop = is_asked(&replay, STOP).await;
    assert_eq!(stop.target, "/api/v1/executions/4/stop");
    all_show_the_key(&replay, STOP, "x-n8n-api-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_it_is_over_its_end_counts() {
    let replay = unending().await;
    replay.always(STOP, Reply::transcript("n8n_stop_again"));
    let gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    replay.always(EXECUTION, Reply::transcript("n8n_execution_success"));
    gate.cancel(&id).await;
    gate.ended(&id).await.success();
}

/// By hand: a key that may read executions but not stop them, and an execution that runs, but not where it is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_to_a_cancellation_is_told() {
    for (status, message) in [(403, "Forbidden"), (404, "Failed to find execution to stop")] {
        let replay = unending().await;
        replay.always(STOP, Reply::json(status, &json!({ "message": message })));
        let gate = started(&replay).await;
        let id = gate.submit(input()).await;
        is_asked(&replay, EXECUTION).await;
        let ended = cancelled(&gate, &id).await;
        let details = ended.details();
        assert_eq!(details["stopped"], json!({ "by": "provider", "confirmed": false }));
        assert_eq!(details["may_run_on"], json!(true), "{details}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_takes_up_the_same_execution() {
    let replay = unending().await;
    let mut gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    gate.server.kill9();
    replay.always(EXECUTION, Reply::transcript("n8n_execution_success"));
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(ended.execution.crash_count, 1);
    let same = json!({ "execution_id": "4" });
    assert_eq!(handles(&ended), [same.clone(), same]);
    assert_eq!(asked(&replay, WEBHOOK).len(), 1, "the server saw one call");
}

#[tokio::test(flavor = "multi_thread")]
async fn handed_back_by_a_server_that_stops_it_goes_on_with_the_next() {
    let replay = unending().await;
    let gate = Gate::of("n8n", &replay.url());
    let gate = gate.config(|config| config.env("FLOWGATE_DRAIN_TIMEOUT", "1s"));
    let mut gate = gate.start().await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    gate.server.sigterm();
    assert!(gate.server.wait_exit(Duration::from_secs(10)).await.success());
    replay.always(EXECUTION, Reply::transcript("n8n_execution_success"));
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!((handles(&ended).len(), asked(&replay, WEBHOOK).len()), (2, 1));
    assert!(asked(&replay, STOP).is_empty(), "it was handed back, not stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_killed_it_is_taken_up_once_more_to_be_stopped() {
    let replay = unending().await;
    replay.on(STOP, Reply::hang());
    let mut gate = started(&replay).await;
    let id = gate.submit(input()).await;
    is_asked(&replay, EXECUTION).await;
    gate.cancel(&id).await;
    is_asked(&replay, STOP).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    was_stopped_there(&ended);
    assert_eq!((asked(&replay, STOP).len(), asked(&replay, WEBHOOK).len()), (2, 1));
}

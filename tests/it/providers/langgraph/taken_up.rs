//! Flowgate ends in the middle of a run, and the next one goes on with it.

use std::time::Duration;

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::json;

use super::super::jobs::{asked, handle, handles, is_asked, was_stopped_there};
use super::{BEGIN, CANCEL, RUN_ID, STREAM, input, real, replayed, sleeping, started};
use crate::support::eventually;
use crate::support::providers::{LANGGRAPH, RealServer, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_takes_up_the_same_run() {
    let server = RealServer::start(&LANGGRAPH).await;
    let mut gate = real(&server).start().await;
    let id = gate.submit(sleeping(3)).await;
    let before = handle(&gate, &id).await;
    eventually("it runs", async || (!server.runs().is_empty()).then_some(())).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success()["result"], "echo:zzz");
    assert_eq!(ended.execution.attempts.len(), 2);
    assert_eq!(ended.execution.crash_count, 1);
    let handles = handles(&ended);
    assert_eq!(handles[0], handles[1]);
    assert_eq!(handles[0]["run_id"], before["run_id"]);
    assert_eq!(server.runs().len(), 1, "the server saw one run: {:?}", server.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn handed_back_by_a_server_that_stops_it_goes_on_with_the_next() {
    let server = RealServer::start(&LANGGRAPH).await;
    let gate = real(&server).config(|config| config.env("FLOWGATE_DRAIN_TIMEOUT", "1s"));
    let mut gate = gate.start().await;
    let id = gate.submit(sleeping(4)).await;
    handle(&gate, &id).await;
    eventually("it runs", async || (!server.runs().is_empty()).then_some(())).await;
    gate.server.sigterm();
    let status = gate.server.wait_exit(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success()["result"], "echo:zzz");
    let released = ended.execution.attempts[0].error.as_ref().unwrap();
    assert_eq!(released.code(), ErrorCode::Released, "{released:?}");
    let handles = handles(&ended);
    assert_eq!((handles.len(), &handles[0]), (2, &handles[1]));
    assert_eq!(ended.execution.crash_count, 0);
    assert_eq!(server.runs().len(), 1, "the server saw one run: {:?}", server.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_handle_was_kept_it_finds_the_run() {
    let replay = replayed().await;
    // The run is begun, and its answer does not come before the end.
    replay.on(BEGIN, Reply::hang());
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs_none"));
    replay.on("GET /threads/*/runs", Reply::transcript("langgraph_runs"));
    let mut gate = started(&replay).await;
    let id = gate.submit(input("echo")).await;
    is_asked(&replay, BEGIN).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(handles(&ended)[1]["run_id"], RUN_ID);
    let threads = asked(&replay, "POST /threads");
    assert_eq!(threads[0].json()["thread_id"], threads[1].json()["thread_id"]);
    assert_eq!(asked(&replay, BEGIN).len(), 1, "the server was asked for one run");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_killed_it_is_taken_up_once_more_to_be_stopped() {
    let replay = replayed().await;
    replay.always(STREAM, Reply::hang());
    replay.on(CANCEL, Reply::hang());
    replay.on(CANCEL, Reply::json(200, &json!({})));
    let mut gate = started(&replay).await;
    let id = gate.submit(input("echo")).await;
    is_asked(&replay, STREAM).await;
    gate.cancel(&id).await;
    is_asked(&replay, CANCEL).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    was_stopped_there(&ended);
    assert_eq!(asked(&replay, CANCEL).len(), 2);
    assert_eq!(asked(&replay, BEGIN).len(), 1);
}

//! Shutting down (promise P9): in time, with every cursor told and every unfinished execution
//! handed back uncharged.

use std::time::{Duration, Instant};

use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{ErrorCode, ExecutionState, WatchExecutionRequest, WatchExecutionResponse};
use serde_json::json;
use tokio::net::TcpStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    sigterm_hands_back_what_runs_and_tells_every_watch_its_cursor;
    #[tokio::test(flavor = "multi_thread")]
    work_that_ends_within_the_deadline_is_finished;
    #[tokio::test(flavor = "multi_thread")]
    new_work_is_refused_during_the_drain_and_what_runs_can_still_be_read;
    #[tokio::test(flavor = "multi_thread")]
    an_idle_connection_does_not_hold_up_the_end;
    #[tokio::test(flavor = "multi_thread")]
    a_second_sigterm_ends_it_at_once;
}

/// What a server that has exited may have taken longer than its deadline on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

async fn sigterm_hands_back_what_runs_and_tells_every_watch_its_cursor(db: Db) {
    let drain = Duration::from_secs(3);
    let config = Config::on(db)
        .simulated("sim", 20)
        .module("nap", "#!/bin/sh\nsleep 60\n")
        .env("FLOWGATE_DRAIN_TIMEOUT", "3s");
    let mut server = TestServer::start(config).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let request = match n % 4 {
            0 => submit("process", json!({ "module": "nap" })),
            _ => submit("sim", json!({ "duration_ms": 60_000 })),
        };
        ids.push(server.submit(request).await.id);
    }
    eventually("all run", async || (server.status().await.running_count == 20).then_some(())).await;
    let mut watches = Vec::new();
    for n in 0..50 {
        let mut watch = watch(&server, &ids[n % ids.len()], None).await;
        // With the first message it has a cursor.
        watch.message().await.unwrap().unwrap();
        watches.push(watch);
    }
    let _idle = TcpStream::connect(server.grpc_addr()).await.unwrap();

    let started = Instant::now();
    server.sigterm();
    let mut cursors = Vec::new();
    for watch in watches {
        cursors.push(last_cursor(watch).await);
    }
    let status = server.wait_exit(drain + SLACK).await;
    assert!(status.success(), "{status}");
    println!("exited after {:?} of {drain:?}", started.elapsed());

    server.restart().await;
    for id in &ids {
        let execution = eventually("it runs again", async || {
            let execution = server.get(id).await;
            (execution.attempts.len() == 2).then_some(execution)
        })
        .await;
        let first = execution.attempts[0].error.as_ref().unwrap();
        assert_eq!(first.code(), ErrorCode::Released, "{execution:?}");
        assert_eq!(execution.state(), ExecutionState::Running);
        assert_eq!((execution.attempt_count, execution.crash_count), (1, 0), "{execution:?}");
    }
    for (n, (revision, epoch)) in cursors.into_iter().enumerate() {
        let mut watch = watch(&server, &ids[n % ids.len()], Some((revision, epoch))).await;
        let next = watch.message().await.unwrap().unwrap();
        let Some(Event::Execution(execution)) = next.event else { panic!("{next:?}") };
        assert!(next.revision > revision);
        assert_eq!(execution.state(), ExecutionState::Pending, "the first change it had missed");
    }
    audit_is_clean(&server.store_url());
}

async fn watch(
    server: &TestServer,
    id: &str,
    cursor: Option<(i64, String)>,
) -> Streaming<WatchExecutionResponse> {
    let (after_revision, store_epoch) = cursor.unzip();
    let request = WatchExecutionRequest {
        id: id.to_owned(),
        after_revision,
        store_epoch: store_epoch.unwrap_or_default(),
        ..Default::default()
    };
    server.execution().watch_execution(request).await.unwrap().into_inner()
}

/// Reads until the server ends the stream, and returns where it says to go on.
async fn last_cursor(mut watch: Streaming<WatchExecutionResponse>) -> (i64, String) {
    let status: Status = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if the execution had"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!(info.reason, "SHUTTING_DOWN");
    (info.metadata["revision"].parse().unwrap(), info.metadata["store_epoch"].clone())
}

async fn work_that_ends_within_the_deadline_is_finished(db: Db) {
    let config = Config::on(db).simulated("sim", 5).env("FLOWGATE_DRAIN_TIMEOUT", "20s");
    let mut server = TestServer::start(config).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 300 }))).await.id;
    let waits = server.submit(submit("sim", json!({ "duration_ms": 1 }))).await.id;
    eventually("it runs", async || {
        (server.get(&id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    server.sigterm();
    let status = server.wait_exit(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    server.restart().await;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (ExecutionState::Succeeded, 1));
    assert_eq!(server.ended(&waits).await.state(), ExecutionState::Succeeded);
}

async fn new_work_is_refused_during_the_drain_and_what_runs_can_still_be_read(db: Db) {
    let config = Config::on(db).simulated("sim", 5).env("FLOWGATE_DRAIN_TIMEOUT", "20s");
    let mut server = TestServer::start(config).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 800 }))).await.id;
    eventually("it runs", async || {
        (server.get(&id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    server.sigterm();
    let refused = eventually("submissions are refused", async || {
        server.execution().submit_execution(submit("sim", json!({}))).await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "SHUTTING_DOWN");
    assert_eq!(server.get(&id).await.state(), ExecutionState::Running);
    assert!(server.wait_exit(Duration::from_secs(10)).await.success());
}

async fn an_idle_connection_does_not_hold_up_the_end(db: Db) {
    let config = Config::on(db).simulated("sim", 5).env("FLOWGATE_DRAIN_TIMEOUT", "60s");
    let mut server = TestServer::start(config).await;
    let _idle = TcpStream::connect(server.grpc_addr()).await.unwrap();
    let id = server.submit(submit("sim", json!({}))).await.id;
    server.ended(&id).await;
    server.sigterm();
    let status = server.wait_exit(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

async fn a_second_sigterm_ends_it_at_once(db: Db) {
    let config = Config::on(db).simulated("sim", 5).env("FLOWGATE_DRAIN_TIMEOUT", "60s");
    let mut server = TestServer::start(config).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 60_000 }))).await.id;
    eventually("it runs", async || {
        (server.get(&id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    server.sigterm();
    eventually("it drains", async || {
        server.execution().submit_execution(submit("sim", json!({}))).await.err()
    })
    .await;
    server.sigterm();
    let status = server.wait_exit(Duration::from_secs(5)).await;
    assert!(!status.success(), "unfinished work is not a clean end: {status}");
}

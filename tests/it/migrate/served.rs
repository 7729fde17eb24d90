//! A store that was moved, served from where it is now.

use std::sync::Arc;

use flowgate::domain::State;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{ExecutionState, WatchExecutionRequest, WatchExecutionResponse};
use serde_json::json;

use super::moved;
use crate::store::fixture::{GRACE, Kind, LEASE, TestStore, ids};
use crate::support::postgres::Database;
use crate::support::{Config, StoreHome, TestServer, audit_is_clean, eventually, submit};

#[tokio::test]
async fn what_ran_keeps_its_lease_until_that_is_over() {
    let t = TestStore::open(Kind::Sqlite).await;
    t.declare("p", 2).await;
    t.submit_plain("p", 3).await;
    let claimed = t.claim("p", 3).await;
    let [held, silent] = ids(&claimed)[..] else { panic!("two run") };
    let source = t.close().await;
    let target = Arc::new(Database::new().await);
    moved(&source, &target).await.unwrap();
    let home = StoreHome::Postgres(target);
    let t = TestStore::over(home.open().await, Some(home));
    assert_eq!(t.claim("p", 3).await.len(), 0, "the limit holds over the move");
    t.succeed(&claimed[0].lease).await;
    assert_eq!(t.state(held).await, State::Succeeded);
    assert_eq!(t.claim("p", 3).await.len(), 1);
    assert_eq!(t.state(silent).await, State::Running);
    t.pass(LEASE + GRACE).await;
    assert_eq!(t.state(silent).await, State::Pending);
    t.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_its_cursor_in_the_other_database() {
    let config = Config::new().simulated("sim", 1).lease("2s");
    let mut server = TestServer::start(config.clone()).await;
    let ran = server.submit(submit("sim", json!({ "duration_ms": 1_000 }))).await.id;
    let waits = server.submit(submit("sim", json!({ "chunks": 2, "output": "kept" }))).await.id;
    eventually("one runs", async || {
        (server.get(&ran).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    let all = WatchExecutionRequest {
        id: waits.clone(),
        after_revision: Some(0),
        include_output: true,
        ..Default::default()
    };
    let mut watch = server.execution().watch_execution(all.clone()).await.unwrap().into_inner();
    let seen = watch.message().await.unwrap().expect("it tells of the submission");
    server.kill9();

    let target = Arc::new(Database::new().await);
    moved(server.store(), &target).await.unwrap();
    let replica = TestServer::start_at(StoreHome::Postgres(Arc::clone(&target)), config).await;
    let on = WatchExecutionRequest {
        after_revision: Some(seen.revision),
        store_epoch: seen.store_epoch.clone(),
        ..all
    };
    let mut watched = vec![seen];
    let mut watch = replica.execution().watch_execution(on).await.unwrap().into_inner();
    while let Some(message) = watch.message().await.unwrap() {
        watched.push(message);
    }
    let without_heartbeats = |messages: Vec<WatchExecutionResponse>| -> Vec<_> {
        let told = |message: &WatchExecutionResponse| {
            !matches!(message.event, Some(Event::Heartbeat(_)) | None)
        };
        messages.into_iter().filter(told).collect()
    };
    assert_eq!(without_heartbeats(watched), without_heartbeats(replica.watch_to_end(&waits).await));
    let ended = replica.ended(&ran).await;
    assert_eq!((ended.state(), ended.attempts.len()), (ExecutionState::Succeeded, 2), "{ended:?}");
    audit_is_clean(&target.url());
}

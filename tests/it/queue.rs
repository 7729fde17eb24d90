//! What a pending execution is told of its chances: its place in the queue, and that nobody is there
//! to do its work.

use std::time::Duration;

use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    CancelExecutionRequest, Execution, ExecutionState, SubmitExecutionRequest, WaitReason,
    WatchExecutionRequest,
};
use serde_json::json;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, on_both, on_postgres, submit,
};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    what_waits_is_told_its_place_in_the_queue;
    #[tokio::test(flavor = "multi_thread")]
    work_of_a_provider_that_is_no_longer_configured_says_so_until_it_is;
}

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    work_whose_only_replica_is_gone_says_so_to_those_who_watch;
}

fn of_priority(priority: i32) -> SubmitExecutionRequest {
    SubmitExecutionRequest { priority, ..submit("sim", json!({ "duration_ms": 60_000 })) }
}

async fn place(server: &TestServer, execution: &Execution) -> i64 {
    server.get(&execution.id).await.queue_position
}

async fn what_waits_is_told_its_place_in_the_queue(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let running = server.submit(of_priority(0)).await;
    eventually("it runs", async || {
        (server.get(&running.id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    let first = server.submit(of_priority(0)).await;
    let second = server.submit(of_priority(0)).await;
    assert_eq!((place(&server, &first).await, place(&server, &second).await), (1, 2));
    let urgent = server.submit(of_priority(1)).await;
    let last = server.submit(of_priority(-1)).await;
    let mut places = Vec::new();
    for execution in [&urgent, &first, &second, &last, &running] {
        places.push(place(&server, execution).await);
    }
    assert_eq!(places, [1, 2, 3, 4, 0], "what runs waits in no queue");
    let cancel = CancelExecutionRequest { id: first.id.clone(), reason: String::new() };
    server.execution().cancel_execution(cancel).await.unwrap();
    assert_eq!((place(&server, &first).await, place(&server, &second).await), (0, 2));
    assert_eq!(server.submit(of_priority(9)).await.queue_position, 0, "only Get tells it");
}

fn wait(execution: &Execution) -> Option<WaitReason> {
    execution.wait_reason.as_ref().map(flowgate::pb::WaitStatus::code)
}

async fn says(server: &TestServer, id: &str, expected: WaitReason) {
    eventually(&format!("it says {}", expected.as_str_name()), async || {
        (wait(&server.get(id).await) == Some(expected)).then_some(())
    })
    .await;
}

async fn work_of_a_provider_that_is_no_longer_configured_says_so_until_it_is(db: Db) {
    let config = Config::on(db).simulated("sim", 1).lease("2s");
    let mut server = TestServer::start(config.clone().simulated("gone", 1)).await;
    let in_a_moment = std::time::SystemTime::now() + Duration::from_secs(1);
    let mut later = submit("gone", json!({}));
    later.schedule_time = Some(in_a_moment.into());
    let id = server.submit(later).await.id;
    server.kill9();
    let mut other = TestServer::start_at(server.store().clone(), config).await;
    says(&other, &id, WaitReason::NoWorker).await;
    other.kill9();
    server.restart().await;
    assert_eq!(server.ended(&id).await.state(), ExecutionState::Succeeded);
    audit_is_clean(&server.store_url());
}

async fn work_whose_only_replica_is_gone_says_so_to_those_who_watch() {
    let config = Config::on(Db::Postgres).simulated("sim", 1).lease("2s");
    let with = config.clone().simulated("special", 1);
    let one = TestServer::start(config).await;
    let mut other = one.start_beside(with.clone()).await;
    let running = other.submit(submit("special", json!({ "duration_ms": 500 }))).await.id;
    let waiting = other.submit(submit("special", json!({}))).await.id;
    other.kill9();
    let seen = async {
        let request = WatchExecutionRequest { id: waiting.clone(), ..Default::default() };
        let mut watch = one.execution().watch_execution(request).await.unwrap().into_inner();
        loop {
            let message = watch.message().await.unwrap().expect("it is not over");
            if let Some(Event::Execution(execution)) = message.event
                && wait(&execution) == Some(WaitReason::NoWorker)
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the watch is told");
    let third = one.start_beside(with).await;
    for id in [&running, &waiting] {
        assert_eq!(third.ended(id).await.state(), ExecutionState::Succeeded);
    }
    audit_is_clean(&one.store_url());
}

//! A provider that is dead for a while among others that are well (promises P7, P8): these do not wait
//! for it, and it is found to be back by a single call.

use std::time::Duration;

use flowgate::domain::{Change, Event};
use flowgate::pb::{
    BatchSubmitExecutionsRequest, ExecutionState, GateState, GetProviderRequest,
    SubmitExecutionRequest,
};
use flowgate::store::EventQuery;
use serde_json::json;

use crate::support::providers::{Replay, Reply};
use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_dead_provider_keeps_nobody_waiting_and_is_back_with_one_call;
}

const HEALTHY: [&str; 3] = ["a", "b", "c"];
const DEAD: &str = "dead";
/// Far more than there are slots.
const WAITING: usize = 40;
const SLOTS: &str = "8";
/// Far below what a dead provider is waited for, and far above what a loaded machine takes.
const SOON: Duration = Duration::from_secs(3);

async fn a_dead_provider_keeps_nobody_waiting_and_is_back_with_one_call(db: Db) {
    let mut replay = Replay::start().await;
    replay.always("GET /work", Reply::hang());
    let server = TestServer::start(config(db, &replay.url())).await;
    let waiting = batch(&server, vec![submit(DEAD, json!({ "path": "/work" })); WAITING]).await;
    // It takes calls, and says nothing to them.
    replay.request(2).await;
    let mut others = healthy_work(&server).await;
    closed_times(&server, 1).await;
    others.extend(healthy_work(&server).await);
    // One is sent to see, in vain; then nobody is there at all; then all is well.
    closed_times(&server, 2).await;
    replay.go_away().await;
    closed_times(&server, 3).await;
    others.extend(healthy_work(&server).await);
    replay.always("GET /work", Reply::json(200, &json!({ "done": true })));
    replay.come_back().await;
    for id in &waiting {
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.crash_count), (ExecutionState::Succeeded, 0), "{ended:?}");
    }
    let request = GetProviderRequest { provider: DEAD.to_owned() };
    let provider = server.provider().get_provider(request).await.unwrap().into_inner();
    assert_eq!(provider.provider.unwrap().gate_state(), GateState::Open);

    let log = log(&server).await;
    let tried = calls_at_the_gate(&log);
    assert_eq!(tried, [Tried::Closed, Tried::Closed, Tried::Opened], "one call each");
    let worst = longest_wait(&log);
    println!("{} executions of others waited {worst:?} at most", others.len());
    assert!(worst < SOON, "{worst:?}");
    audit_is_clean(&server.store_url());
}

fn config(db: Db, url: &str) -> Config {
    let dead = format!(
        "[providers.{DEAD}]\nkind = 'http'\nbase_url = {url:?}\nmax_concurrent = 100\n\
         run_timeout = '500ms'\ngate_failures = 3\ngate_pause = '500ms'"
    );
    let config = HEALTHY.iter().fold(Config::on(db), |config, name| config.simulated(name, 4));
    config.toml(&dead).env("FLOWGATE_SLOTS", SLOTS)
}

async fn batch(server: &TestServer, requests: Vec<SubmitExecutionRequest>) -> Vec<String> {
    let batch = BatchSubmitExecutionsRequest { requests };
    let reply = server.execution().batch_submit_executions(batch).await.unwrap().into_inner();
    reply.executions.into_iter().map(|execution| execution.id).collect()
}

/// Executions of the others, from the first submission to the last end.
async fn healthy_work(server: &TestServer) -> Vec<String> {
    let requests = HEALTHY.iter().cycle().take(60).map(|name| submit(name, json!({})));
    let ids = batch(server, requests.collect()).await;
    for id in &ids {
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.attempts.len()), (ExecutionState::Succeeded, 1));
    }
    ids
}

async fn log(server: &TestServer) -> Vec<Event> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
    store.events(&query).await.unwrap()
}

async fn closed_times(server: &TestServer, times: usize) {
    eventually(&format!("the gate has closed {times} times"), async || {
        let log = log(server).await;
        let closures = log.iter().filter(|it| matches!(it.change, Change::GateClosed { .. }));
        (closures.count() >= times).then_some(())
    })
    .await;
}

/// What came of a call that was let through to see.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    Closed,
    Opened,
}

/// Panics unless it was one call each time, and none while the gate was closed.
fn calls_at_the_gate(log: &[Event]) -> Vec<Tried> {
    let (mut calls, mut tried) = (None, Vec::new());
    for event in log.iter().filter(|event| event.provider.as_str() == DEAD) {
        match event.change {
            Change::GateProbing { .. } => {
                assert_eq!(calls, Some(0), "before revision {}", event.revision);
            }
            Change::GateClosed { .. } | Change::GateOpened {} => {
                let opened = event.change == Change::GateOpened {};
                if let Some(calls) = calls {
                    assert_eq!(calls, 1, "up to revision {}", event.revision);
                    tried.push(if opened { Tried::Opened } else { Tried::Closed });
                }
                calls = if opened { None } else { Some(0) };
            }
            Change::Claimed { .. } => calls = calls.map(|calls| calls + 1),
            _ => {}
        }
    }
    tried
}

/// From submission to claim, of those that are not for the dead provider.
fn longest_wait(log: &[Event]) -> Duration {
    let others = log.iter().filter(|event| event.provider.as_str() != DEAD);
    let claims = others.clone().filter(|event| matches!(event.change, Change::Claimed { .. }));
    let waits = claims.map(|claim| {
        let submitted = others.clone().find(|event| event.execution == claim.execution);
        claim.at.since(submitted.expect("it was submitted before").at)
    });
    waits.max().expect("there are some")
}

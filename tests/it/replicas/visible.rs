//! What is said to one replica holds at all of them from the answer on (promises P1, P5, P6), whether
//! or not they hear of each other.

use std::time::{Duration, Instant};

use flowgate::domain::{Change, Event};
use flowgate::pb::watch_execution_response::Event as Message;
use flowgate::pb::{
    CancelExecutionRequest, ExecutionState, PauseProviderRequest, ProviderLimits,
    ResumeProviderRequest, SetLimitsRequest, WatchExecutionRequest, WatchExecutionsRequest,
    watch_executions_response,
};
use flowgate::store::EventQuery;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, is_terminal, on_postgres, submit,
};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    a_submission_is_seen_at_once_through_every_replica;
    #[tokio::test(flavor = "multi_thread")]
    a_cancellation_through_another_replica_stops_the_attempt_within_two_seconds;
    #[tokio::test(flavor = "multi_thread")]
    a_cancellation_that_nobody_rings_for_stops_the_attempt_with_the_next_poll;
    #[tokio::test(flavor = "multi_thread")]
    what_nobody_rings_for_is_seen_and_run_with_the_next_poll;
    #[tokio::test(flavor = "multi_thread")]
    a_provider_paused_through_any_replica_is_claimed_from_by_none;
    #[tokio::test(flavor = "multi_thread")]
    a_limit_set_through_any_replica_holds_at_all_of_them;
}

/// Replicas that do not hear of each other and do not look for a long time: what they show of each
/// other they have read.
fn deaf() -> Config {
    config().env("FLOWGATE_LISTEN_URL", "off").env("FLOWGATE_POLL_INTERVAL", "60s")
}

fn config() -> Config {
    Config::on(Db::Postgres).simulated("sim", 4)
}

async fn a_submission_is_seen_at_once_through_every_replica() {
    let replicas = TestServer::replicas(deaf(), 3).await;
    for n in 0..60 {
        let [here, there] = [&replicas[n % 3], &replicas[(n + 1 + n % 2) % 3]];
        let id = here.submit(submit("sim", json!({ "duration_ms": 1 }))).await.id;
        assert_eq!(there.get(&id).await.id, id);
        let request = WatchExecutionRequest { id: id.clone(), ..Default::default() };
        let mut stream = there.execution().watch_execution(request).await.unwrap().into_inner();
        let first = soon(stream.message()).await.unwrap().expect("a snapshot");
        let Some(Message::Execution(shown)) = first.event else { panic!("{first:?}") };
        assert_eq!(shown.id, id);
    }
    watch_of_all_begins_with_everything(&replicas).await;
}

async fn watch_of_all_begins_with_everything(replicas: &[TestServer]) {
    let last = replicas[0].submit(submit("sim", json!({}))).await;
    let request = WatchExecutionsRequest::default();
    let mut stream = replicas[1].execution().watch_executions(request).await.unwrap().into_inner();
    loop {
        let message = soon(stream.message()).await.unwrap().expect("it goes on");
        if let Some(watch_executions_response::Event::Execution(execution)) = message.event
            && execution.id == last.id
        {
            return;
        }
    }
}

/// Before the next heartbeat of a watch, which would bring it too, and far above what a loaded machine
/// takes.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(8);
    tokio::time::timeout(deadline, future).await.expect("it comes soon")
}

async fn a_cancellation_through_another_replica_stops_the_attempt_within_two_seconds() {
    // Neither the poll nor the next renewal can be what tells.
    let config = config().env("FLOWGATE_POLL_INTERVAL", "60s").lease("60s");
    let first = TestServer::start(config.clone()).await;
    let second = first.start_beside(config).await;
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        worst = worst.max(cancelled_after(&first, &second).await);
    }
    println!("an attempt was stopped {worst:?} after its cancellation at the latest");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}

async fn a_cancellation_that_nobody_rings_for_stops_the_attempt_with_the_next_poll() {
    let poll = Duration::from_millis(500);
    let config = config()
        .env("FLOWGATE_LISTEN_URL", "off")
        .env("FLOWGATE_POLL_INTERVAL", "500ms")
        .lease("60s");
    let first = TestServer::start(config.clone()).await;
    let second = first.start_beside(config).await;
    let mut worst = Duration::ZERO;
    for _ in 0..5 {
        worst = worst.max(cancelled_after(&first, &second).await);
    }
    println!("an attempt was stopped {worst:?} after its cancellation at the latest");
    // A margin for a loaded machine; the next renewal would be later still.
    assert!(worst < poll + Duration::from_secs(4), "{worst:?}");
}

/// How long it takes from the cancellation through the replica that does not run it until the
/// attempt has stopped.
async fn cancelled_after(first: &TestServer, second: &TestServer) -> Duration {
    let id = first.submit(submit("sim", json!({ "duration_ms": 60_000 }))).await.id;
    let owner = eventually("it runs", async || {
        let execution = first.get(&id).await;
        execution.attempts.first().map(|attempt| attempt.worker_id.clone())
    })
    .await;
    let runs_here = first.status().await.worker_id == owner;
    let other = if runs_here { second } else { first };
    let since = Instant::now();
    let request = CancelExecutionRequest { id: id.clone(), reason: "enough".to_owned() };
    let asked = other.execution().cancel_execution(request).await.unwrap().into_inner();
    assert!(asked.execution.unwrap().cancel_requested_time.is_some());
    let ended = other.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled, "{ended:?}");
    since.elapsed()
}

async fn what_nobody_rings_for_is_seen_and_run_with_the_next_poll() {
    let config = config()
        .env("FLOWGATE_LISTEN_URL", "off")
        .env("FLOWGATE_POLL_INTERVAL", "500ms")
        .env("FLOWGATE_SLOTS", "1");
    let first = TestServer::start(config.clone()).await;
    let busy = first.submit(submit("sim", json!({ "duration_ms": 60_000 }))).await.id;
    eventually("it runs", async || (first.status().await.running_count == 1).then_some(())).await;
    let second = first.start_beside(config).await;
    let watch_one = WatchExecutionRequest { id: busy.clone(), ..Default::default() };
    let mut one = second.execution().watch_execution(watch_one).await.unwrap().into_inner();
    soon(one.message()).await.unwrap().expect("a snapshot");
    let watch_all = WatchExecutionsRequest { after_revision: Some(0), ..Default::default() };
    let mut all = second.execution().watch_executions(watch_all).await.unwrap().into_inner();

    // The first has no slot for it, and the second is not told.
    let id = first.submit(submit("sim", json!({}))).await.id;
    let seen = soon(async {
        loop {
            let message = all.message().await.unwrap().expect("it goes on");
            if let Some(watch_executions_response::Event::Execution(execution)) = message.event
                && execution.id == id
                && is_terminal(&execution)
            {
                return execution;
            }
        }
    });
    assert_eq!(seen.await.state(), ExecutionState::Succeeded);
    let request = CancelExecutionRequest { id: busy, ..Default::default() };
    first.execution().cancel_execution(request).await.unwrap();
    while soon(one.message()).await.unwrap().is_some() {}
}

/// The whole log.
async fn log(server: &TestServer) -> Vec<Event> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
    store.events(&query).await.unwrap()
}

async fn a_provider_paused_through_any_replica_is_claimed_from_by_none() {
    let replicas = TestServer::replicas(config(), 3).await;
    let mut rng = StdRng::seed_from_u64(1);
    let mut ids = Vec::new();
    for _ in 0..30 {
        for _ in 0..rng.random_range(1..6) {
            let any = replicas.choose(&mut rng).unwrap();
            ids.push(any.submit(submit("sim", json!({ "duration_ms": 3 }))).await.id);
        }
        let any = replicas.choose(&mut rng).unwrap();
        let provider = "sim".to_owned();
        if rng.random_bool(0.5) {
            let request = PauseProviderRequest { provider, ..Default::default() };
            any.provider().pause_provider(request).await.unwrap();
        } else {
            let request = ResumeProviderRequest { provider, ..Default::default() };
            any.provider().resume_provider(request).await.unwrap();
        }
    }
    let request = ResumeProviderRequest { provider: "sim".to_owned(), ..Default::default() };
    replicas[0].provider().resume_provider(request).await.unwrap();
    for id in &ids {
        replicas[1].ended(id).await;
    }
    let (mut paused, mut pauses, mut claims) = (false, 0, 0);
    for event in log(&replicas[2]).await {
        match event.change {
            Change::Paused { .. } => (paused, pauses) = (true, pauses + 1),
            Change::Resumed { .. } => paused = false,
            Change::Claimed { .. } => {
                claims += 1;
                assert!(!paused, "claimed at revision {} while paused", event.revision);
            }
            _ => {}
        }
    }
    println!("{claims} claims between {pauses} pauses");
    assert!(pauses > 5 && claims == ids.len());
    audit_is_clean(&replicas[0].store_url());
}

async fn a_limit_set_through_any_replica_holds_at_all_of_them() {
    let replicas = TestServer::replicas(config(), 3).await;
    let set = async |server: &TestServer, max_concurrent| {
        let limits = ProviderLimits {
            provider: "sim".to_owned(),
            max_concurrent: Some(max_concurrent),
            ..Default::default()
        };
        let request = SetLimitsRequest { limits: vec![limits], ..Default::default() };
        server.provider().set_limits(request).await.unwrap();
    };
    let running = async |server: &TestServer, count: i64| {
        let what = format!("{count} run");
        let runs = async || server.status().await.running_count == count;
        eventually(&what, async || runs().await.then_some(())).await;
    };
    let mut ids = Vec::new();
    for n in 0..12 {
        let request = submit("sim", json!({ "duration_ms": 60_000 }));
        ids.push(replicas[n % 3].submit(request).await.id);
    }
    running(&replicas[0], 4).await;
    // A raised limit is used by whoever hears of it.
    set(&replicas[1], 7).await;
    running(&replicas[2], 7).await;
    // A lowered one holds from the answer on: whatever ends from then on makes room for nothing.
    set(&replicas[2], 2).await;
    let running_now = async || {
        let mut found = Vec::new();
        for id in &ids {
            if replicas[0].get(id).await.state() == ExecutionState::Running {
                found.push(id.clone());
            }
        }
        found
    };
    for id in running_now().await.into_iter().take(5) {
        let request = CancelExecutionRequest { id: id.clone(), ..Default::default() };
        replicas[1].execution().cancel_execution(request).await.unwrap();
        replicas[2].ended(&id).await;
    }
    assert_eq!(running_now().await.len(), 2);
    set(&replicas[0], 3).await;
    running(&replicas[1], 3).await;
    audit_is_clean(&replicas[0].store_url());
}

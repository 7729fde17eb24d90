//! A server killed while executions wait for all kinds of times (promises P2, P8): whoever comes
//! after it waits for the same, until the same, and goes on by itself.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use flowgate::domain::{
    Bound, Change, Clock as _, Event, ExecutionId, LimitUpdate, Overrides, RateOverrides,
    SystemClock, Timestamp, Told,
};
use flowgate::pb::{
    Execution, ExecutionState, GetProviderRequest, PauseProviderRequest, Provider,
    SubmitExecutionRequest, WaitReason,
};
use flowgate::store::{EventQuery, ExpectedRevision, LimitChange};
use serde_json::json;

use crate::store::fixture::{TestStore, name};
use crate::support::{
    Config, Db, StoreHome, TestServer, audit_is_clean, eventually, on_both, submit,
};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    what_waited_for_a_time_when_the_server_was_killed_waits_for_the_same_afterwards;
}

/// What all of them wait for; a start and a kill take far less.
const WAIT: Duration = Duration::from_secs(9);
/// Of `rated`, within any minute.
const BUDGET: u64 = 4;
/// Of it, what was spent most of a minute before the server started.
const SPENT: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

const PROVIDERS: [(&str, WaitReason); 5] = [
    ("failing", WaitReason::Backoff),
    ("limited", WaitReason::GateClosed),
    ("paused", WaitReason::Paused),
    ("later", WaitReason::Scheduled),
    ("rated", WaitReason::Rate),
];

async fn what_waited_for_a_time_when_the_server_was_killed_waits_for_the_same_afterwards(db: Db) {
    let config = Config::on(db).lease("2s").env("FLOWGATE_SLOTS", "20");
    let config = PROVIDERS.iter().fold(config, |config, (name, _)| config.simulated(name, 9));
    let mut server = TestServer::start_at(with_a_budget(db).await, config).await;
    let waiting = waiting(&server).await;
    let before = seen(&server, &waiting).await;
    let gates = gates(&server).await;
    server.kill9();
    server.restart().await;
    assert_eq!(seen(&server, &waiting).await, before);
    assert_eq!(self::gates(&server).await, gates);
    let (last, others) = waiting.split_last().expect("there are some");
    for id in others {
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.crash_count), (ExecutionState::Succeeded, 0), "{ended:?}");
        let tries = if ended.provider == "failing" { 2 } else { 1 };
        assert_eq!(ended.attempt_count, tries, "{ended:?}");
    }
    // The minute that began with the server is full again.
    eventually("the last waits for what began before the kill", async || {
        let waits = server.get(last).await.wait_reason?;
        let ahead = waits.until.map(micros)? - SystemClock.now().as_micros();
        (waits.code() == WaitReason::Rate && (1..=61_000_000).contains(&ahead)).then_some(())
    })
    .await;
    let log = log(&server).await;
    for execution in &before {
        let until = execution.wait_reason.as_ref().and_then(|waits| waits.until).unwrap();
        let id: ExecutionId = execution.id.parse().unwrap();
        let early = claims(&log).find(|claim| {
            claim.execution == Some(id)
                && claim.revision > execution.revision
                && claim.at.as_micros() < micros(until)
        });
        assert!(early.is_none(), "it began before {until}: {early:?}");
    }
    no_minute_is_overspent(&log);
    audit_is_clean(&server.store_url());
}

/// A store whose provider `rated` has a budget, most of which was spent `WAIT` less than a minute ago.
async fn with_a_budget(db: Db) -> StoreHome {
    let home = StoreHome::new(db).await;
    let t = TestStore::over(home.open().await, Some(home));
    // Counted by the second: what began is forgotten 60 to 61 s later.
    t.clock.advance(SystemClock.now().since(t.clock.now()) - (MINUTE - WAIT));
    t.declare("rated", 9).await;
    let requests_per_minute = Some(Bound::At(BUDGET));
    let rates = RateOverrides { requests_per_minute, ..RateOverrides::default() };
    let update = LimitUpdate::Set(Overrides { rates, ..Overrides::default() });
    let changes = vec![LimitChange { provider: name("rated"), update, expires_at: None }];
    let told = Told::by_itself("test");
    let set = t.store.set_limits(changes, told, ExpectedRevision::Any, false).await;
    set.unwrap().unwrap();
    t.submit_plain("rated", SPENT).await;
    for claimed in t.claim("rated", 9).await {
        t.succeed(&claimed.lease).await;
    }
    t.close().await
}

/// Executions that wait for a time each, nothing else running; the last one longest.
async fn waiting(server: &TestServer) -> Vec<String> {
    let then = SystemTime::now() + WAIT;
    let after_ms = u64::try_from(WAIT.as_millis()).unwrap();
    let pause = PauseProviderRequest {
        provider: "paused".to_owned(),
        resume_time: Some(then.into()),
        ..Default::default()
    };
    server.provider().pause_provider(pause).await.unwrap();
    let failing = |provider: &str, how: &str| {
        submit(provider, json!({ "fail": how, "fail_attempts": 1, "retry_after_ms": after_ms }))
    };
    let mut ids = Vec::new();
    for request in [
        failing("failing", "transient"),
        failing("limited", "rate_limited"),
        submit("paused", json!({})),
        SubmitExecutionRequest { schedule_time: Some(then.into()), ..submit("later", json!({})) },
    ] {
        ids.push(server.submit(request).await.id);
    }
    let first = server.submit(submit("rated", json!({}))).await.id;
    assert_eq!(server.ended(&first).await.state(), ExecutionState::Succeeded);
    waits(server, &ids).await;
    for provider in ["limited", "paused", "rated", "rated", "rated", "rated"] {
        ids.push(server.submit(submit(provider, json!({}))).await.id);
    }
    waits(server, &ids).await;
    assert_eq!(server.status().await.running_count, 0);
    ids
}

/// All wait for what their provider has them wait for, and know until when.
async fn waits(server: &TestServer, ids: &[String]) {
    let reasons = BTreeMap::from(PROVIDERS);
    for id in ids {
        eventually("it waits", async || {
            let execution = server.get(id).await;
            let waits = execution.wait_reason?;
            let due = waits.code() == reasons[execution.provider.as_str()];
            (due && waits.until.is_some()).then_some(())
        })
        .await;
    }
}

async fn seen(server: &TestServer, ids: &[String]) -> Vec<Execution> {
    let mut executions = Vec::new();
    for id in ids {
        executions.push(server.get(id).await);
    }
    executions
}

/// State, end and reason of every gate.
async fn gates(server: &TestServer) -> Vec<(i32, Option<prost_types::Timestamp>, String)> {
    let mut gates = Vec::new();
    for (name, _) in PROVIDERS {
        let request = GetProviderRequest { provider: name.to_owned() };
        let provider = server.provider().get_provider(request).await.unwrap().into_inner();
        let Provider { gate_state, gate_until, gate_reason, .. } = provider.provider.unwrap();
        gates.push((gate_state, gate_until, gate_reason));
    }
    gates
}

async fn log(server: &TestServer) -> Vec<Event> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
    store.events(&query).await.unwrap()
}

fn claims(log: &[Event]) -> impl Iterator<Item = &Event> {
    log.iter().filter(|event| matches!(event.change, Change::Claimed { .. }))
}

/// Of what began at `rated`, before the server, under it and after it.
fn no_minute_is_overspent(log: &[Event]) {
    let begun = claims(log).filter(|event| event.provider == name("rated"));
    let begun: Vec<Timestamp> = begun.map(|event| event.at).collect();
    assert_eq!(begun.len(), SPENT + 1 + SPENT);
    for (n, last) in begun.iter().enumerate() {
        let minute = begun[..=n].iter().filter(|at| last.since(**at) < MINUTE).count();
        assert!(minute as u64 <= BUDGET, "{minute} began in the minute up to {last:?}");
    }
}

fn micros(time: prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

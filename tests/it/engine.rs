//! The engine in this process, with providers and a store that misbehave on purpose.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowgate::domain::{
    Breaker, Clock, Ending, ErrorCode, ExecutionId, Input, Limits, OnLost, RetryPolicy,
    RetryRequest, RetryRules, Spec, State, SystemClock, WorkerId,
};
use flowgate::engine::{
    ConfiguredProvider, Cursor, Draft, Engine, EngineSettings, PoolSettings, ThisMachine, View,
    WatchEvent,
};
use flowgate::providers::{AttemptFailure, Call, Provider, Simulated, Success, Violation};
use flowgate::store::{Backend, NewExecution, Settlement, Store};
use flowgate::tasks::Tasks;
use serde_json::{Map, Value};
use tokio_stream::StreamExt as _;

use crate::store::faults::{Fault, Faulty};
use crate::store::fixture::{claim, unshared};
use crate::support::{Db, StoreHome, audit_is_clean, on_both};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    an_attempt_that_panics_is_a_crash_and_three_are_the_end_of_it;
    #[tokio::test(flavor = "multi_thread")]
    a_flooded_provider_takes_no_slot_of_another;
    #[tokio::test(flavor = "multi_thread")]
    trouble_with_the_store_is_outlived_by_every_loop;
    #[tokio::test]
    a_settlement_under_an_old_token_leaves_no_trace;
}

/// A provider whose every attempt panics.
struct Panics;

#[async_trait]
impl Provider for Panics {
    fn check(&self, _: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        Ok(())
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        panic!("on purpose, in attempt {}", call.attempt)
    }
}

async fn an_attempt_that_panics_is_a_crash_and_three_are_the_end_of_it(db: Db) {
    let home = StoreHome::new(db).await;
    let engine = start(home.open().await).await;
    let view = ended(&engine, submit(&engine, "panics", "{}").await).await;
    let execution = view.execution;
    assert_eq!(execution.state, State::Failed);
    assert_eq!(execution.failure.as_ref().unwrap().code, ErrorCode::Crashed);
    assert_eq!((execution.attempts.len(), execution.crashes, execution.charged), (3, 3, 0));
    let fine = ended(&engine, submit(&engine, "sim", "{}").await).await;
    assert_eq!(fine.execution.state, State::Succeeded, "others do not notice");
    audit_is_clean(&home.url());
}

async fn a_flooded_provider_takes_no_slot_of_another(db: Db) {
    let home = StoreHome::new(db).await;
    let engine = start(home.open().await).await;
    let flood = (0..2_000).map(|_| draft("one", r#"{"duration_ms":3600000}"#)).collect();
    engine.submit(flood).await.unwrap();
    let other = ended(&engine, submit(&engine, "sim", "{}").await).await;
    assert_eq!(other.execution.state, State::Succeeded);
    let running = engine.providers(&["one".parse().unwrap()]).await.unwrap()[0].row.running;
    assert_eq!(running, 1);
}

async fn trouble_with_the_store_is_outlived_by_every_loop(db: Db) {
    let home = StoreHome::new(db).await;
    let faulty = Faulty::over(home.open().await);
    let engine = start(Arc::new(faulty.clone())).await;
    // It is settled only once the store works again.
    let id = submit(&engine, "sim", r#"{"duration_ms":200}"#).await;
    faulty.will(Fault::Down);
    assert!(engine.submit(vec![draft("sim", "{}")]).await.is_err());
    let mut refused = 0;
    while refused < 20 {
        refused += u32::from(engine.submit(vec![draft("sim", "{}")]).await.is_err());
        tokio::task::yield_now().await;
    }
    faulty.heal();
    assert_eq!(ended(&engine, id).await.execution.state, State::Succeeded);
    let later = ended(&engine, submit(&engine, "sim", "{}").await).await;
    assert_eq!(later.execution.state, State::Succeeded, "and it goes on as before");
    audit_is_clean(&home.url());
}

#[test]
fn the_control_loops_go_on_while_all_other_threads_are_busy() {
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let work = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = work.enter();
    let tasks = Tasks::with_control(control.handle().clone());
    let (beat, beats) = std::sync::mpsc::channel();
    tasks.spawn_loop("beat", move || {
        let beat = beat.clone();
        async move { beat.send(()).unwrap() }
    });
    // Nobody drives `work` at all: a loop that ran there would never beat.
    assert!(beats.recv_timeout(Duration::from_secs(10)).is_ok());
}

async fn a_settlement_under_an_old_token_leaves_no_trace(db: Db) {
    let home = StoreHome::new(db).await;
    let tasks = Tasks::default();
    let store = Store::start(home.open().await, Arc::new(SystemClock), &tasks);
    let limits = Limits::concurrent(1);
    store.declare(vec![("sim".parse().unwrap(), limits)]).await.unwrap();
    store.submit(vec![stored("sim")]).await.unwrap().unwrap();
    let claim = |worker| claim(worker, vec![unshared("sim".parse().unwrap(), 1)]);
    let (old, new) = (WorkerId::new(), WorkerId::new());
    let stale = store.claim(claim(old)).await.unwrap().claimed.pop().unwrap();
    store.recover(new).await.unwrap();
    let current = store.claim(claim(new)).await.unwrap().claimed.pop().unwrap();
    assert_eq!(current.lease.token, stale.lease.token.next());
    let succeeded = Ending::Succeeded { output: "1".into(), usage: None };
    let settlement = Settlement::new(stale.lease, succeeded);
    // What it answers is the conformance suite's to check; here the audit is to judge.
    let _ = store.settle(settlement).await.unwrap();
    audit_is_clean(&home.url());
}

async fn start(backend: Arc<dyn Backend>) -> Engine {
    let tasks = Tasks::default();
    let store = Store::start(backend, Arc::new(SystemClock), &tasks);
    let provider = |name: &str, limit, provider: Arc<dyn Provider>| ConfiguredProvider {
        name: name.parse().unwrap(),
        kind: "test".to_owned(),
        limits: Limits::concurrent(limit),
        run_timeout: Duration::from_secs(3_600),
        breaker: Breaker::default(),
        retry: RetryRules::default(),
        provider,
    };
    let settings = EngineSettings {
        lease: Duration::from_secs(30),
        poll_interval: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(30),
        priority_head_start: Duration::from_secs(60),
        pool: PoolSettings::fixed(1_000),
        providers: vec![
            provider("panics", 1, Arc::new(Panics)),
            provider("one", 1, Arc::new(Simulated::default())),
            provider("sim", 2, Arc::new(Simulated::default())),
        ],
        machine: Arc::new(ThisMachine::default()),
        host: "here".to_owned(),
        version: "test".to_owned(),
    };
    Engine::start(store, settings, &tasks).await.unwrap()
}

pub(crate) async fn submit(engine: &Engine, provider: &str, input: &str) -> ExecutionId {
    let stored = engine.submit(vec![draft(provider, input)]).await.unwrap();
    stored[0].view.execution.spec.id
}

pub(crate) async fn ended(engine: &Engine, id: ExecutionId) -> View {
    let cursor = Cursor { after: 0, epoch: String::new() };
    let (mut watch, _) = engine.watch(id, Some(cursor), false).await.unwrap();
    let last = async {
        let mut last = None;
        while let Some(item) = watch.next().await {
            if let WatchEvent::Execution(view) = item.unwrap().event {
                last = Some(*view);
            }
        }
        last.unwrap()
    };
    tokio::time::timeout(Duration::from_secs(30), last).await.expect("it ends in time")
}

pub(crate) fn draft(provider: &str, input: &str) -> Draft {
    Draft {
        provider: provider.parse().unwrap(),
        input: Input { json: input.to_owned(), exact: false },
        request_id: None,
        request_hash: String::new(),
        priority: 0,
        labels: std::collections::BTreeMap::new(),
        schedule_at: None,
        queue_timeout: None,
        run_timeout: None,
        retry: RetryRequest::default(),
        on_lost: OnLost::Rerun,
        retry_of: None,
        trace: None,
    }
}

fn stored(provider: &str) -> NewExecution {
    let Draft { provider, input, priority, labels, retry, .. } = draft(provider, "{}");
    let spec = Spec {
        id: ExecutionId::new(),
        provider,
        input,
        demand: None,
        request_id: None,
        priority,
        labels,
        schedule_at: None,
        queue_timeout: None,
        run_timeout: Duration::from_secs(60),
        retry: retry.over(&RetryPolicy::default()),
        on_lost: OnLost::Rerun,
        retry_of: None,
        trace: None,
        created_at: SystemClock.now(),
    };
    NewExecution { spec: Arc::new(spec), request_hash: String::new(), head_start: Duration::ZERO }
}

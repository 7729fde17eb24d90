//! Limits that move by themselves: within their bounds, step by step, each with its reason in the log.
//! How well they follow is measured by `benches/adaptive.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowgate::domain::{
    AdaptiveBounds, Breaker, Change, Limits, RetryRules, State, StepReason, SystemClock,
};
use flowgate::engine::{ConfiguredProvider, Engine, EngineSettings, PoolSettings, ThisMachine};
use flowgate::providers::Simulated;
use flowgate::store::{EventQuery, Store};
use flowgate::tasks::Tasks;

use crate::engine::{draft, ended};
use crate::support::{Db, StoreHome, audit_is_clean, eventually, on_both};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_limit_goes_up_while_work_waits_and_down_when_the_provider_turns_it_away;
}

const BOUNDS: AdaptiveBounds = AdaptiveBounds { min: 1, max: 4, target_latency: None };

async fn engine(home: &StoreHome, capacity: &Arc<AtomicU32>) -> (Engine, Store) {
    let tasks = Tasks::default();
    let store = Store::start(home.open().await, Arc::new(SystemClock), &tasks);
    let simulated = Simulated::with_capacity(Arc::clone(capacity));
    let settings = EngineSettings {
        lease: Duration::from_secs(30),
        poll_interval: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(30),
        pool: PoolSettings::fixed(100),
        priority_head_start: Duration::from_secs(60),
        providers: vec![ConfiguredProvider {
            name: "sim".parse().unwrap(),
            kind: "simulated".to_owned(),
            limits: Limits { adaptive: Some(BOUNDS), ..Limits::concurrent(1) },
            run_timeout: Duration::from_secs(60),
            breaker: Breaker::default(),
            retry: RetryRules::default(),
            provider: Arc::new(simulated.asking_to_wait(Duration::from_millis(100))),
        }],
        machine: Arc::new(ThisMachine::default()),
        host: "here".to_owned(),
        version: "test".to_owned(),
    };
    (Engine::start(store.clone(), settings, &tasks).await.unwrap(), store)
}

/// The limits so far, and why each came after the one before.
async fn steps(store: &Store) -> Vec<(u32, Option<StepReason>)> {
    let query = EventQuery { after: 0, execution: None, output: false, limit: 100_000 };
    let events = store.events(&query).await.unwrap().into_iter();
    let limits = events.filter_map(|event| match event.change {
        Change::LimitsChanged { effective, step, .. } => {
            Some((effective.max_concurrent, step.map(|step| step.reason)))
        }
        _ => None,
    });
    limits.collect()
}

async fn limit_is(store: &Store, wanted: u32) {
    eventually(&format!("the limit is {wanted}"), async || {
        let rows = store.providers().await.unwrap();
        (rows[0].record.effective().max_concurrent == wanted).then_some(())
    })
    .await;
}

async fn a_limit_goes_up_while_work_waits_and_down_when_the_provider_turns_it_away(db: Db) {
    let home = StoreHome::new(db).await;
    let capacity = Arc::new(AtomicU32::new(100));
    let (engine, store) = engine(&home, &capacity).await;
    let work = vec![draft("sim", r#"{"duration_ms": 20}"#); 600];
    let last = engine.submit(work).await.unwrap().pop().unwrap().view.execution.spec.id;
    limit_is(&store, BOUNDS.max).await;
    capacity.store(2, Ordering::SeqCst);
    eventually("it was lowered", async || {
        let steps = steps(&store).await;
        steps.iter().any(|(_, why)| *why == Some(StepReason::RateLimited)).then_some(())
    })
    .await;
    capacity.store(100, Ordering::SeqCst);
    let ended = ended(&engine, last).await;
    assert_eq!((ended.execution.state, ended.execution.charged), (State::Succeeded, 1));
    let steps = steps(&store).await;
    assert!(steps.iter().all(|(limit, _)| (BOUNDS.min..=BOUNDS.max).contains(limit)), "{steps:?}");
    let up = |pair: &[(u32, Option<StepReason>)]| pair[0].0 < pair[1].0;
    for pair in steps.windows(2).filter(|pair| pair[1].1.is_some()) {
        let expects_up =
            matches!(pair[1].1, Some(StepReason::Room { .. } | StepReason::Trial { .. }));
        assert_eq!(up(pair), expects_up, "{pair:?}");
    }
    let record = store.providers().await.unwrap().remove(0).record;
    assert_eq!(record.limits_revision, 1, "steps are no change that an operator made");
    audit_is_clean(&home.url());
}

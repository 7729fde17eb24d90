//! How well a limit follows a provider whose capacity moves: `cargo bench --bench adaptive`.
//!
//! Two simulated providers with the same hidden capacity, which goes from 8 to 3 to 12, are worked on by
//! one engine over the embedded store, at the same time. The limit of one moves by itself between 1
//! and 20; that of the other is set to the capacity whenever that moves, which is the best there is.
//! Told are, for each stretch, how long the limit took to follow, the share of answers that were
//! rate limits, and the work done as a share of the other's.
//!
//! The limit has followed when it is within one of the capacity. `-- --phase 20` makes a stretch last
//! 20 s instead of 40, `-- --job 500` an attempt 500 ms instead of 100.
//!
//! Nothing here passes or fails: machines differ, and the reader compares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flowgate::domain::{
    AdaptiveBounds, Breaker, Change, EndCause, ErrorCode, Input, LimitUpdate, Limits, OnLost,
    Overrides, RetryRequest, RetryRules, SystemClock, Told,
};
use flowgate::engine::{
    ConfiguredProvider, Draft, Engine, EngineSettings, LimitsDraft, PoolSettings, ThisMachine,
};
use flowgate::providers::Simulated;
use flowgate::store::{EventQuery, ExpectedRevision, LimitChange, SqliteBackend, Store};
use flowgate::tasks::Tasks;

const CAPACITIES: [u32; 3] = [8, 3, 12];
const FIRST: u32 = 4;
const BOUNDS: AdaptiveBounds = AdaptiveBounds { min: 1, max: 20, target_latency: None };
/// How long one that is turned away is to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() {
    let (phase, job) = (argument("--phase", 40), argument("--job", 100));
    let phase = Duration::from_secs(phase);
    let capacities = [Arc::new(AtomicU32::new(CAPACITIES[0])), Arc::new(AtomicU32::new(0))];
    capacities[1].store(CAPACITIES[0], Ordering::SeqCst);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backend = SqliteBackend::open(&folder.path().join("flowgate.db")).await.expect("a store");
    let tasks = Tasks::default();
    let store = Store::start(Arc::new(backend), Arc::new(SystemClock), &tasks);
    let engine = Engine::start(store.clone(), settings(&capacities), &tasks).await.expect("starts");

    let most = u64::from(*CAPACITIES.iter().max().expect("there are some"));
    let backlog = most * 3 * phase.as_secs() * 1_000 / job;
    for name in ["moves", "told"] {
        for _ in 0..backlog.div_ceil(1_000) {
            engine.submit(vec![draft(name, job); 1_000]).await.expect("stored");
        }
    }

    println!("attempts of {job} ms; stretches of {} s", phase.as_secs());
    println!("capacity   followed after   rate limited   work, of the best   limit at the end");
    let (mut after, mut all) = (store.head().await.expect("read").revision, Counts::default());
    for capacity in CAPACITIES {
        for moved in &capacities {
            moved.store(capacity, Ordering::SeqCst);
        }
        set_limit(&engine, capacity).await;
        let (followed, limit) = follow(&store, capacity, phase).await;
        let (counts, head) = count(&store, after).await;
        after = head;
        println!(
            "{capacity:>8}   {followed:>14}   {:>10.2} %   {:>15.1} %   {limit:>16}",
            counts.limited() * 100.0,
            counts.share() * 100.0,
        );
        all.add(&counts);
    }
    let (limited, share) = (all.limited() * 100.0, all.share() * 100.0);
    println!("     all                    {limited:>10.2} %   {share:>15.1} %");
    engine.begin_shutdown();
    std::process::exit(0);
}

/// Waits for the end of a stretch; tells when the limit had followed, and what it is at the end.
async fn follow(store: &Store, capacity: u32, phase: Duration) -> (String, u32) {
    let began = Instant::now();
    let (mut followed, mut limit) = ("never".to_owned(), 0);
    let mut once = false;
    while began.elapsed() < phase {
        let rows = store.providers().await.expect("read");
        let row = rows.iter().find(|row| row.record.name.as_str() == "moves").expect("declared");
        limit = row.record.effective().max_concurrent;
        if !once && limit.abs_diff(capacity) <= 1 {
            once = true;
            followed = format!("{:.1} s", began.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (followed, limit)
}

/// What happened at the two providers.
#[derive(Default)]
struct Counts {
    /// Attempts that succeeded, by provider.
    succeeded: BTreeMap<String, u64>,
    /// Attempts at the one whose limit moves that were turned away.
    limited: u64,
}

impl Counts {
    fn of(&self, provider: &str) -> f64 {
        self.succeeded.get(provider).copied().unwrap_or(0) as f64
    }

    fn limited(&self) -> f64 {
        self.limited as f64 / (self.of("moves") + self.limited as f64).max(1.0)
    }

    fn share(&self) -> f64 {
        self.of("moves") / self.of("told").max(1.0)
    }

    fn add(&mut self, other: &Self) {
        self.limited += other.limited;
        for (provider, count) in &other.succeeded {
            *self.succeeded.entry(provider.clone()).or_default() += count;
        }
    }
}

async fn count(store: &Store, mut after: i64) -> (Counts, i64) {
    let mut counts = Counts::default();
    loop {
        let query = EventQuery { after, execution: None, output: false, limit: 10_000 };
        let events = store.events(&query).await.expect("read");
        let Some(last) = events.last() else { return (counts, after) };
        after = last.revision;
        for event in &events {
            let (Change::Requeued { ended, .. } | Change::Finished { ended: Some(ended), .. }) =
                &event.change
            else {
                continue;
            };
            let limited = |it: &flowgate::domain::Failure| it.code == ErrorCode::RateLimited;
            if ended.cause == EndCause::Succeeded {
                *counts.succeeded.entry(event.provider.to_string()).or_default() += 1;
            } else if event.provider.as_str() == "moves"
                && ended.failure.as_ref().is_some_and(limited)
            {
                counts.limited += 1;
            }
        }
    }
}

async fn set_limit(engine: &Engine, limit: u32) {
    let provider = "told".parse().expect("a name");
    let update = LimitUpdate::Set(Overrides::concurrent(limit));
    let draft = LimitsDraft {
        changes: vec![LimitChange { provider, update, expires_at: None }],
        told: Told::default(),
        expected: ExpectedRevision::Any,
        validate_only: false,
    };
    engine.set_limits(draft).await.expect("set");
}

fn settings(capacities: &[Arc<AtomicU32>; 2]) -> EngineSettings {
    let adaptive = Limits { adaptive: Some(BOUNDS), ..Limits::concurrent(FIRST) };
    let limits = [("moves", adaptive), ("told", Limits::concurrent(CAPACITIES[0]))];
    let provider = |((name, limits), capacity): ((&str, Limits), &Arc<AtomicU32>)| {
        let simulated = Simulated::with_capacity(Arc::clone(capacity)).asking_to_wait(RETRY_AFTER);
        ConfiguredProvider {
            name: name.parse().expect("a name"),
            kind: "simulated".to_owned(),
            limits,
            run_timeout: Duration::from_secs(600),
            breaker: Breaker::default(),
            retry: RetryRules::default(),
            provider: Arc::new(simulated),
        }
    };
    EngineSettings {
        lease: Duration::from_secs(30),
        poll_interval: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(30),
        pool: PoolSettings::fixed(100),
        priority_head_start: Duration::from_secs(60),
        providers: limits.into_iter().zip(capacities).map(provider).collect(),
        machine: Arc::new(ThisMachine::default()),
        host: "here".to_owned(),
        version: "bench".to_owned(),
    }
}

fn draft(provider: &str, job: u64) -> Draft {
    Draft {
        provider: provider.parse().expect("a name"),
        input: Input { json: format!(r#"{{"duration_ms":{job}}}"#), exact: false },
        request_id: None,
        request_hash: String::new(),
        priority: 0,
        labels: BTreeMap::new(),
        schedule_at: None,
        queue_timeout: None,
        run_timeout: None,
        retry: RetryRequest::default(),
        on_lost: OnLost::Rerun,
        retry_of: None,
        trace: None,
    }
}

/// The number that follows this word on the command line.
fn argument(word: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|given| given != word).skip(1);
    arguments.next().and_then(|given| given.parse().ok()).unwrap_or(default)
}

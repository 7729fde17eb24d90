//! Whatever is asked of it, in whatever order and company, a database answers and logs what the
//! plain memory model does.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use flowgate::domain::{
    Bound, Chunk, ChunkContent, Clock, Demand, Ending, ErrorCode, ExecutionId, Lease, LimitUpdate,
    Limits, OutputStream, Overrides, RateOverrides, Rates, Token, Told, Usage, WorkerId,
};
use flowgate::store::{
    Claim, Claimed, EventQuery, ExpectedRevision, GateChange, LimitChange, ListQuery, NewExecution,
    Payload, ProviderNews, Settlement, Store, Wanted,
};
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::fixture::{
    GRACE, Kind, LEASE, SECOND, TestStore, cancelled, claim, crashed, failed, failure, name, retry,
    succeeded,
};
use crate::support::Db;

const PROVIDERS: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn sqlite_does_what_the_model_does(steps in vec(step(), 1..40)) {
        runtime().block_on(run(Db::Sqlite, steps));
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn postgres_does_what_the_model_does(steps in vec(step(), 1..40)) {
        runtime().block_on(run(Db::Postgres, steps));
    }
}

/// One thread of its own for each test: what is asked for at the same moment reaches the writer
/// together.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Operations asked for at the same moment, then a moment passing.
#[derive(Debug, Clone)]
struct Step {
    together: Vec<Op>,
    passing: Duration,
}

impl Step {
    /// A shared database has several ways in: what takes the same one waits together.
    fn that_wait_together(&self, db: Db) -> Vec<Vec<Op>> {
        match db {
            Db::Sqlite => vec![self.together.clone()],
            Db::Postgres => {
                let of = |way| self.together.iter().filter(move |op| op.way() == way).cloned();
                (0..3).map(|way| of(way).collect()).collect()
            }
        }
    }
}

impl Op {
    fn way(&self) -> usize {
        match self {
            Self::Renew { .. } => 0,
            Self::Claim { .. } => 2,
            _ => 1,
        }
    }
}

/// An operation; which execution, lease or provider is meant is an index into those there are.
#[derive(Debug, Clone)]
enum Op {
    Submit(Vec<New>),
    Claim { worker: usize, wanted: Vec<Take>, slots: u32, kept: u32 },
    Settle { lease: usize, ending: Ending },
    Renew { leases: Vec<usize> },
    Output { lease: usize, chunks: i64 },
    Cancel { executions: Vec<usize> },
    Advance,
    Recover { worker: usize },
    Declare { provider: usize, limits: Limits },
    SetLimits { changes: Vec<Setting>, expected: Option<i64>, validate_only: bool },
    Pause { provider: usize, seconds: Option<u32> },
    Resume { provider: usize },
}

/// What becomes of a provider's limits, and for how long; without any they are reset.
#[derive(Debug, Clone)]
struct Setting {
    provider: usize,
    limits: Option<Limits>,
    seconds: Option<u32>,
}

/// What is wanted of a provider.
#[derive(Debug, Clone)]
struct Take {
    provider: usize,
    most: u32,
    sharers: u32,
    running_here: u32,
}

#[derive(Debug, Clone)]
struct New {
    provider: usize,
    priority: i32,
    request: Option<(u8, u8)>,
    delay: Option<u32>,
    queue_timeout: Option<u32>,
    /// Of the model that some limits name or of another, and how much it may read.
    demand: Option<(bool, u64)>,
}

fn step() -> impl Strategy<Value = Step> {
    let together = prop_oneof![3 => vec(op(), 1..2), 2 => vec(op(), 2..6)];
    let passing = prop_oneof![4 => Just(0), 3 => 1u64..4, 1 => 30u64..80];
    (together, passing)
        .prop_map(|(together, passing)| Step { together, passing: Duration::from_secs(passing) })
}

fn op() -> impl Strategy<Value = Op> {
    let provider = 0..PROVIDERS.len();
    let seconds = proptest::option::weighted(0.4, 1u32..6);
    let setting = (provider.clone(), proptest::option::of(limits()), seconds);
    let setting =
        setting.prop_map(|(provider, limits, seconds)| Setting { provider, limits, seconds });
    let changes = vec(setting, 1..3);
    let expected = proptest::option::of(0i64..60);
    prop_oneof![
        6 => vec(new(), 1..5).prop_map(Op::Submit),
        8 => (0usize..3, vec(take(), 1..4), prop_oneof![3 => Just(u32::MAX), 1 => 0u32..5], 0u32..3)
            .prop_map(|(worker, wanted, slots, kept)| Op::Claim { worker, wanted, slots, kept }),
        8 => (any::<usize>(), ending()).prop_map(|(lease, ending)| Op::Settle { lease, ending }),
        2 => vec(any::<usize>(), 1..4).prop_map(|leases| Op::Renew { leases }),
        2 => (any::<usize>(), 1i64..3).prop_map(|(lease, chunks)| Op::Output { lease, chunks }),
        3 => vec(any::<usize>(), 1..3).prop_map(|executions| Op::Cancel { executions }),
        5 => Just(Op::Advance),
        1 => (0usize..3).prop_map(|worker| Op::Recover { worker }),
        2 => (provider.clone(), limits())
            .prop_map(|(provider, limits)| Op::Declare { provider, limits }),
        2 => (changes, expected, any::<bool>()).prop_map(|(changes, expected, validate_only)| {
            Op::SetLimits { changes, expected, validate_only }
        }),
        1 => (provider.clone(), proptest::option::of(0u32..6))
            .prop_map(|(provider, seconds)| Op::Pause { provider, seconds }),
        2 => provider.prop_map(|provider| Op::Resume { provider }),
    ]
}

/// The model that has limits of its own at times.
const MODEL: &str = "m";

/// Mostly nothing but how many at a time.
fn limits() -> impl Strategy<Value = Limits> {
    let rates = || {
        let requests = proptest::option::weighted(0.3, 1u64..6);
        (requests, proptest::option::weighted(0.3, 20u64..200)).prop_map(|(requests, input)| {
            Rates {
                requests_per_minute: requests,
                input_tokens_per_minute: input,
                output_tokens_per_minute: None,
            }
        })
    };
    let of_model = proptest::option::weighted(0.3, rates());
    (1u32..5, rates(), proptest::option::weighted(0.2, 1u32..6), of_model).prop_map(
        |(max_concurrent, rates, max_pending, of_model)| Limits {
            rates,
            max_pending,
            models: of_model.map(|rates| (MODEL.to_owned(), rates)).into_iter().collect(),
            ..Limits::concurrent(max_concurrent)
        },
    )
}

/// What an operator sets to have these limits; what they do not bound stays as it is.
fn overrides(limits: &Limits) -> Overrides {
    let rates = |rates: &Rates| RateOverrides {
        requests_per_minute: rates.requests_per_minute.map(Bound::At),
        input_tokens_per_minute: rates.input_tokens_per_minute.map(Bound::At),
        output_tokens_per_minute: Some(Bound::Unbounded),
    };
    let models = limits.models.iter().map(|(model, of)| (model.clone(), rates(of)));
    Overrides {
        rates: rates(&limits.rates),
        max_pending: limits.max_pending.map(Bound::At),
        models: models.collect(),
        ..Overrides::concurrent(limits.max_concurrent)
    }
}

fn take() -> impl Strategy<Value = Take> {
    (0..PROVIDERS.len(), 0u32..4, 1u32..4, 0u32..3).prop_map(
        |(provider, most, sharers, running_here)| Take { provider, most, sharers, running_here },
    )
}

fn new() -> impl Strategy<Value = New> {
    let request = proptest::option::weighted(0.3, (0u8..5, 0u8..2));
    let seconds = || proptest::option::weighted(0.3, 0u32..6);
    let demand = proptest::option::of((any::<bool>(), 0u64..150));
    (0..PROVIDERS.len(), -1i32..2, request, seconds(), seconds(), demand).prop_map(
        |(provider, priority, request, delay, queue_timeout, demand)| New {
            provider,
            priority,
            request,
            delay,
            queue_timeout,
            demand,
        },
    )
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        3 => Just(succeeded("[1]")),
        2 => (0i64..300).prop_map(|input_tokens| Ending::Succeeded {
            output: "[2]".into(),
            usage: Some(Usage { input_tokens, output_tokens: 1 }),
        }),
        1 => Just(failed()),
        1 => Just(cancelled()),
        3 => (0u64..4).prop_map(|seconds| retry(SECOND * u32::try_from(seconds).unwrap())),
        1 => Just(Ending::Retry {
            failure: failure(ErrorCode::RateLimited),
            delay: SECOND,
            charged: false,
            usage: None,
        }),
        2 => Just(crashed()),
        1 => Just(Ending::Released { begun: true }),
    ]
}

/// What has come to exist so far, the same for both stores.
#[derive(Default)]
struct World {
    executions: Vec<ExecutionId>,
    leases: Vec<Lease>,
    /// What the attempt under each lease has to say of its provider when it ends.
    news: HashMap<(ExecutionId, Token), ProviderNews>,
    /// How many pieces of output were given under each lease.
    chunks: HashMap<(ExecutionId, Token), i64>,
}

/// An operation with the ids it is about.
#[derive(Clone)]
enum Call {
    Submit(Vec<NewExecution>),
    Claim(Claim),
    Settle(Box<Settlement>),
    Renew(Vec<Lease>),
    Output(Lease, Vec<Chunk>),
    Cancel(Vec<ExecutionId>),
    Recover(WorkerId),
    Plain(Op),
}

async fn run(db: Db, steps: Vec<Step>) {
    let (model, store) = (TestStore::open(Kind::Memory).await, TestStore::open(db).await);
    let workers = [WorkerId::new(), WorkerId::new(), WorkerId::new()];
    let mut world = World::default();
    for t in [&model, &store] {
        t.declare("a", 2).await;
        t.declare("b", 1).await;
    }
    for step in steps {
        for together in step.that_wait_together(db) {
            let calls: Vec<_> =
                together.iter().map(|op| world.call(op, &workers, &model)).collect();
            let expected = ask(&model, &calls).await;
            let answers = ask(&store, &calls).await;
            assert_eq!(answers.said, expected.said, "{step:?}");
            for claimed in expected.claimed {
                let lease = claimed.lease.clone();
                world.news.insert((lease.id, lease.token), news_of(&claimed));
                world.leases.push(lease);
            }
        }
        for t in [&model, &store] {
            t.clock.advance(step.passing);
        }
    }
    compare(&model, &store, &world).await;
    model.check().await;
    store.check().await;
}

impl World {
    fn call(&mut self, op: &Op, workers: &[WorkerId], t: &TestStore) -> Call {
        let lease = |index: &usize| pick(&self.leases, *index).unwrap_or_else(unknown_lease);
        match op {
            Op::Submit(batch) => {
                let batch: Vec<_> = batch.iter().map(|new| submission(t, new)).collect();
                self.executions.extend(batch.iter().map(|new| new.spec.id));
                Call::Submit(batch)
            }
            Op::Claim { worker, wanted, slots, kept } => {
                let wanted = wanted.iter().map(|take| Wanted {
                    provider: name(PROVIDERS[take.provider]),
                    most: take.most,
                    sharers: take.sharers,
                    running_here: take.running_here,
                });
                Call::Claim(Claim {
                    slots: *slots,
                    kept: *kept,
                    ..claim(workers[*worker], wanted.collect())
                })
            }
            Op::Settle { lease: index, ending } => {
                let lease = lease(index);
                let news = self.news.get(&(lease.id, lease.token)).cloned();
                Call::Settle(Box::new(Settlement { lease, ending: ending.clone(), news }))
            }
            Op::Renew { leases } => Call::Renew(leases.iter().map(lease).collect()),
            Op::Output { lease: index, chunks } => {
                let lease = lease(index);
                let first = *self.chunks.entry((lease.id, lease.token)).or_default();
                self.chunks.insert((lease.id, lease.token), first + chunks);
                let chunk = |index| Chunk {
                    attempt: u32::try_from(lease.token.0).unwrap(),
                    index,
                    stream: OutputStream::Result,
                    content: ChunkContent::Text("x".to_owned()),
                };
                let chunks = (first..first + chunks).map(chunk).collect();
                Call::Output(lease, chunks)
            }
            Op::Cancel { executions } => {
                let ids = executions.iter().filter_map(|index| pick(&self.executions, *index));
                Call::Cancel(ids.collect())
            }
            Op::Recover { worker } => Call::Recover(workers[*worker]),
            plain => Call::Plain(plain.clone()),
        }
    }
}

fn news_of(claimed: &Claimed) -> ProviderNews {
    ProviderNews {
        provider: claimed.spec.provider.clone(),
        lane: claimed.lane.clone(),
        signal: None,
        observed: None,
        reserved: claimed.reserved.clone(),
    }
}

fn pick<T: Clone>(from: &[T], index: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[index % from.len()].clone())
}

fn unknown_lease() -> Lease {
    let (id, owner) = (ExecutionId::new(), WorkerId::new());
    Lease { id, token: Token(1), owner }
}

fn submission(t: &TestStore, new: &New) -> NewExecution {
    let mut submission = t.new_with(PROVIDERS[new.provider], |spec| {
        spec.priority = new.priority;
        spec.schedule_at = new.delay.map(|seconds| spec.created_at + SECOND * seconds);
        spec.queue_timeout = new.queue_timeout.map(|seconds| SECOND * seconds);
        spec.demand = new.demand.map(|(of_model, input_tokens)| {
            let model = Some(if of_model { MODEL } else { "another" }.to_owned());
            Demand { model, input_tokens, output_tokens: 3 }
        });
        spec.request_id = new.request.map(|(request, _)| format!("request {request}"));
    });
    submission.request_hash = format!("{:?}", new.request);
    submission
}

/// What a store said to operations asked for at the same moment.
struct Answers {
    said: Vec<String>,
    claimed: Vec<Claimed>,
}

async fn ask(t: &TestStore, calls: &[Call]) -> Answers {
    let answers = join_all(calls.iter().map(|call| answer(t, call.clone()))).await;
    let (said, claimed): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    Answers { said, claimed: claimed.into_iter().flatten().collect() }
}

async fn answer(t: &TestStore, call: Call) -> (String, Vec<Claimed>) {
    let store = &t.store;
    let mut claimed = Vec::new();
    let said = match call {
        Call::Submit(batch) => said(&store.submit(batch).await.unwrap()),
        Call::Claim(claim) => {
            let mut report = store.claim(claim).await.unwrap();
            // A hint only: some databases can tell beforehand that there is nothing to be had.
            report.passed_over.clear();
            claimed.extend(report.claimed.iter().cloned());
            said(&report)
        }
        Call::Settle(settlement) => said(&store.settle(*settlement).await.unwrap()),
        Call::Renew(leases) => said(&store.renew(leases, LEASE).await.unwrap()),
        Call::Output(lease, chunks) => said(&store.append_output(lease, chunks).await.unwrap()),
        Call::Cancel(ids) => said(&store.cancel(ids, "why".to_owned()).await.unwrap()),
        Call::Recover(worker) => said(&store.recover(worker).await.unwrap()),
        Call::Plain(op) => plain(store, t, op).await,
    };
    (said, claimed)
}

async fn plain(store: &Store, t: &TestStore, op: Op) -> String {
    match op {
        Op::Advance => said(&store.advance(GRACE).await.unwrap()),
        Op::Declare { provider, limits } => {
            let limits = vec![(name(PROVIDERS[provider]), limits)];
            said(&store.declare(limits).await.unwrap())
        }
        Op::SetLimits { changes, expected, validate_only } => {
            let changes = changes.iter().map(|setting| LimitChange {
                provider: name(PROVIDERS[setting.provider]),
                update: match &setting.limits {
                    Some(limits) => LimitUpdate::Set(overrides(limits)),
                    None => LimitUpdate::Reset,
                },
                expires_at: setting.seconds.map(|seconds| t.clock.now() + SECOND * seconds),
            });
            let changes = changes.collect();
            let expected = expected.map_or(ExpectedRevision::Any, ExpectedRevision::Newest);
            let set = store.set_limits(changes, Told::by_itself("why"), expected, validate_only);
            said(&set.await.unwrap())
        }
        Op::Pause { provider, seconds } => {
            let until = seconds.map(|seconds| t.clock.now() + SECOND * seconds);
            let change = GateChange::Pause { reason: "why".to_owned(), until };
            said(&store.set_gate(name(PROVIDERS[provider]), change).await.unwrap())
        }
        Op::Resume { provider } => {
            let change = GateChange::Resume { reason: "why".to_owned() };
            said(&store.set_gate(name(PROVIDERS[provider]), change).await.unwrap())
        }
        other => unreachable!("{other:?} has ids to be filled in"),
    }
}

fn said(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

async fn compare(model: &TestStore, store: &TestStore, world: &World) {
    assert_eq!(store.log().await, model.log().await);
    let ids = &world.executions;
    assert_eq!(store.records(ids).await, model.records(ids).await);
    let read = async |t: &TestStore| t.store.executions(ids, Payload::With).await.unwrap();
    assert_eq!(read(store).await, read(model).await);
    assert_eq!(store.store.providers().await.unwrap(), model.store.providers().await.unwrap());
    let totals = async |t: &TestStore| {
        let totals = t.store.totals().await.unwrap();
        (totals.submitted, totals.pending, totals.running, totals.succeeded, totals.failed)
    };
    assert_eq!(totals(store).await, totals(model).await);
    let query = ListQuery { limit: 1_000, ..ListQuery::default() };
    let list = async |t: &TestStore| t.store.list(&query).await.unwrap();
    assert_eq!(list(store).await, list(model).await);
    for execution in ids.iter().take(3) {
        let query = EventQuery { after: 2, execution: Some(*execution), output: false, limit: 50 };
        let events = async |t: &TestStore| t.store.events(&query).await.unwrap();
        assert_eq!(events(store).await, events(model).await);
    }
}

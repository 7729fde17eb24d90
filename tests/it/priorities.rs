//! Who begins when, over all replicas: the order of the queue, read from the log alone, and how long a
//! flood of the highest priority holds up the lowest.
//!
//! `FLOWGATE_TEST_EXECUTIONS` sets how many executions are submitted (1,000 unless set).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use flowgate::domain::{
    Bound, Change, Event, ExecutionId, LimitUpdate, Overrides, RateOverrides, SystemClock,
    Timestamp, Told,
};
use flowgate::pb::{BatchSubmitExecutionsRequest, SubmitExecutionRequest};
use flowgate::store::{EventQuery, ExpectedRevision, Lane, LimitChange, Store};
use flowgate::tasks::Tasks;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, from_env, on_postgres, submit,
};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    starts_follow_the_effective_priority_over_all_replicas;
    #[tokio::test(flavor = "multi_thread")]
    a_flood_of_the_highest_priority_holds_up_the_lowest_for_its_head_start_only;
}

const HEAD_START: Duration = Duration::from_secs(1);
const PRIORITIES: i32 = 4;
/// Long enough for any machine.
const DEADLINE: Duration = Duration::from_secs(240);

async fn replicas(limit: u32) -> Vec<TestServer> {
    let config = Config::on(Db::Postgres).simulated("sim", limit);
    let replicas = TestServer::replicas(config.env("FLOWGATE_PRIORITY_HEAD_START", "1s"), 3).await;
    log_when_claims_begin(&replicas[0]).await;
    replicas
}

/// A budget that is never spent: with one, the log says of every claim when its transaction began.
async fn log_when_claims_begin(server: &TestServer) {
    let backend = server.open_store_beside().await;
    let store = Store::start(backend, std::sync::Arc::new(SystemClock), &Tasks::default());
    let wide = Some(Bound::At(1_000_000_000));
    let rates = RateOverrides { requests_per_minute: wide, ..RateOverrides::default() };
    let update = LimitUpdate::Set(Overrides { rates, ..Overrides::default() });
    let provider = "sim".parse().unwrap();
    let changes = vec![LimitChange { provider, update, expires_at: None }];
    let told = Told::by_itself("test");
    store.set_limits(changes, told, ExpectedRevision::Any, false).await.unwrap().unwrap();
    store.close();
}

fn with_priority(priority: i32, duration_ms: u32) -> SubmitExecutionRequest {
    let input = json!({ "duration_ms": duration_ms });
    SubmitExecutionRequest { priority, ..submit("sim", input) }
}

async fn submit_all(
    server: &TestServer,
    requests: Vec<SubmitExecutionRequest>,
) -> Vec<ExecutionId> {
    let batch = BatchSubmitExecutionsRequest { requests };
    let stored = server.execution().batch_submit_executions(batch).await.unwrap();
    stored.into_inner().executions.iter().map(|it| it.id.parse().unwrap()).collect()
}

async fn all_have_ended(server: &TestServer, total: usize) {
    eventually("all have succeeded", async || {
        let succeeded = usize::try_from(server.status().await.succeeded_count).unwrap();
        (succeeded == total).then_some(())
    })
    .await;
}

/// One claim that got something: when its transaction began, and what it took.
struct Batch {
    began: Timestamp,
    taken: Vec<ExecutionId>,
}

/// What the log says of submissions and starts, in its order.
enum Entry {
    /// Visible to whoever looks at this time or later: the next transaction was numbered then.
    Submitted {
        id: ExecutionId,
        visible: Timestamp,
    },
    Claimed(Batch),
}

async fn read_log(server: &TestServer) -> Vec<Event> {
    let backend = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
    backend.events(&query).await.unwrap()
}

fn entries(log: &[Event]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut of = None;
    for (place, event) in log.iter().enumerate() {
        let Some(id) = event.execution else { continue };
        match &event.change {
            Change::Submitted { .. } => {
                let next = log[place..].iter().find(|later| later.at > event.at);
                let visible = next.map_or(event.at, |next| next.at);
                entries.push(Entry::Submitted { id, visible });
            }
            // Those of one claim were numbered together.
            Change::Claimed { reserved, worker, .. } => {
                let began = reserved.as_ref().expect("there is a budget").at;
                if of == Some((event.at, *worker))
                    && let Some(Entry::Claimed(batch)) = entries.last_mut()
                {
                    batch.taken.push(id);
                } else {
                    entries.push(Entry::Claimed(Batch { began, taken: vec![id] }));
                }
                of = Some((event.at, *worker));
            }
            _ => {}
        }
    }
    entries
}

/// The place of each in the queue.
async fn ranks(server: &TestServer, ids: &[ExecutionId]) -> BTreeMap<ExecutionId, Timestamp> {
    let backend = server.open_store_beside().await;
    // Dropped without a commit: this only looks.
    let records = backend.begin(Lane::Changes).await.unwrap().records(ids).await.unwrap();
    records.into_iter().map(|record| (record.id, record.rank)).collect()
}

/// Asserts that no claim left anything behind that comes before what it took; returns how many claims
/// there were, and how many executions the largest took.
fn starts_are_in_order(log: &[Event], ranks: &BTreeMap<ExecutionId, Timestamp>) -> (usize, usize) {
    let (mut claims, mut largest) = (0, 0);
    let mut unseen: VecDeque<(ExecutionId, Timestamp)> = VecDeque::new();
    let mut waiting = BTreeSet::new();
    let mut seen_until = Timestamp::default();
    for entry in entries(log) {
        let batch = match entry {
            Entry::Submitted { id, visible } => {
                unseen.push_back((id, visible));
                continue;
            }
            Entry::Claimed(batch) => batch,
        };
        // One claim of a provider looks after the one before is committed.
        seen_until = seen_until.max(batch.began);
        while let Some((id, _)) = unseen.pop_front_if(|(_, visible)| *visible <= seen_until) {
            waiting.insert((ranks[&id], id));
        }
        for id in &batch.taken {
            waiting.remove(&(ranks[id], *id));
            unseen.retain(|(seen, _)| seen != id);
        }
        let last = batch.taken.iter().map(|id| (ranks[id], *id)).max().expect("it took some");
        if let Some(first) = waiting.first() {
            assert!(last < *first, "{last:?} started in a claim that left {first:?} behind");
        }
        claims += 1;
        largest = largest.max(batch.taken.len());
    }
    assert!(waiting.is_empty() && unseen.is_empty(), "all have started");
    (claims, largest)
}

/// When each was submitted or started, by the log.
fn times(log: &[Event], wanted: fn(&Change) -> bool) -> BTreeMap<ExecutionId, Timestamp> {
    let entries = log.iter().filter(|event| wanted(&event.change));
    entries.filter_map(|event| Some((event.execution?, event.at))).collect()
}

async fn starts_follow_the_effective_priority_over_all_replicas() {
    let total: usize = from_env("FLOWGATE_TEST_EXECUTIONS", 1_000);
    let replicas = replicas(16).await;
    let mut rng = StdRng::seed_from_u64(1);
    let began = Instant::now();
    let mut priorities = BTreeMap::new();
    while priorities.len() < total {
        let count = rng.random_range(1..=100).min(total - priorities.len());
        let of: Vec<_> = (0..count).map(|_| rng.random_range(0..PRIORITIES)).collect();
        let requests = of.iter().map(|priority| with_priority(*priority, rng.random_range(0..=1)));
        let requests = requests.collect();
        let server = &replicas[rng.random_range(0..replicas.len())];
        priorities.extend(submit_all(server, requests).await.into_iter().zip(of));
    }
    all_have_ended(&replicas[0], total).await;
    let took = began.elapsed();
    audit_is_clean(&replicas[0].store_url());

    let log = read_log(&replicas[0]).await;
    let ids: Vec<_> = priorities.keys().copied().collect();
    let ranks = ranks(&replicas[0], &ids).await;
    // The rank is what the log and the client know: when it was submitted, and its priority. It is
    // taken as the transaction begins, and logged as it ends.
    let submitted = times(&log, |change| matches!(change, Change::Submitted { .. }));
    for (id, rank) in &ranks {
        let ahead = HEAD_START * u32::try_from(priorities[id]).unwrap();
        let due = *rank + ahead;
        assert!(due <= submitted[id] && submitted[id].since(due) < Duration::from_secs(5));
    }
    let (claims, largest) = starts_are_in_order(&log, &ranks);
    let started = times(&log, |change| matches!(change, Change::Claimed { .. }));
    let mut overtaken = 0;
    for (id, at) in &submitted {
        let later = |(other, submitted): (&ExecutionId, &Timestamp)| {
            *submitted > *at && started[other] < started[id]
        };
        overtaken += usize::from(submitted.iter().any(later));
    }
    assert!(overtaken > 0, "there was something to be put in order");
    let workers: BTreeSet<_> = log
        .iter()
        .filter_map(|event| match event.change {
            Change::Claimed { worker, .. } => Some(worker),
            _ => None,
        })
        .collect();
    assert_eq!(workers.len(), 3, "all replicas took part");
    println!(
        "{total} executions in {took:?}: {claims} claims, the largest of {largest}; {overtaken} were \
         overtaken by a later submission, none against the order"
    );
}

async fn a_flood_of_the_highest_priority_holds_up_the_lowest_for_its_head_start_only() {
    let replicas = replicas(4).await;
    let highest = PRIORITIES - 1;
    let mut total = 0;
    let flood = async |total: &mut usize| {
        let status = replicas[*total % 3].status().await;
        if status.pending_count < 60 {
            submit_all(&replicas[*total % 3], vec![with_priority(highest, 10); 20]).await;
            *total += 20;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // It is under way before the lowest come, and goes on until they are over.
    while total < 100 {
        flood(&mut total).await;
    }
    let lowest = submit_all(&replicas[0], vec![with_priority(0, 1); 3]).await;
    total += lowest.len();
    let until = Instant::now() + DEADLINE;
    for id in &lowest {
        while !crate::support::is_terminal(&replicas[1].get(&id.to_string()).await) {
            assert!(Instant::now() < until, "the lowest starves");
            flood(&mut total).await;
        }
    }
    all_have_ended(&replicas[0], total).await;
    audit_is_clean(&replicas[0].store_url());

    let log = read_log(&replicas[0]).await;
    let submitted = times(&log, |change| matches!(change, Change::Submitted { .. }));
    let started = times(&log, |change| matches!(change, Change::Claimed { .. }));
    let ids: Vec<_> = submitted.keys().copied().collect();
    let ranks = ranks(&replicas[0], &ids).await;
    let (claims, largest) = starts_are_in_order(&log, &ranks);
    let bound = HEAD_START * u32::try_from(highest).unwrap();
    for id in &lowest {
        let before = |at: Timestamp| at < started[id];
        let overtook = submitted.iter().filter(|(other, at)| {
            **at > submitted[id] && before(started[other]) && !lowest.contains(other)
        });
        let overtook: Vec<_> = overtook.map(|(other, _)| ranks[other]).collect();
        assert!(!overtook.is_empty(), "it was overtaken");
        assert!(overtook.iter().all(|rank| *rank < ranks[id]), "by those within its bound only");
        let waiting = submitted.iter().filter(|(_, at)| before(**at)).count()
            - started.values().filter(|at| before(**at)).count();
        println!(
            "of {total} in {claims} claims, the largest of {largest}: a lowest began {:?} after its \
             submission (bound {bound:?} and what was in the queue by then), overtaken by {}, with \
             {waiting} waiting",
            started[id].since(submitted[id]),
            overtook.len(),
        );
        assert!(waiting > 0, "the flood goes on");
    }
}

//! What is known of workers, and when one counts as lost.

use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::{Clock, Ending, ManualClock, State, SystemClock, Timestamp, WorkerId};
use flowgate::engine::{Engine, EngineSettings, WorkerView};
use flowgate::pb::{ListWorkersRequest, Worker, WorkerStatus};
use flowgate::store::{MemoryBackend, Payload, Settlement, Store, WorkerRow, WorkerStatus as Said};
use flowgate::tasks::Tasks;
use serde_json::json;
use tokio::process::Command;

use super::held::Held;
use super::{NEVER, heard_of, provider, settings, start, store, takes_note};
use crate::engine::submit;
use crate::store::fixture::{claim, unshared};
use crate::support::{Config, TestServer, audit_is_clean, eventually, submit as submission};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_worker_tells_what_it_is_does_and_costs() {
    let config = Config::new().simulated("sim", 2).lease("2s").env("FLOWGATE_SLOTS", "8");
    let server = TestServer::start(config).await;
    let done = server.submit(submission("sim", json!({}))).await;
    server.ended(&done.id).await;
    let long = server.submit(submission("sim", json!({ "duration_ms": 600_000 }))).await;
    let worker = eventually("it runs", async || {
        let worker = workers(&server).await.remove(0);
        (worker.active_count == 1).then_some(worker)
    })
    .await;
    assert_eq!(worker.status(), WorkerStatus::Active);
    assert_eq!(worker.active_executions, [long.id]);
    assert_eq!(worker.active_by_provider, [("sim".to_owned(), 1)].into());
    assert_eq!((worker.slots, worker.load), (8, 0.125));
    assert_eq!((worker.started_count, worker.succeeded_count), (2, 1));
    assert!(worker.mean_execution_time.is_some() && worker.mean_wait_time.is_some());
    assert_eq!(worker.process_id, i64::from(server.pid()));

    let known = worker.configuration.unwrap();
    let sim = known.providers.iter().find(|provider| provider.name == "sim").unwrap();
    assert_eq!((&*sim.kind, sim.max_concurrent), ("simulated", 2));
    assert_eq!(known.store_kind, "sqlite");
    let millis = |duration: Option<prost_types::Duration>| {
        Duration::try_from(duration.unwrap()).unwrap().as_millis()
    };
    assert_eq!((millis(known.lease), millis(known.reclaim_grace)), (2_000, 1_000));
    assert_eq!(millis(known.heartbeat_interval), 666);

    let used = worker.resources.unwrap();
    assert!(used.cpu_cores >= 1 && (0.0..=1.0).contains(&used.cpu_share), "{used:?}");
    let resident = i64::try_from(server.resident_bytes()).unwrap();
    assert!((resident / 4..resident * 4).contains(&used.memory_bytes), "{used:?}, {resident}");

    let status = server.status().await;
    assert_eq!((status.slots, status.active_count, status.load), (8, 1, 0.125));
}

#[tokio::test]
async fn the_command_line_shows_workers_as_a_table_and_in_full_as_json() {
    let server = TestServer::start(Config::new().simulated("sim", 2)).await;
    let told = cli(&server, &["workers"]).await;
    let (headings, row) = told.split_once('\n').unwrap();
    assert!(headings.starts_with("WORKER") && headings.contains("LAST HEARTBEAT"), "{told}");
    assert!(row.contains("ACTIVE") && row.contains("0/1000") && row.contains("MiB"), "{told}");
    let told = cli(&server, &["workers", "--output", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let worker = &told["workers"][0];
    assert_eq!(worker["status"], "WORKER_STATUS_ACTIVE");
    assert_eq!(worker["slots"], 1_000);
    assert_eq!(worker["configuration"]["lease"], "30s");
    assert_eq!(worker["processId"], server.pid().to_string());
}

#[tokio::test]
async fn a_server_that_was_killed_is_lost_as_soon_as_the_next_has_the_store() {
    let mut server = TestServer::start(Config::new()).await;
    let first = workers(&server).await.remove(0);
    server.kill9();
    server.restart().await;
    let second = workers(&server).await;
    assert_eq!((second[0].status(), second.len()), (WorkerStatus::Active, 2));
    assert_eq!((&second[1].id, second[1].status()), (&first.id, WorkerStatus::Lost));
    server.sigterm();
    server.wait_exit(10 * SECOND).await;
    server.restart().await;
    let third = workers(&server).await;
    assert_eq!((&third[1].id, third[1].status()), (&second[0].id, WorkerStatus::Stopped));
}

#[tokio::test]
async fn a_worker_is_lost_after_lease_and_grace_on_the_clock_of_the_store() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let backend = Arc::new(MemoryBackend::default());
    let store = Store::start(backend, clock.clone(), &Tasks::default());
    let settings = settings(vec![]);
    let engine = start(&store, settings.clone()).await;
    let silent = WorkerId::new();
    let mut row = row_of(&store, &engine).await;
    row.id = silent;
    row.heartbeat_at = Timestamp::default();
    store.beat(row).await.unwrap();
    assert_eq!(find(&engine, silent).await.row.heartbeat_at, clock.now(), "the store dates it");

    let moment = Duration::from_micros(1);
    let patience = settings.lease + settings.reclaim_grace();
    pass(patience - moment, &clock, &store, &engine).await;
    pass(moment, &clock, &store, &engine).await;
    assert!(!find(&engine, silent).await.lost);
    pass(moment, &clock, &store, &engine).await;
    pass(moment, &clock, &store, &engine).await;
    assert!(find(&engine, silent).await.lost);
    assert!(!find(&engine, engine.worker()).await.lost);
}

#[tokio::test]
async fn a_worker_that_drains_is_heard_of_until_it_says_that_it_stopped() {
    let store = store();
    let held = Held::new();
    let leaving = start(&store, settings(vec![provider("p", 1, &held)])).await;
    let other = start(&store, settings(vec![])).await;
    submit(&leaving, "p", "{}").await;
    held.runs(1).await;
    leaving.begin_shutdown();
    takes_note(&store, &leaving).await;
    let view = find(&other, leaving.worker()).await;
    assert_eq!((view.row.status, view.lost), (Said::Stopping, false));
    assert_eq!(view.report.figures.active, 1);

    leaving.say_stopped().await;
    let last = heard_of(&store, &leaving).await;
    takes_note(&store, &other).await;
    let view = find(&other, leaving.worker()).await;
    assert_eq!((view.row.status, view.row.heartbeat_at), (Said::Stopped, last), "its last word");
}

#[tokio::test]
async fn a_result_that_comes_after_the_lease_was_lost_is_refused_counted_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flowgate.db");
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let backend = Arc::new(flowgate::store::SqliteBackend::open(&path).await.unwrap());
    let begin = || Store::start(backend.clone(), clock.clone(), &Tasks::default());
    // Two stores over one database, as two replicas have: one hears nothing of the other's commits.
    let (store, elsewhere) = (begin(), begin());
    let held = Held::new();
    let settings = settings(vec![provider("p", 1, &held)]);
    // Long enough that it does not notice by itself.
    let settings = EngineSettings { lease: NEVER, ..settings };
    let (lease, grace) = (settings.lease, settings.reclaim_grace());
    let engine = start(&store, settings).await;
    let id = submit(&engine, "p", "{}").await;
    held.runs(1).await;

    clock.advance(lease + grace);
    assert_eq!(elsewhere.advance(grace).await.unwrap().reclaimed, [(id, "p".parse().unwrap())]);
    let other = claim(WorkerId::new(), vec![unshared("p".parse().unwrap(), 1)]);
    let again = elsewhere.claim(other).await.unwrap().claimed.remove(0);
    assert_eq!((again.lease.id, again.attempt, again.interrupted), (id, 2, true));
    let ending = Ending::Succeeded { output: "2".into(), usage: None };
    elsewhere.settle(Settlement::new(again.lease, ending)).await.unwrap().unwrap();

    held.let_go(1);
    held.runs(0).await;
    let view = eventually("it is refused", async || {
        let view = find(&engine, engine.worker()).await;
        (view.report.figures.stale_writes_rejected == 1).then_some(view)
    })
    .await;
    assert_eq!((view.report.figures.started, view.report.figures.succeeded), (1, 0));
    let execution = elsewhere.execution(id, Payload::With).await.unwrap().unwrap();
    assert_eq!((execution.state, execution.output.as_deref()), (State::Succeeded, Some("2")));
    audit_is_clean(&format!("sqlite://{}", path.display()));
}

/// Moves the clock, and waits until the engine was heard of at that time: what it heard with the
/// heartbeat before, it has taken note of.
async fn pass(time: Duration, clock: &ManualClock, store: &Store, engine: &Engine) {
    clock.advance(time);
    eventually("a heartbeat at this time", async || {
        (heard_of(store, engine).await == clock.now()).then_some(())
    })
    .await;
}

async fn row_of(store: &Store, engine: &Engine) -> WorkerRow {
    let rows = store.workers().await.unwrap();
    rows.into_iter().find(|row| row.id == engine.worker()).unwrap()
}

async fn find(engine: &Engine, worker: WorkerId) -> WorkerView {
    let workers = engine.workers().await.unwrap();
    workers.into_iter().find(|view| view.row.id == worker).unwrap()
}

pub(super) async fn workers(server: &TestServer) -> Vec<Worker> {
    server.system().list_workers(ListWorkersRequest {}).await.unwrap().into_inner().workers
}

pub(super) async fn cli(server: &TestServer, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    command.args(args).args(["--server", &format!("http://{}", server.grpc_addr())]);
    let output = command.output().await.expect("cargo built the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

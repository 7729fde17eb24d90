//! What the service reaches, as ratios within one run: `cargo bench --bench service`.
//!
//! Starts a server of its own on the embedded store and measures over gRPC:
//!
//! - the floor: single-row commits of SQLite with `synchronous=FULL` in the same folder;
//! - durable submits with 64 callers, and how many operations shared a commit;
//! - submit-to-start at light load, and the same beside a flood of 10,000 executions at another
//!   provider.
//!
//! Nothing here passes or fails: machines differ, and the reader compares.

#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use flowgate::pb::{BatchSubmitExecutionsRequest, ListExecutionsRequest};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use support::{Server, percentile, print_percentiles, request};

const CALLERS: usize = 64;
const SUBMITS: usize = 20_000;
const STARTS: usize = 400;
const FLOOD: usize = 10_000;

const CONFIG: &str = r#"
[providers.bulk]
kind = "simulated"
max_concurrent = 1

[providers.quick]
kind = "simulated"
max_concurrent = 100

[providers.flooded]
kind = "simulated"
max_concurrent = 3
"#;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let floor = floor(folder.path()).await;
    println!("floor: single-row commits, SQLite FULL      {floor:>10.0} /s");

    let store = format!("sqlite://{}", folder.path().join("flowgate.db").display());
    let server = Server::start(folder.path(), &store, CONFIG, &[]);

    let before = commits(&server).await;
    let rate = submit_rate(&server).await;
    let after = commits(&server).await;
    let batch = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
    println!("durable submits over gRPC, {CALLERS} callers        {rate:>10.0} /s");
    println!("  operations in a commit, mean              {batch:>10.1}");
    println!("  of the floor                              {:>10.2}", rate / floor);

    let quiet = starts(&server).await;
    print_percentiles("submit to start, quiet", &quiet);
    flood(&server).await;
    let flooded = starts(&server).await;
    print_percentiles("submit to start, another provider flooded", &flooded);
    let difference = percentile(&flooded, 99).saturating_sub(percentile(&quiet, 99));
    println!("  p99 above quiet                           {difference:>10.1?}");
}

async fn floor(folder: &Path) -> f64 {
    let mut connection = SqliteConnectOptions::new()
        .filename(folder.join("floor.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
        .expect("a database");
    sqlx::raw_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .execute(&mut connection)
        .await
        .expect("a table");
    let started = Instant::now();
    let mut commits = 0;
    while started.elapsed() < Duration::from_secs(2) {
        sqlx::query("INSERT INTO t (b) VALUES ('an execution')")
            .execute(&mut connection)
            .await
            .expect("a commit");
        commits += 1;
    }
    f64::from(commits) / started.elapsed().as_secs_f64()
}

async fn submit_rate(server: &Server) -> f64 {
    let started = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let mut client = server.executions();
        async move {
            for _ in 0..SUBMITS / CALLERS {
                client.submit_execution(request("bulk", 60_000)).await.expect("stored");
            }
        }
    });
    futures_util::future::join_all(callers).await;
    (SUBMITS / CALLERS * CALLERS) as f64 / started.elapsed().as_secs_f64()
}

async fn commits(server: &Server) -> (i64, i64) {
    let commits = server.status().await.store.and_then(|store| store.commit_stats);
    let commits = commits.expect("commit figures");
    (commits.commits, commits.operations)
}

async fn flood(server: &Server) {
    let mut client = server.executions();
    for _ in 0..FLOOD / 1_000 {
        let requests = (0..1_000).map(|_| request("flooded", 20)).collect();
        let batch = BatchSubmitExecutionsRequest { requests };
        client.batch_submit_executions(batch).await.expect("stored");
    }
}

/// Time from submission to start as the server recorded it, sorted.
async fn starts(server: &Server) -> Vec<Duration> {
    let mut client = server.executions();
    let label = ("round".to_owned(), format!("{:?}", Instant::now()));
    for _ in 0..STARTS {
        let mut one = request("quick", 0);
        one.labels.insert(label.0.clone(), label.1.clone());
        client.submit_execution(one).await.expect("stored");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let filter = flowgate::pb::ExecutionFilter {
        providers: vec!["quick".to_owned()],
        labels: [label].into(),
        ..Default::default()
    };
    let page_size = 1_000;
    let list = ListExecutionsRequest { filter: Some(filter), page_size, ..Default::default() };
    let listed = client.list_executions(list).await.expect("a list").into_inner();
    let mut waits: Vec<_> = listed
        .executions
        .iter()
        .map(|execution| {
            let micros = |time: &prost_types::Timestamp| {
                time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
            };
            let created = execution.create_time.as_ref().map(micros).expect("created");
            let started = execution.start_time.as_ref().map(micros).expect("started");
            Duration::from_micros(u64::try_from(started - created).unwrap_or(0))
        })
        .collect();
    waits.sort_unstable();
    waits
}

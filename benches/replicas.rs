//! What several replicas reach on one PostgreSQL, as ratios within one run:
//! `cargo bench --bench replicas`.
//!
//! Starts a PostgreSQL of its own (see `tests/postgres_bin`), durable, and measures over gRPC:
//!
//! - the floor: single-row commits of PostgreSQL over one connection;
//! - executions of 20 ms a second where each of 1, 2 and 3 replicas has 20 slots: what replicas are
//!   added for;
//! - durable submits with 256 callers and executions of no time from submission to end, with 1, 2 and 3
//!   replicas that the callers are spread over. PostgreSQL, the load and all replicas share the cores of
//!   this machine, so this says what a replica costs rather than what it brings;
//!   every figure several times in turn, of which the median counts;
//! - from the acknowledgement at one replica to the event on a watch at another, at light load, with
//!   LISTEN and by polling alone;
//! - submit-to-start at light load, and the same beside a flood at another provider.
//!
//! Nothing here passes or fails: machines differ, and the reader compares.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a benchmark, as in a test")]

#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod support;

/// The test suite's own throw-away PostgreSQL.
#[path = "../tests/it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
mod postgres;
#[path = "../tests/it/support/tools.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod tools;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowgate::pb::watch_executions_response::Event;
use flowgate::pb::{
    BatchSubmitExecutionsRequest, ExecutionFilter, ExecutionState, WatchExecutionsRequest,
};
use sqlx::Executor as _;
use tokio_stream::StreamExt as _;

use postgres::{Cluster, Database};
use support::{Server, percentile, print_percentiles, request};

const ROUNDS: usize = 3;
const CALLERS: usize = 256;
const SUBMITS: usize = 20_480;
const PROVIDERS: usize = 10;
const EVENTS: usize = 400;
const SLOTS: usize = 20;
const SLOW: usize = 3_000;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let on_disk = || Cluster::durable_in(&std::env::temp_dir());
    let cluster = tokio::task::spawn_blocking(on_disk).await.expect("a cluster");
    let floor = floor(&cluster.database().await).await;
    println!("floor: single-row commits, PostgreSQL, one connection    {floor:>8.0} /s");

    let mut bounded: HashMap<usize, Vec<f64>> = HashMap::new();
    for _ in 0..ROUNDS {
        for replicas in 1..=3 {
            let rate = slot_bound(&cluster, folder.path(), replicas).await;
            bounded.entry(replicas).or_default().push(rate);
        }
    }
    for replicas in 1..=3 {
        let rate = median(&bounded[&replicas]);
        println!(
            "{replicas} replicas of {SLOTS} slots, executions of 20 ms: {rate:>8.0} /s ({:.2} of one replica)",
            rate / median(&bounded[&1]),
        );
    }

    let mut submits: HashMap<usize, Vec<f64>> = HashMap::new();
    let mut ends: HashMap<usize, Vec<f64>> = HashMap::new();
    for _ in 0..ROUNDS {
        for replicas in 1..=3 {
            let (submitted, ended) = throughput(&cluster, folder.path(), replicas).await;
            submits.entry(replicas).or_default().push(submitted);
            ends.entry(replicas).or_default().push(ended);
        }
    }
    for replicas in 1..=3 {
        let of = |figures: &HashMap<usize, Vec<f64>>| median(&figures[&replicas]);
        println!(
            "{replicas} replicas: submits {:>8.0} /s ({:.2} of the floor, {:.2} of one replica), \
             to the end {:>8.0} /s ({:.2} of one replica)",
            of(&submits),
            of(&submits) / floor,
            of(&submits) / median(&submits[&1]),
            of(&ends),
            of(&ends) / median(&ends[&1]),
        );
    }

    let poll = ["--poll-interval", "500ms"];
    let deaf = ["--poll-interval", "500ms", "--listen-url", "off"];
    let heard = events(&cluster, folder.path(), &poll).await;
    print_percentiles("acknowledged at A to seen on a watch at B", &heard);
    let polled = events(&cluster, folder.path(), &deaf).await;
    print_percentiles("  without LISTEN, polling every 500 ms", &polled);

    isolation(&cluster, folder.path()).await;
}

async fn floor(database: &Database) -> f64 {
    let mut connection = database.connect().await;
    connection.execute("CREATE TABLE t (a BIGSERIAL PRIMARY KEY, b TEXT)").await.expect("a table");
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

/// Executions of 20 ms a second, with so many slots a replica.
async fn slot_bound(cluster: &Arc<Cluster>, folder: &Path, replicas: usize) -> f64 {
    let config: String = (0..PROVIDERS).map(|n| provider(&format!("p{n}"), 50)).collect();
    let database = cluster.database().await;
    let slots = SLOTS.to_string();
    let start = |_| Server::start(folder, &database.url(), &config, &["--slots", &slots]);
    let servers: Vec<_> = (0..replicas).map(start).collect();
    for server in &servers {
        server.status().await;
    }
    let started = Instant::now();
    for n in 0..SLOW / 500 {
        let requests = (0..500).map(|n| request(&format!("p{}", n % PROVIDERS), 20)).collect();
        let batch = BatchSubmitExecutionsRequest { requests };
        servers[n % replicas].executions().batch_submit_executions(batch).await.expect("stored");
    }
    while servers[0].status().await.succeeded_count < SLOW as i64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    SLOW as f64 / started.elapsed().as_secs_f64()
}

/// Submits a second, and executions that went from submission to end a second.
async fn throughput(cluster: &Arc<Cluster>, folder: &Path, replicas: usize) -> (f64, f64) {
    let config: String = (0..PROVIDERS).map(|n| provider(&format!("p{n}"), 50)).collect();
    let database = cluster.database().await;
    let servers: Vec<_> =
        (0..replicas).map(|_| Server::start(folder, &database.url(), &config, &[])).collect();
    for server in &servers {
        server.status().await;
    }
    let started = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let mut client = servers[caller % replicas].executions();
        async move {
            for n in 0..SUBMITS / CALLERS {
                let provider = format!("p{}", (caller + n) % PROVIDERS);
                client.submit_execution(request(&provider, 0)).await.expect("stored");
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let submitted = started.elapsed();
    while servers[0].status().await.succeeded_count < SUBMITS as i64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = |time: Duration| SUBMITS as f64 / time.as_secs_f64();
    (rate(submitted), rate(started.elapsed()))
}

/// From the acknowledgement at one replica to the first event on a watch at another, sorted.
async fn events(cluster: &Arc<Cluster>, folder: &Path, flags: &[&str]) -> Vec<Duration> {
    let database = cluster.database().await;
    let config = provider("p", 50);
    let here = Server::start(folder, &database.url(), &config, flags);
    let there = Server::start(folder, &database.url(), &config, flags);
    here.status().await;
    let filter = ExecutionFilter { providers: vec!["p".to_owned()], ..Default::default() };
    let watch = WatchExecutionsRequest { filter: Some(filter), ..Default::default() };
    let mut watch = there.executions().watch_executions(watch).await.expect("a watch").into_inner();
    let watching = tokio::spawn(async move {
        let mut seen = HashMap::new();
        while seen.len() < EVENTS {
            let message = watch.next().await.expect("it goes on").expect("it holds");
            if let Some(Event::Execution(execution)) = message.event {
                seen.entry(execution.id).or_insert_with(Instant::now);
            }
        }
        seen
    });
    let mut client = here.executions();
    let mut acknowledged = Vec::new();
    for _ in 0..EVENTS {
        let reply = client.submit_execution(request("p", 0)).await.expect("stored").into_inner();
        acknowledged.push((reply.execution.expect("it is told").id, Instant::now()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = watching.await.expect("all were seen");
    let mut waits: Vec<_> =
        acknowledged.iter().map(|(id, at)| seen[id].saturating_duration_since(*at)).collect();
    waits.sort_unstable();
    waits
}

/// Submit-to-start at one provider, with and without a flood at another, over three replicas.
async fn isolation(cluster: &Arc<Cluster>, folder: &Path) {
    let database = cluster.database().await;
    let config = provider("quick", 100) + &provider("flooded", 3);
    let servers: Vec<_> =
        (0..3).map(|_| Server::start(folder, &database.url(), &config, &[])).collect();
    let quiet = starts(&servers).await;
    print_percentiles("submit to start, 3 replicas, quiet", &quiet);
    let before = servers[0].status().await.store.and_then(|it| it.commit_stats);
    for _ in 0..10 {
        let requests = vec![request("flooded", 5); 1_000];
        let batch = BatchSubmitExecutionsRequest { requests };
        servers[0].executions().batch_submit_executions(batch).await.expect("stored");
    }
    let flooded = starts(&servers).await;
    let after = servers[0].status().await.store.and_then(|it| it.commit_stats);
    print_percentiles("submit to start, 3 replicas, another provider flooded", &flooded);
    let difference = percentile(&flooded, 99).saturating_sub(percentile(&quiet, 99));
    println!("  p99 above quiet {difference:.1?}; commits before {before:?} and after {after:?}");
}

async fn starts(servers: &[Server]) -> Vec<Duration> {
    let mut waits = Vec::new();
    for n in 0..EVENTS {
        let mut client = servers[n % servers.len()].executions();
        let submitted = Instant::now();
        let reply = client.submit_execution(request("quick", 0)).await.expect("stored");
        let id = reply.into_inner().execution.expect("it is told").id;
        let watch = flowgate::pb::WatchExecutionRequest { id, ..Default::default() };
        let mut watch = client.watch_execution(watch).await.expect("a watch").into_inner();
        while let Some(message) = watch.next().await {
            let event = message.expect("it holds").event;
            if let Some(flowgate::pb::watch_execution_response::Event::Execution(it)) = event
                && it.state() != ExecutionState::Pending
            {
                waits.push(submitted.elapsed());
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waits.sort_unstable();
    waits
}

fn provider(name: &str, max_concurrent: u32) -> String {
    format!("[providers.{name}]\nkind = \"simulated\"\nmax_concurrent = {max_concurrent}\n\n")
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

//! A collector that is down, slow or refuses: no effect on executions, bounded memory, one line of the log a minute,
//! and no delay at the end.
//!
//! The store has no part in this, so it is SQLite throughout.

use std::time::{Duration, Instant};

use axum::Router;
use flowgate::pb::{BatchSubmitExecutionsRequest, ExecutionState};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

use crate::support::{Config, TestServer, eventually, submit};

/// Enough of them that spans wait in line, and that a line for each could not be missed.
const FIRST: usize = 300;
const MORE: usize = 2_000;
/// What so many executions could take up at most if nothing of them was kept: far more than caches, far less than
/// their spans would.
const GROWTH_BYTES: u64 = 48 * 1024 * 1024;
/// The last traces are given a second, and the rest of the end takes a moment.
const END_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_one_line() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = port.local_addr().unwrap();
    drop(port);
    let lines = nothing_comes_of(&addr.to_string(), 1).await;
    let expected = format!("The collector at http://{addr} does not take traces: ");
    assert!(lines[0].starts_with(&expected), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_accepts_and_says_nothing_costs_at_most_one_line() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = port.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(connection) = port.accept().await {
            kept.push(connection);
        }
    });
    nothing_comes_of(&addr, 0).await;
    silent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_and_never_answers_costs_at_most_one_line() {
    let addr = collector(async || std::future::pending().await).await;
    nothing_comes_of(&addr, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_unavailable_costs_one_line() {
    let addr = collector(async || Status::unavailable("not today")).await;
    let lines = nothing_comes_of(&addr, 1).await;
    assert!(lines[0].contains(" does not take traces: "), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_full_costs_one_line() {
    let addr = collector(async || Status::resource_exhausted("full")).await;
    let lines = nothing_comes_of(&addr, 1).await;
    assert!(lines[0].contains(" does not take traces: "), "{lines:?}");
}

/// A collector that gives every export this answer.
async fn collector<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> String
where
    F: Future<Output = Status> + Send + 'static,
{
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = port.local_addr().unwrap().to_string();
    let handler = async move || answer().await.into_http::<axum::body::Body>();
    let routes = tonic::service::Routes::from(Router::new().fallback(handler));
    let server = tonic::transport::Server::builder().add_routes(routes);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(port)));
    addr
}

/// Runs much work beside such a collector, and returns what the log says of it: this many lines at least, and one at
/// most.
async fn nothing_comes_of(collector: &str, at_least: usize) -> Vec<String> {
    let config = Config::new()
        .simulated("sim", 50)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{collector}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    let mut server = TestServer::start(config).await;
    let started = Instant::now();
    run(&server, FIRST).await;
    println!("{FIRST} executions took {:?}", started.elapsed());
    let before = server.resident_bytes();
    run(&server, MORE).await;
    let after = server.resident_bytes();
    println!("{before} bytes after {FIRST}, {after} after {MORE} more");
    assert!(after.saturating_sub(before) < GROWTH_BYTES, "{before}, then {after}");
    assert_eq!(server.http_get("/readyz").await.0, 200);
    let lines = eventually("the trouble is told", async || {
        Some(lines(&server)).filter(|lines| lines.len() >= at_least)
    })
    .await;
    println!("{lines:?} in {:?}", started.elapsed());
    assert!(lines.len() <= 1, "{lines:?}");

    let ending = Instant::now();
    server.sigterm();
    assert!(server.wait_exit(END_WITHIN).await.success());
    println!("the end took {:?}", ending.elapsed());
    lines
}

/// Executions that all succeed.
async fn run(server: &TestServer, count: usize) {
    let before = server.status().await.succeeded_count;
    let mut left = count;
    let mut last = String::new();
    while left > 0 {
        let some = left.min(1_000);
        let requests = vec![submit("sim", json!({ "output": "x".repeat(500) })); some];
        let batch = BatchSubmitExecutionsRequest { requests };
        let reply = server.execution().batch_submit_executions(batch).await.unwrap().into_inner();
        last = reply.executions.last().expect("one for each").id.clone();
        left -= some;
    }
    assert_eq!(server.ended(&last).await.state(), ExecutionState::Succeeded);
    let wanted = before + i64::try_from(count).unwrap();
    eventually("all have succeeded", async || {
        (server.status().await.succeeded_count == wanted).then_some(())
    })
    .await;
}

/// What is said of the collector.
fn lines(server: &TestServer) -> Vec<String> {
    let log = server.stderr_log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let of_below = |line: &Value| {
        let target = line["target"].as_str().unwrap_or_default();
        let message = line["message"].as_str().unwrap_or_default();
        !target.starts_with("flowgate") || message.contains("ollector")
    };
    let messages = lines.filter(of_below).map(|line| line["message"].as_str().map(str::to_owned));
    messages.map(Option::unwrap_or_default).collect()
}

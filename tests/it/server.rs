//! The server as a process: what outlives it and how it ends.
//!
//! That a store is served by one server at a time is true of SQLite alone.

use std::time::Duration;

use flowgate::pb::ExecutionState;
use serde_json::json;
use tokio::process::Command;

use crate::support::{Config, Db, TestServer, eventually, on_both, submit};

on_both! {
    #[tokio::test]
    what_was_acknowledged_survives_a_kill;
    #[tokio::test]
    the_http_port_tells_that_the_server_is_ready;
    #[tokio::test]
    sigterm_ends_an_idle_server_at_once_and_in_order;
}

async fn what_was_acknowledged_survives_a_kill(db: Db) {
    let mut server = TestServer::start(Config::on(db).simulated("sim", 1).lease("2s")).await;
    let first = server.submit(submit("sim", json!({ "duration_ms": 1000 }))).await;
    let second = server.submit(submit("sim", json!({ "output": "second" }))).await;
    eventually("the first runs", async || (server.status().await.running_count == 1).then_some(()))
        .await;

    server.kill9();
    server.restart().await;

    for id in [&first.id, &second.id] {
        assert_eq!(server.ended(id).await.state(), ExecutionState::Succeeded);
    }
    eventually("the log names what it resumed", async || {
        server.stderr_log().contains(&first.id).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_is_served_by_one_server_at_a_time() {
    let server = TestServer::start(Config::new()).await;
    let mut second = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    second
        .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
        .args(["--store", &server.store_url()])
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(10), second.output()).await;
    let output = ended.expect("it gives up").expect("cargo built the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().any(|line| line.starts_with("error: ")), "{said}");
    server.status().await;
}

async fn the_http_port_tells_that_the_server_is_ready(db: Db) {
    let server = TestServer::start(Config::on(db)).await;
    for path in ["/healthz", "/readyz"] {
        let (status, body) = server.http_get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
}

async fn sigterm_ends_an_idle_server_at_once_and_in_order(db: Db) {
    let mut server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    server.sigterm();
    let status = server.wait_exit(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

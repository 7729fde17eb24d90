//! Through the real program: no machine has as much memory as these gates ask for.

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::json;

use super::lack;
use crate::support::{Config, Db, TestServer, eventually, on_both, submit};

on_both! {
    #[tokio::test]
    work_waits_for_a_machine_that_the_program_never_gets;
}

/// 8 EiB, or nearly.
const MORE_THAN_THERE_IS: &str = "9223372036854775807";

async fn work_waits_for_a_machine_that_the_program_never_gets(db: Db) {
    let config = Config::on(db)
        .simulated("sim", 1)
        .module("works", "#!/bin/sh\necho hello\n")
        .env("FLOWGATE_PROVIDERS__PROCESS__MEMORY_MIN_BYTES", MORE_THAN_THERE_IS);
    let server = TestServer::start(config.clone()).await;
    let id = server.submit(submit("process", json!({ "module": "works" }))).await.id;
    let message = eventually("it says what it lacks", async || lack(&server.get(&id).await)).await;
    assert!(message.starts_with("memory "), "{message}");
    assert!(message.ends_with(" GiB of 8589934591.9 GiB free needed"), "{message}");
    let other = server.submit(submit("sim", json!({}))).await.id;
    assert_eq!(server.ended(&other).await.state(), ExecutionState::Succeeded);

    // One without a gate takes it, though the first was killed and took nothing back.
    let store = server.store().clone();
    let mut server = server;
    server.kill9();
    let ungated = Config::on(db).module("works", "#!/bin/sh\necho hello\n");
    let next = TestServer::start_at(store, ungated).await;
    let ended = next.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
}

#[tokio::test]
async fn work_fails_where_the_configuration_says_so() {
    let config = Config::new()
        .module("works", "#!/bin/sh\necho hello\n")
        .env("FLOWGATE_PROVIDERS__PROCESS__MEMORY_MIN_BYTES", MORE_THAN_THERE_IS)
        .env("FLOWGATE_PROVIDERS__PROCESS__WHEN_SHORT", "fail");
    let server = TestServer::start(config).await;
    let id = server.submit(submit("process", json!({ "module": "works" }))).await.id;
    let ended = server.ended(&id).await;
    let error = ended.error.as_ref().unwrap();
    assert_eq!(error.code(), ErrorCode::Resource, "{ended:?}");
    let message = "Insufficient system resources: available memory too low: ";
    assert!(error.message.starts_with(message), "{}", error.message);
}

//! Large values (promises P4, P7): they take their time, and cost nobody else anything.

use flowgate::pb::{ExecutionState, PauseProviderRequest};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_flood_of_large_submissions_costs_nobody_a_lease;
}

async fn a_flood_of_large_submissions_costs_nobody_a_lease(db: Db) {
    let config = Config::on(db).simulated("paused", 1).simulated("sim", 1).lease("8s");
    let server = TestServer::start(config).await;
    let pause = PauseProviderRequest { provider: "paused".to_owned(), ..Default::default() };
    server.provider().pause_provider(pause).await.unwrap();
    let bystander = server.submit(submit("sim", json!({ "duration_ms": 9_000 }))).await.id;
    eventually("it runs", async || {
        (server.get(&bystander).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    let large = json!({ "output": "x".repeat(8 * 1024 * 1024) });
    let flood = (0..16).map(|_| server.submit(submit("paused", large.clone())));
    let stored = join_all(flood).await;
    assert_eq!(stored.len(), 16);
    let ended = server.ended(&bystander).await;
    assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    assert_eq!((ended.attempts.len(), ended.crash_count), (1, 0), "its lease held: {ended:?}");
    audit_is_clean(&server.store_url());
}

//! What a lock that somebody holds keeps waiting, and what it does not (promise P7).

use std::time::Duration;

use serde_json::json;
use sqlx::Executor as _;

use crate::support::{Config, Db, TestServer, eventually, on_postgres, submit};

on_postgres! {
    #[tokio::test]
    an_execution_that_is_due_but_held_by_another_session_is_waited_for_calmly;
}

async fn an_execution_that_is_due_but_held_by_another_session_is_waited_for_calmly() {
    let server = TestServer::start(Config::on(Db::Postgres).simulated("sim", 4)).await;
    let in_a_second = std::time::SystemTime::now() + Duration::from_secs(1);
    let mut request = submit("sim", json!({}));
    request.schedule_time = Some(in_a_second.into());
    let id = server.submit(request).await.id;
    let mut session = server.database().connect().await;
    session.execute("BEGIN; SELECT 1 FROM records FOR UPDATE").await.unwrap();
    eventually("it is due", async || (std::time::SystemTime::now() > in_a_second).then_some(()))
        .await;
    let commits = async || server.status().await.store.unwrap().commit_stats.unwrap().commits;
    let before = commits().await;
    // Nothing tells that nothing is done; the time is for a server that does too much.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let done = commits().await - before;
    assert!(done < 100, "{done} transactions in a second, and nothing to do");
    session.execute("ROLLBACK").await.unwrap();
    server.ended(&id).await;
}

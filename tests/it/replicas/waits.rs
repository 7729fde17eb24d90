//! What a lock that somebody holds keeps waiting, and what it does not (promise P7). A replica that
//! freezes inside a transaction holds its locks until the database ends its session; here the test
//! holds them.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, is_terminal, on_postgres, submit,
};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    a_provider_that_somebody_holds_keeps_no_other_waiting;
    #[tokio::test(flavor = "multi_thread")]
    an_execution_that_somebody_holds_keeps_no_other_of_its_provider_waiting;
    #[tokio::test(flavor = "multi_thread")]
    a_session_that_falls_silent_inside_a_transaction_costs_nobody_a_lease;
    #[tokio::test]
    what_is_submitted_while_another_replica_makes_room_needs_no_poll;
    #[tokio::test]
    an_execution_that_is_due_but_held_by_another_session_is_waited_for_calmly;
}

/// Far below what a lock that is waited for costs, and far above what a loaded machine takes.
const SOON: Duration = Duration::from_secs(3);

/// A session that holds what the statement locks.
async fn holding(server: &TestServer, lock: &'static str) -> PgConnection {
    let mut session = server.database().connect().await;
    session.execute("BEGIN").await.unwrap();
    let held = session.execute(lock).await.unwrap().rows_affected();
    assert!(held > 0, "there is nothing to hold");
    session
}

async fn a_provider_that_somebody_holds_keeps_no_other_waiting() {
    let config = Config::on(Db::Postgres).simulated("a", 4).simulated("b", 4);
    let replicas = TestServer::replicas(config, 2).await;
    let mut session =
        holding(&replicas[0], "SELECT 1 FROM providers WHERE name = 'a' FOR UPDATE").await;
    let held = replicas[0].submit(submit("a", json!({}))).await.id;
    let mut worst = Duration::ZERO;
    // Long enough for each replica to look at all providers together.
    let until = Instant::now() + Duration::from_secs(3);
    for n in 0.. {
        let since = Instant::now();
        let server = &replicas[n % 2];
        let id = server.submit(submit("b", json!({}))).await.id;
        server.ended(&id).await;
        worst = worst.max(since.elapsed());
        if since > until {
            break;
        }
    }
    println!("an execution of another provider took {worst:?} at most");
    assert!(worst < SOON, "{worst:?}");
    session.execute("ROLLBACK").await.unwrap();
    replicas[1].ended(&held).await;
    audit_is_clean(&replicas[0].store_url());
}

async fn an_execution_that_somebody_holds_keeps_no_other_of_its_provider_waiting() {
    let replicas = TestServer::replicas(Config::on(Db::Postgres).simulated("sim", 1), 2).await;
    let running = replicas[0].submit(submit("sim", json!({ "duration_ms": 1_000 }))).await.id;
    eventually("it runs", async || (replicas[0].status().await.running_count == 1).then_some(()))
        .await;
    let first = replicas[0].submit(submit("sim", json!({}))).await.id;
    let mut session = holding(&replicas[0], "SELECT 1 FROM records WHERE ready FOR UPDATE").await;
    let later = replicas[1].submit(submit("sim", json!({}))).await.id;
    for id in [&running, &later] {
        replicas[0].ended(id).await;
    }
    assert!(replicas[0].get(&first).await.attempts.is_empty());
    session.execute("ROLLBACK").await.unwrap();
    replicas[1].ended(&first).await;
    audit_is_clean(&replicas[0].store_url());
}

async fn a_session_that_falls_silent_inside_a_transaction_costs_nobody_a_lease() {
    let config = Config::on(Db::Postgres).simulated("sim", 9).lease("2s");
    let replicas = TestServer::replicas(config, 2).await;
    let mut ids = Vec::new();
    for n in 0..6 {
        let request = submit("sim", json!({ "duration_ms": 3_000 }));
        ids.push(replicas[n % 2].submit(request).await.id);
    }
    eventually("all run", async || (replicas[0].status().await.running_count == 6).then_some(()))
        .await;
    // As Flowgate's own sessions have it with this lease.
    let mut silent = replicas[0].database().connect().await;
    silent.execute("SET idle_in_transaction_session_timeout = '500ms'").await.unwrap();
    silent.execute("BEGIN").await.unwrap();
    let everything = "SELECT 1 FROM records, providers, meta FOR UPDATE";
    assert!(silent.execute(everything).await.unwrap().rows_affected() > 0);
    for id in ids {
        let ended = replicas[0].ended(&id).await;
        assert_eq!((ended.attempts.len(), ended.crash_count), (1, 0), "{ended:?}");
    }
    assert!(silent.execute("COMMIT").await.is_err(), "its session was ended");
    audit_is_clean(&replicas[0].store_url());
}

async fn an_execution_that_is_due_but_held_by_another_session_is_waited_for_calmly() {
    let server = TestServer::start(Config::on(Db::Postgres).simulated("sim", 4)).await;
    let in_a_second = std::time::SystemTime::now() + Duration::from_secs(1);
    let mut request = submit("sim", json!({}));
    request.schedule_time = Some(in_a_second.into());
    let id = server.submit(request).await.id;
    let mut session = holding(&server, "SELECT 1 FROM records FOR UPDATE").await;
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

async fn what_is_submitted_while_another_replica_makes_room_needs_no_poll() {
    let config = Config::on(Db::Postgres).simulated("sim", 1).env("FLOWGATE_POLL_INTERVAL", "20s");
    let first = TestServer::start(config.clone()).await;
    let running = first.submit(submit("sim", json!({ "duration_ms": 1_500 }))).await.id;
    eventually("it runs", async || (first.status().await.running_count == 1).then_some(())).await;
    let second = first.start_beside(config).await;
    // To store it takes longer than the other runs: when it began the provider was full.
    let linger = "
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(2.5);
            RETURN NEW;
        END $$;
        CREATE TRIGGER lingering BEFORE INSERT ON executions
            FOR EACH ROW EXECUTE FUNCTION linger()";
    first.database().connect().await.execute(linger).await.unwrap();
    let submitted = second.submit(submit("sim", json!({}))).await;
    assert!(is_terminal(&first.get(&running).await), "room was made before it was stored");
    let since = Instant::now();
    second.ended(&submitted.id).await;
    let took = since.elapsed();
    assert!(took < SOON, "{took:?}");
}

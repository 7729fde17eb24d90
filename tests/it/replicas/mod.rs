//! Several servers on one PostgreSQL database (promises P1, P2, P4, P5), and that database taken
//! away from them. SQLite has nothing of the kind: its store is served by one server at a time.

mod boots;
mod chaos;
mod commits;
mod leases;
mod limits;
mod meter;
mod rate_limited;
mod slow;
mod visible;
mod waits;

use flowgate::pb::{BatchSubmitExecutionsRequest, ExecutionState, GetExecutionRequest};
use serde_json::json;

use crate::support::postgres::Cluster;
use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_postgres, submit};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    replicas_share_a_limit_and_show_each_others_work;
    #[tokio::test(flavor = "multi_thread")]
    what_a_killed_replica_ran_is_run_again_by_another;
    #[tokio::test(flavor = "multi_thread")]
    what_a_frozen_replica_ran_is_run_again_once_and_its_own_result_is_refused;
    #[tokio::test(flavor = "multi_thread")]
    what_was_acknowledged_survives_a_crash_of_the_database;
    #[tokio::test(flavor = "multi_thread")]
    broken_connections_are_made_again;
}

fn config() -> Config {
    Config::on(Db::Postgres).simulated("sim", 4).lease("2s")
}

async fn replicas_share_a_limit_and_show_each_others_work() {
    let replicas = TestServer::replicas(config(), 3).await;
    let requests = vec![submit("sim", json!({ "duration_ms": 20, "output": 7 })); 200];
    let batch = BatchSubmitExecutionsRequest { requests };
    let stored = replicas[0].execution().batch_submit_executions(batch).await.unwrap();
    for (n, execution) in stored.into_inner().executions.iter().enumerate() {
        let ended = replicas[n % replicas.len()].ended(&execution.id).await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    }
    audit_is_clean(&replicas[0].store_url());
}

async fn what_a_killed_replica_ran_is_run_again_by_another() {
    let mut first = TestServer::start(config()).await;
    let id = running(&first, 1_500).await;
    let second = first.start_beside(config()).await;
    first.kill9();
    let ended = second.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    assert_eq!((ended.attempts.len(), ended.crash_count), (2, 1), "{ended:?}");
    audit_is_clean(&second.store_url());
}

async fn what_a_frozen_replica_ran_is_run_again_once_and_its_own_result_is_refused() {
    let first = TestServer::start(config()).await;
    let id = running(&first, 1_500).await;
    let second = first.start_beside(config()).await;
    first.sigstop();
    let ended = second.ended(&id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (ExecutionState::Succeeded, 2), "{ended:?}");
    first.sigcont();
    let after = first.submit(submit("sim", json!({}))).await;
    first.ended(&after.id).await;
    assert_eq!(first.get(&id).await, ended, "what is over stays as it is");
    audit_is_clean(&second.store_url());
}

async fn what_was_acknowledged_survives_a_crash_of_the_database() {
    let cluster = Cluster::durable();
    let server = TestServer::start_in(&cluster, config()).await;
    let mut ids = vec![running(&server, 500).await];
    for _ in 0..20 {
        ids.push(server.submit(submit("sim", json!({ "duration_ms": 5 }))).await.id);
    }
    cluster.stop_immediate();
    let refused = server.execution().submit_execution(submit("sim", json!({}))).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);
    cluster.start_again();
    for id in ids {
        let ended = eventually("it has ended", async || {
            let reply = server
                .execution()
                .get_execution(GetExecutionRequest { id: id.clone(), ..Default::default() })
                .await
                .ok()?;
            reply.into_inner().execution.filter(crate::support::is_terminal)
        })
        .await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    }
    audit_is_clean(&server.store_url());
}

async fn broken_connections_are_made_again() {
    let cluster = Cluster::shared();
    let server = TestServer::start_in(&cluster, config()).await;
    let id = running(&server, 500).await;
    let (mut admin, url) = (cluster.admin().await, server.store_url());
    let (_, database) = url.rsplit_once('/').expect("it ends with the database");
    for _ in 0..5 {
        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        sqlx::query(all).bind(database).execute(&mut admin).await.unwrap();
        let submitted = eventually("submissions are taken", async || {
            server.execution().submit_execution(submit("sim", json!({}))).await.ok()
        })
        .await;
        server.ended(&submitted.into_inner().execution.unwrap().id).await;
    }
    server.ended(&id).await;
    audit_is_clean(&server.store_url());
}

/// An execution that runs.
async fn running(server: &TestServer, duration_ms: u64) -> String {
    let id = server.submit(submit("sim", json!({ "duration_ms": duration_ms }))).await.id;
    eventually("it runs", async || {
        (server.get(&id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    id
}

//! Replicas behind a PgBouncer that hands out connections by the transaction: no session state, no named
//! statements, and LISTEN by a way of its own.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flowgate::pb::{CancelExecutionRequest, ExecutionState};
use serde_json::json;
use tempfile::TempDir;

use crate::support::postgres::{Cluster, unprivileged};
use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, submit, tools};

/// A PgBouncer of its own; gone when it is dropped.
struct Pooler {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl Pooler {
    /// With two server connections a database, far fewer than two replicas have.
    fn before(server_port: u16) -> Self {
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = dir.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]
            * = host=127.0.0.1 port={server_port} user=flowgate
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 2
            max_client_conn = 100
            "
        );
        std::fs::write(&file, settings.replace("            ", "")).unwrap();
        let mut command = Command::new(tools::pgbouncer());
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = unprivileged().unwrap();
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
            command.uid(uid).gid(gid);
        }
        let process = command.spawn().expect("pgbouncer can be run");
        Self { process, port, _dir: dir }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_work_behind_a_pooler_that_hands_out_transactions() {
    let cluster = tokio::task::spawn_blocking(Cluster::shared).await.unwrap();
    let pooler = Pooler::before(cluster.port());
    eventually("the pooler listens", async || {
        std::net::TcpStream::connect(("127.0.0.1", pooler.port)).ok()
    })
    .await;
    let config = Config::on(Db::Postgres).simulated("sim", 4).lease("2s").through(pooler.port);
    let replicas = TestServer::replicas(config, 2).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        let request = submit("sim", json!({ "duration_ms": 5, "output": n }));
        ids.push(replicas[n % 2].submit(request).await.id);
    }
    for (n, id) in ids.iter().enumerate() {
        let ended = replicas[(n + 1) % 2].ended(id).await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    }
    // What is asked of one replica reaches the other, whichever runs it.
    let long = replicas[0].submit(submit("sim", json!({ "duration_ms": 60_000 }))).await.id;
    eventually("it runs", async || {
        (replicas[1].get(&long).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    for replica in &replicas {
        let cancel = CancelExecutionRequest { id: long.clone(), reason: String::new() };
        replica.execution().cancel_execution(cancel).await.unwrap();
    }
    let cancelled = tokio::time::timeout(Duration::from_secs(5), replicas[1].ended(&long)).await;
    assert_eq!(cancelled.expect("in time").state(), ExecutionState::Cancelled);
    for replica in &replicas {
        let log = replica.stderr_log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
    audit_is_clean(&replicas[0].store_url());
}

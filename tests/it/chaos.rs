//! A server killed at random instants under load (promises P1, P2, P4): nothing acknowledged is
//! lost, nothing ends twice, no module outlives its server.
//!
//! `FLOWGATE_TEST_KILLS` sets how often it is killed (4 unless set), `FLOWGATE_TEST_SEED` the seed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::{CancelExecutionRequest, ExecutionState, SubmitExecutionRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, from_env, is_terminal, on_both, submit,
};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_server_killed_at_random_loses_nothing_and_leaves_nothing_running;
}

const LEASE: Duration = Duration::from_secs(2);
/// How long after a lease that began at the kill a module may still be there.
const MODULE_GRACE: Duration = Duration::from_secs(5);

const MODULE: &str = "#!/bin/sh
# Leaves a child of its own behind, as modules do.
sleep 30 &
sleep 0.$1
";

async fn a_server_killed_at_random_loses_nothing_and_leaves_nothing_running(db: Db) {
    let seed: u64 = from_env("FLOWGATE_TEST_SEED", 1);
    let kills: u32 = from_env("FLOWGATE_TEST_KILLS", 4);
    println!("{kills} kills with seed {seed}");
    let config = Config::on(db)
        .simulated("quick", 8)
        .simulated("slow", 3)
        .module("nap", MODULE)
        .lease("2s")
        .env("FLOWGATE_PROVIDERS__PROCESS__MAX_CONCURRENT", "5");
    let mut server = TestServer::start(config).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let load = Load::default();

    let modules = server.dir().join("modules");
    let mut orphans = Vec::new();
    for _ in 0..kills {
        let stop = CancellationToken::new();
        let submitting = tokio::spawn(load.clone().run(
            server.grpc_addr().to_owned(),
            rng.random(),
            stop.clone(),
        ));
        // The instant is the point of the test; nothing is expected of it.
        let life = Duration::from_millis(rng.random_range(50..1_500));
        let mut over = tokio::time::interval_at(tokio::time::Instant::now() + life, life);
        over.tick().await;
        let killed = Instant::now();
        server.kill9();
        // Looked at from now on, while the next server is started and works.
        let left = modules_in(&modules);
        orphans.push((left.len(), tokio::spawn(last_seen(modules.clone(), left, killed))));
        stop.cancel();
        submitting.await.unwrap();
        server.restart().await;
    }

    let acknowledged = load.acknowledged();
    let orphaned: usize = orphans.iter().map(|(count, _)| count).sum();
    println!("{} executions acknowledged, {orphaned} processes orphaned", acknowledged.len());
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        let execution = server.ended(id).await;
        assert!(is_terminal(&execution));
        if execution.state() == ExecutionState::Succeeded {
            assert!(execution.output.is_some(), "{execution:?}");
        }
    }
    for (count, gone) in orphans {
        let after = gone.await.expect("all were gone in time");
        println!("{count} processes were gone {after:?} after the kill");
    }
    audit_is_clean(&server.store_url());
    eventually("no module is left", async || modules_in(&modules).is_empty().then_some(())).await;
}

/// Clients that submit and cancel, and remember what was acknowledged.
#[derive(Clone, Default)]
struct Load {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
}

impl Load {
    fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    async fn run(self, address: String, seed: u64, stop: CancellationToken) {
        let mut rng = StdRng::seed_from_u64(seed);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let mut client = ExecutionServiceClient::new(channel.unwrap().connect_lazy());
        while !stop.is_cancelled() {
            let Ok(reply) = client.submit_execution(execution(&mut rng)).await else {
                // Not acknowledged: the server is being killed.
                tokio::task::yield_now().await;
                continue;
            };
            let id = reply.into_inner().execution.unwrap().id;
            if rng.random_bool(0.05) {
                let request = CancelExecutionRequest { id: id.clone(), reason: String::new() };
                // Whether it was heard is the server's to tell; the id counts all the same.
                let _ = client.cancel_execution(request).await;
            }
            self.acknowledged.lock().unwrap().insert(id);
        }
    }
}

fn execution(rng: &mut StdRng) -> SubmitExecutionRequest {
    match rng.random_range(0..40) {
        0 => submit(
            "process",
            json!({ "module": "nap", "args": [rng.random_range(1..9).to_string()] }),
        ),
        1 => submit("slow", json!({ "duration_ms": rng.random_range(100..600) })),
        2 => submit("quick", json!({ "fail": "transient", "fail_attempts": 1 })),
        _ => submit("quick", json!({ "duration_ms": rng.random_range(0..5) })),
    }
}

/// How long after the kill the last of the processes `left` was gone. Panics if one lives too long.
async fn last_seen(modules: PathBuf, mut left: BTreeSet<Module>, killed: Instant) -> Duration {
    let allowed = LEASE + MODULE_GRACE;
    loop {
        let alive = modules_in(&modules);
        // Taken after the look: what it saw was there no later than this.
        let after = killed.elapsed();
        left.retain(|module| alive.contains(module));
        if left.is_empty() {
            return after;
        }
        assert!(after < allowed, "still there {after:?} after the kill: {left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process and when it started, which tells it from a later one of the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Module {
    pid: u32,
    started: String,
}

/// Processes that run a module, or were left behind by one: they work in the modules' folder.
fn modules_in(modules: &Path) -> BTreeSet<Module> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = pids.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == modules)
    });
    inside.filter_map(|pid| Some(Module { pid, started: started(pid)? })).collect()
}

/// When a process started, in the kernel's ticks; `None` if it is gone.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. The start is field 22, the state field 3.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(22 - 3).map(str::to_owned)
}

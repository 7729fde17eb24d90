//! A worker's slots come and go with its work, and it tells whether more workers would help.

use std::sync::Arc;

use flowgate::domain::MachineLoad;
use flowgate::engine::{
    Bottleneck, ConfiguredProvider, Engine, EngineSettings, Machine, PoolSettings,
};
use flowgate::pb::ScalingBottleneck;
use serde_json::json;

use super::held::Held;
use super::registry::{cli, workers};
use super::{provider, settings, start, store, submit_many};
use crate::engine::submit;
use crate::support::{Config, TestServer, eventually, submit as submission};

/// A machine that is always so busy.
struct Busy(f64);

impl Machine for Busy {
    fn load(&self) -> MachineLoad {
        MachineLoad { cpu_percent: Some(self.0), memory_available_bytes: None }
    }
}

fn elastic(max: u32, cpu_percent: f64, providers: Vec<ConfiguredProvider>) -> EngineSettings {
    EngineSettings {
        pool: PoolSettings { min: 2, max },
        machine: Arc::new(Busy(cpu_percent)),
        ..settings(providers)
    }
}

async fn slots(engine: &Engine) -> u32 {
    engine.status().await.unwrap().slots
}

#[tokio::test]
async fn a_flood_has_the_largest_pool_at_once_and_no_more() {
    let store = store();
    let held = Held::new();
    let engine = start(&store, elastic(20, 10.0, vec![provider("p", 50, &held)])).await;
    assert_eq!(slots(&engine).await, 2);
    submit_many(&engine, "p", 60).await;
    held.runs(20).await;
    assert_eq!(slots(&engine).await, 20);
    held.let_go(60);
    eventually("all have ended", async || {
        (store.totals().await.unwrap().succeeded == 60).then_some(())
    })
    .await;
    assert_eq!(held.most(), 20);
}

#[tokio::test]
async fn work_that_comes_one_by_one_has_slots_after_a_moment() {
    let store = store();
    let held = Held::new();
    let engine = start(&store, elastic(100, 10.0, vec![provider("p", 50, &held)])).await;
    for _ in 0..7 {
        submit(&engine, "p", "{}").await;
    }
    held.runs(7).await;
    let slots = slots(&engine).await;
    assert!((7..=10).contains(&slots), "{slots}");
}

#[tokio::test]
async fn slow_providers_keep_no_other_out_of_a_pool_that_cannot_grow() {
    let store = store();
    let names = ["p", "q", "r", "s"];
    let held = names.map(|_| Held::new());
    let providers = names.iter().zip(&held).map(|(name, held)| provider(name, 50, held)).collect();
    let engine = start(&store, elastic(20, 99.0, providers)).await;
    submit_many(&engine, "p", 10).await;
    held[0].runs(2).await;
    for (name, held) in names.iter().zip(&held).skip(1) {
        submit_many(&engine, name, 10).await;
        held.runs(1).await;
    }
    assert_eq!((slots(&engine).await, held[0].most()), (2, 2));
    let told = engine.status().await.unwrap().scaling;
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Machine, 35));
    held[0].let_go(1);
    eventually("it has ended", async || {
        (store.totals().await.unwrap().succeeded == 1).then_some(())
    })
    .await;
    assert!(held.iter().all(|held| held.most() <= 2), "one each is beyond the pool");
}

#[tokio::test]
async fn more_workers_do_not_help_a_provider_at_its_limit() {
    let store = store();
    let held = Held::new();
    let engine = start(&store, elastic(20, 10.0, vec![provider("p", 3, &held)])).await;
    submit_many(&engine, "p", 60).await;
    held.runs(3).await;
    let told = eventually("the third is counted", async || {
        let told = engine.status().await.unwrap().scaling;
        (told.bottleneck == Bottleneck::ProviderLimit).then_some(told)
    })
    .await;
    assert_eq!((told.pending_for_replicas, told.desired_replicas), (0, 1));
    assert_eq!(
        told.message,
        "more replicas will not help: provider p is at its limit of 3, 57 executions wait for it"
    );
}

#[tokio::test]
async fn a_server_shows_its_pool_and_whether_more_of_them_would_help() {
    let server = TestServer::start(Config::new().simulated("sim", 50).pool(2, 8)).await;
    let told = cli(&server, &["status"]).await;
    assert!(told.contains("NONE") && told.contains("0 of 2 in use"), "{told}");
    let long = vec![submission("sim", json!({ "duration_ms": 600_000 })); 60];
    let batch = flowgate::pb::BatchSubmitExecutionsRequest { requests: long };
    server.execution().batch_submit_executions(batch).await.unwrap();
    // Of the largest pool three are kept, for the providers that are there unconfigured.
    let told = eventually("the pool is full", async || {
        let told = server.status().await;
        (told.active_count == 5).then_some(told)
    })
    .await;
    let scaling = told.scaling.unwrap();
    assert_eq!(scaling.bottleneck(), ScalingBottleneck::Slots, "{scaling:?}");
    assert_eq!((scaling.pending_for_replicas, scaling.spare_slots), (45, 0));
    assert_eq!((scaling.live_replicas, scaling.desired_replicas), (1, 10));
    assert_eq!((told.slots, told.load, scaling.utilisation), (8, 0.625, 0.625));
    let worker = workers(&server).await.remove(0);
    assert_eq!((worker.slots, worker.min_slots, worker.max_slots), (8, 2, 8));
    assert_eq!((worker.spare_slots, worker.load), (0, 0.625));
    let told = cli(&server, &["status"]).await;
    assert!(told.contains("SLOTS") && told.contains("more replicas will help: 45"), "{told}");
    let told = cli(&server, &["status", "--output", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["scaling"]["bottleneck"], "SCALING_BOTTLENECK_SLOTS");
    assert_eq!(told["scaling"]["pendingForReplicas"], "45");
    let told = cli(&server, &["workers"]).await;
    assert!(told.contains("5/8") && told.contains("2..8"), "{told}");
}

//! Replicas leave each other their share of a provider, and no slot empty.

use std::sync::Arc;

use flowgate::domain::{Change, WorkerId};
use flowgate::engine::{Engine, PoolReport, ServedProvider, WorkerConfiguration, WorkerReport};
use flowgate::store::{Commit, Notice, Store, WorkerRow, WorkerStatus};
use futures_util::future::join_all;
use tokio::sync::broadcast::Receiver;

use super::held::Held;
use super::{NEVER, provider, settings, start, store, submit_many, takes_note};
use crate::support::eventually;

/// Engines that know of each other, each with what it runs.
async fn replicas(store: &Store, count: usize, limit: u32) -> Vec<(Engine, Arc<Held>)> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        let held = Held::new();
        let engine = start(store, settings(vec![provider("p", limit, &held)])).await;
        replicas.push((engine, held));
    }
    join_all(replicas.iter().map(|(engine, _)| takes_note(store, engine))).await;
    replicas
}

fn running(replicas: &[(Engine, Arc<Held>)]) -> Vec<usize> {
    replicas.iter().map(|(_, held)| held.running()).collect()
}

#[tokio::test]
async fn replicas_run_a_providers_executions_in_equal_shares() {
    let store = store();
    let replicas = replicas(&store, 3, 8).await;
    submit_many(&replicas[1].0, "p", 20).await;
    eventually("the limit is used", async || {
        (running(&replicas).iter().sum::<usize>() == 8).then_some(())
    })
    .await;
    let mut shares = running(&replicas);
    shares.sort_unstable();
    assert_eq!(shares, [2, 3, 3]);
}

#[tokio::test]
async fn what_a_replica_cannot_take_the_others_do() {
    let store = store();
    let replicas = replicas(&store, 1, 4).await;
    let (engine, held) = &replicas[0];
    let other = dead_replica(&store, WorkerStatus::Serving).await;
    takes_note(&store, engine).await;
    let listed = engine.workers().await.unwrap();
    assert!(listed.iter().any(|worker| worker.row.id == other && !worker.lost), "{listed:?}");
    let mut commits = store.commits();
    submit_many(engine, "p", 6).await;
    held.runs(4).await;
    assert_eq!(claims(&mut commits), [2, 2], "its share, and after a moment the rest");
}

#[tokio::test]
async fn a_replica_whose_pool_is_full_and_cannot_grow_has_no_share_left() {
    let store = store();
    let replicas = replicas(&store, 1, 4).await;
    let (engine, held) = &replicas[0];
    let full = PoolReport { min: 2, max: 20, spare: 0, hindered: false };
    dead_replica_with(&store, WorkerStatus::Serving, Some(full)).await;
    takes_note(&store, engine).await;
    let mut commits = store.commits();
    submit_many(engine, "p", 6).await;
    held.runs(4).await;
    assert_eq!(claims(&mut commits), [4], "all at once");
}

#[tokio::test]
async fn a_replica_that_claims_no_more_has_no_share() {
    let store = store();
    let replicas = replicas(&store, 2, 4).await;
    dead_replica(&store, WorkerStatus::Stopping).await;
    let ((leaving, _), (staying, held)) = (&replicas[0], &replicas[1]);
    leaving.begin_shutdown();
    eventually("the register says so", async || {
        let rows = store.workers().await.unwrap();
        let row = rows.iter().find(|row| row.id == leaving.worker()).unwrap();
        (row.status == WorkerStatus::Stopping).then_some(())
    })
    .await;
    takes_note(&store, staying).await;
    let mut commits = store.commits();
    submit_many(staying, "p", 6).await;
    held.runs(4).await;
    assert_eq!(claims(&mut commits), [4], "all at once");
}

#[tokio::test]
async fn a_replica_that_serves_other_providers_has_no_share() {
    let store = store();
    let (p, q) = (Held::new(), Held::new());
    let engine = start(&store, settings(vec![provider("p", 4, &p)])).await;
    let _other = start(&store, settings(vec![provider("q", 4, &q)])).await;
    takes_note(&store, &engine).await;
    let mut commits = store.commits();
    submit_many(&engine, "p", 6).await;
    p.runs(4).await;
    assert_eq!(claims(&mut commits), [4]);
}

#[tokio::test]
async fn shares_are_kept_while_executions_come_and_go() {
    let store = store();
    let replicas = replicas(&store, 2, 4).await;
    submit_many(&replicas[0].0, "p", 400).await;
    for (_, held) in &replicas {
        held.let_go(400);
    }
    eventually("all have ended", async || {
        (store.totals().await.unwrap().succeeded == 400).then_some(())
    })
    .await;
    for (engine, held) in &replicas {
        let ran = engine.status().await.unwrap().figures.succeeded;
        assert!(held.most() <= 4);
        // Half, but for the odds of a busy machine; whoever is not held back takes all.
        assert!(ran >= 40, "one of two ran {ran} of 400");
    }
}

/// A worker that is heard of and claims nothing.
async fn dead_replica(store: &Store, status: WorkerStatus) -> WorkerId {
    dead_replica_with(store, status, None).await
}

/// The same, with this to tell of its slots.
async fn dead_replica_with(
    store: &Store,
    status: WorkerStatus,
    pool: Option<PoolReport>,
) -> WorkerId {
    let served =
        ServedProvider { name: "p".parse().unwrap(), kind: "test".to_owned(), max_concurrent: 4 };
    let report = WorkerReport {
        configuration: Some(WorkerConfiguration {
            providers: vec![served],
            lease: NEVER,
            ..WorkerConfiguration::default()
        }),
        pool,
        ..WorkerReport::default()
    };
    let row = WorkerRow {
        id: WorkerId::new(),
        host: "there".to_owned(),
        version: "test".to_owned(),
        status,
        started_at: Default::default(),
        heartbeat_at: Default::default(),
        figures: serde_json::to_value(&report).unwrap(),
    };
    store.beat(row.clone()).await.unwrap();
    row.id
}

/// How many executions each commit claimed, of those that claimed any.
fn claims(commits: &mut Receiver<Arc<Commit>>) -> Vec<usize> {
    let commits = std::iter::from_fn(|| commits.try_recv().ok());
    let claimed = |commit: Arc<Commit>| {
        let claimed = |entry: &&Notice| matches!(entry.change, Some(Change::Claimed { .. }));
        commit.entries.iter().filter(claimed).count()
    };
    commits.map(claimed).filter(|count| *count > 0).collect()
}

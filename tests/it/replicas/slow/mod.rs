//! A replica far from its database, beside one that is near (promises P1, P4, P5): whatever the near one
//! does between two statements of the other.

mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowgate::domain::{Change, State};
use flowgate::pb::{WatchExecutionsRequest, watch_executions_response};
use flowgate::store::{
    ClockSource, EventQuery, PostgresBackend, PostgresOptions, Settlement, Store,
};
use serde_json::json;

use crate::store::fixture::{GRACE, Kind, LEASE, SECOND, TestStore, succeeded};
use crate::support::postgres::Cluster;
use crate::support::{
    Config, Db, StoreHome, TestServer, audit_is_clean, eventually, on_postgres, submit,
};
use link::SlowLink;

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    a_claim_counts_what_was_claimed_while_it_was_under_way;
    #[tokio::test(flavor = "multi_thread")]
    a_settlement_under_way_and_a_reclaim_never_both_count;
    #[tokio::test(flavor = "multi_thread")]
    a_far_replica_is_not_outrun_by_a_near_one;
    #[tokio::test(flavor = "multi_thread")]
    a_watch_misses_nothing_that_a_far_replica_commits_late;
}

/// How long a word takes to the database and back.
const FAR: Duration = Duration::from_millis(12);
/// As much later than the last time each thing happens, until it happens after all is over.
const STEP: Duration = Duration::from_millis(6);
const STEPS: u32 = 24;

/// A store, and another on the same database that is far from it.
async fn near_and_far() -> (TestStore, Store, SlowLink) {
    let near = TestStore::open(Kind::Postgres).await;
    let StoreHome::Postgres(database) = near.home() else { unreachable!("it was opened there") };
    let link = SlowLink::to(database.cluster().port()).await;
    let options = PostgresOptions {
        clock: ClockSource::Injected,
        ..PostgresOptions::new(link.lead(&database.url()))
    };
    let far = Arc::new(PostgresBackend::open(&options).await.unwrap());
    let far = Store::start(far, near.clock.clone(), &near.tasks);
    near.declare("p", 1).await;
    // Once without haste, so that every statement is prepared.
    near.submit_with("p", |_| {}).await;
    let claimed = far.claim(near.claim_of(&[("p", 1)])).await.unwrap().claimed;
    let lease = claimed[0].lease.clone();
    far.settle(Settlement::new(lease, succeeded("{}"))).await.unwrap().unwrap();
    (near, far, link)
}

async fn a_claim_counts_what_was_claimed_while_it_was_under_way() {
    let (near, far, link) = near_and_far().await;
    let mut both = [0, 0];
    for step in 0..2 * STEPS {
        let low = near.submit_with("p", |_| {}).await;
        let submit_high = || near.submit_with("p", |spec| spec.priority = 9);
        let (early, step) = (step < STEPS, step % STEPS);
        let mut high = if early { Some(submit_high().await) } else { None };
        link.takes(FAR);
        let claim = near.claim_of(&[("p", 1)]);
        let far_claim = tokio::spawn({
            let (far, claim) = (far.clone(), claim.clone());
            async move { far.claim(claim).await.unwrap().claimed }
        });
        tokio::time::sleep(STEP * step).await;
        if !early {
            // It comes before the one that the other may have seen already.
            high = Some(submit_high().await);
        }
        let near_claimed = near.store.claim(claim).await.unwrap().claimed;
        let far_claimed = far_claim.await.unwrap();
        link.takes(Duration::ZERO);
        let claimed = [near_claimed.len(), far_claimed.len()];
        assert!(claimed.iter().sum::<usize>() <= 1, "at limit 1, in step {step}: {claimed:?}");
        both = [both[0] + claimed[0], both[1] + claimed[1]];
        for claimed in near_claimed.iter().chain(&far_claimed) {
            near.succeed(&claimed.lease).await;
        }
        for id in [Some(low), high].into_iter().flatten() {
            near.cancel(id).await;
        }
    }
    println!("near and far claimed {both:?}");
    near.check().await;
}

async fn a_settlement_under_way_and_a_reclaim_never_both_count() {
    let (near, far, link) = near_and_far().await;
    let mut late = [0, 0];
    for step in 0..STEPS {
        let id = near.submit_with("p", |_| {}).await;
        let claimed = far.claim(near.claim_of(&[("p", 1)])).await.unwrap().claimed;
        let lease = claimed[0].lease.clone();
        near.clock.advance(LEASE + GRACE + SECOND);
        link.takes(FAR);
        let settling = tokio::spawn({
            let far = far.clone();
            async move { far.settle(Settlement::new(lease, succeeded("{}"))).await.unwrap() }
        });
        tokio::time::sleep(STEP * step).await;
        near.store.advance(GRACE).await.unwrap();
        let again = near.claim("p", 1).await;
        let settled = settling.await.unwrap();
        link.takes(Duration::ZERO);
        late[usize::from(settled.is_ok())] += 1;
        match settled {
            Ok(()) => assert!(again.is_empty(), "settled and claimed again, in step {step}"),
            // The reclaim had it first; the other's claim may have come too soon to see that.
            Err(_) if again.is_empty() => near.succeed(&near.claim_one("p").await).await,
            Err(_) => near.succeed(&again[0].lease).await,
        }
        assert_eq!(near.state(id).await, State::Succeeded);
    }
    println!("refused and settled: {late:?}");
    near.check().await;
}

async fn a_far_replica_is_not_outrun_by_a_near_one() {
    let (near, far, link) = near_and_far().await;
    let near = Arc::new(near);
    let done = Arc::new(AtomicBool::new(false));
    let running = tokio::spawn({
        let (near, done) = (Arc::clone(&near), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Relaxed) {
                near.submit_with("p", |_| {}).await;
            }
        }
    });
    link.takes(FAR);
    for _ in 0..5 {
        let submitted = far.submit(vec![near.new_with("p", |_| {})]).await;
        assert!(submitted.is_ok(), "{submitted:?}");
    }
    done.store(true, Ordering::Relaxed);
    running.await.unwrap();
    near.check().await;
}

async fn a_watch_misses_nothing_that_a_far_replica_commits_late() {
    let config = Config::on(Db::Postgres).simulated("sim", 8);
    let near = TestServer::start(config.clone()).await;
    let link = SlowLink::to(Cluster::shared().port()).await;
    let far = near.start_beside(config.through(link.port())).await;
    link.takes(FAR);
    let replicas = [&near, &far];
    let mut streams = Vec::new();
    for n in 0..4 {
        let request = WatchExecutionsRequest { after_revision: Some(0), ..Default::default() };
        let mut client = replicas[n % 2].execution();
        streams.push(client.watch_executions(request).await.unwrap().into_inner());
    }
    let writers = (0..8).map(async |n: usize| {
        for _ in 0..25 {
            replicas[n % 2].submit(submit("sim", json!({}))).await;
        }
    });
    futures_util::future::join_all(writers).await;
    let store = near.open_store_beside().await;
    let log = eventually("all is over", async || {
        let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
        let log = store.events(&query).await.unwrap();
        let over = log.iter().filter(|event| matches!(event.change, Change::Finished { .. }));
        (over.count() == 8 * 25).then_some(log)
    })
    .await;
    let expected: Vec<_> =
        log.iter().filter(|event| event.execution.is_some()).map(|event| event.revision).collect();
    let last = *expected.last().expect("there are some");
    for (n, mut stream) in streams.into_iter().enumerate() {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|seen| *seen < last) {
            let message = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
            let message = message.expect("it goes on").unwrap().expect("it has no end");
            if let Some(watch_executions_response::Event::Execution(_)) = message.event {
                seen.push(message.revision);
            }
        }
        let missed: Vec<_> = expected.iter().filter(|it| !seen.contains(it)).collect();
        assert!(missed.is_empty(), "watcher {n} missed {missed:?}");
        assert_eq!(seen, expected, "watcher {n}");
    }
    audit_is_clean(&near.store_url());
}

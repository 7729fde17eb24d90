//! Machines of which some are short, on one store.

use std::time::Duration;

use flowgate::domain::{Change, Lack, Shortage, WorkerId};
use flowgate::pb::ExecutionState;
use flowgate::store::{EventQuery, ShortageAnswer, ShortageReport, Store};
use flowgate::tasks::Tasks;

use super::{GATE, GIB, Served, Told, hello, lack};
use crate::support::{Db, StoreHome, audit_is_clean, eventually, on_postgres};

on_postgres! {
    #[tokio::test]
    a_machine_with_room_takes_the_work_of_a_short_one;
    #[tokio::test]
    a_shortage_is_seen_at_every_replica_and_ends_with_any_of_them;
    #[tokio::test]
    what_a_lost_worker_said_of_its_machine_is_taken_back;
}

async fn a_machine_with_room_takes_the_work_of_a_short_one() {
    let home = StoreHome::new(Db::Postgres).await;
    let short = Served::start(&home, Told::busy(93.0, 16 * GIB), GATE, 10).await;
    let idle = Served::start(&home, Told::busy(5.0, 16 * GIB), GATE, 10).await;
    for _ in 0..20 {
        let id = short.submit(hello("gated")).await;
        let seen = short.watch(&id).await.until_end().await;
        assert_eq!(seen.last().unwrap().state(), ExecutionState::Succeeded);
        assert!(seen.iter().all(|seen| lack(seen).is_none()), "{seen:?}");
    }
    idle.stop().await;
    short.stop().await;
    audit_is_clean(&home.url());
}

async fn a_shortage_is_seen_at_every_replica_and_ends_with_any_of_them() {
    let home = StoreHome::new(Db::Postgres).await;
    let (one, two) = (Told::busy(93.0, 16 * GIB), Told::busy(93.0, 16 * GIB));
    let first = Served::start(&home, one, GATE, 10).await;
    let second = Served::start(&home, two.clone(), GATE, 10).await;
    let id = first.submit(hello("gated")).await;
    let (mut here, mut there) = (first.watch(&id).await, second.watch(&id).await);
    assert_eq!(here.lacks().await, "cpu 93 % of 80 %");
    assert_eq!(there.lacks().await, "cpu 93 % of 80 %");
    assert!(lack(&second.get(&id).await).is_some());
    two.is_idle();
    for watch in [&mut here, &mut there] {
        let seen = watch.until_end().await;
        assert_eq!(seen.last().unwrap().state(), ExecutionState::Succeeded);
    }
    first.stop().await;
    second.stop().await;
    audit_is_clean(&home.url());
}

async fn what_a_lost_worker_said_of_its_machine_is_taken_back() {
    let home = StoreHome::new(Db::Postgres).await;
    let server = Served::start(&home, Told::busy(93.0, 16 * GIB), GATE, 10).await;
    let id = server.submit(hello("gated")).await;
    let mut watch = server.watch(&id).await;
    watch.lacks().await;
    // Said by one that nobody has heard of.
    let (worker, tasks) = (WorkerId::new(), Tasks::default());
    let clock = std::sync::Arc::new(flowgate::domain::SystemClock);
    let store = Store::start(home.open_beside().await, clock, &tasks);
    let gated: flowgate::domain::ProviderName = "gated".parse().unwrap();
    let shortage = Shortage { worker, lack: Lack::Cpu { percent: 99, max_percent: 80 } };
    eventually("it speaks for the provider", async || {
        store.end_shortage(gated.clone(), worker, None).await.unwrap();
        let report = ShortageReport { shortage, patience: Duration::ZERO, tell: true };
        let answer = store.tell_shortage(gated.clone(), report).await.unwrap();
        (answer == ShortageAnswer::Told).then_some(())
    })
    .await;
    while watch.lacks().await != "cpu 99 % of 80 %" {}
    while watch.lacks().await != "cpu 93 % of 80 %" {}
    let all = EventQuery { after: 0, execution: None, output: false, limit: 1_000 };
    let log = store.events(&all).await.unwrap();
    let mut over = log.iter().filter_map(|event| match &event.change {
        Change::ShortageOver { worker } => Some(*worker),
        _ => None,
    });
    assert_ne!(over.next_back(), Some(worker), "the other took it back");
    store.close();
    server.stop().await;
    audit_is_clean(&home.url());
}

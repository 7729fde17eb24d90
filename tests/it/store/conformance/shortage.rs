//! Telling that work waits for a machine with room, and taking it back.

use std::time::Duration;

use flowgate::domain::{Change, Clock, Lack, Shortage, WorkerId};
use flowgate::store::{ShortageAnswer, ShortageReport};

use crate::store::fixture::{SECOND, TestStore, name};

fn cpu(worker: WorkerId, percent: u8) -> Shortage {
    Shortage { worker, lack: Lack::Cpu { percent, max_percent: 80 } }
}

async fn tell(t: &TestStore, shortage: Shortage) -> ShortageAnswer {
    report(t, shortage, true).await
}

async fn report(t: &TestStore, shortage: Shortage, tell: bool) -> ShortageAnswer {
    let report = ShortageReport { shortage, patience: SECOND, tell };
    t.store.tell_shortage(name("p"), report).await.unwrap()
}

async fn known(t: &TestStore) -> Option<Shortage> {
    let rows = t.store.providers().await.unwrap();
    rows.into_iter().find(|row| row.record.name == name("p")).unwrap().record.shortage
}

async fn told(t: &TestStore) -> Vec<Change> {
    let mut log = t.log().await;
    let told = |change: &Change| matches!(change, Change::ShortOf(_) | Change::ShortageOver { .. });
    log.retain(|event| told(&event.change));
    log.into_iter().map(|event| event.change).collect()
}

/// One execution that has waited long enough.
async fn something_waits(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 1).await;
    t.pass(SECOND).await;
}

pub(crate) async fn a_shortage_is_told_once_work_has_waited(t: &TestStore) {
    t.declare("p", 2).await;
    let shortage = cpu(t.worker, 93);
    assert_ne!(tell(t, shortage).await, ShortageAnswer::Told, "nothing is ready");
    t.submit_plain("p", 1).await;
    assert_eq!(tell(t, shortage).await, ShortageAnswer::NothingWaits, "not for long enough");
    t.pass(SECOND).await;
    assert_eq!(report(t, shortage, false).await, ShortageAnswer::Waits, "only looked");
    assert_eq!(known(t).await, None);
    assert_eq!(tell(t, shortage).await, ShortageAnswer::Told);
    assert_eq!(known(t).await, Some(shortage));
    assert_eq!(told(t).await, [Change::ShortOf(shortage)]);
}

pub(crate) async fn only_figures_that_moved_are_told_again(t: &TestStore) {
    something_waits(t).await;
    tell(t, cpu(t.worker, 93)).await;
    assert_eq!(tell(t, cpu(t.worker, 95)).await, ShortageAnswer::Waits);
    assert_eq!(tell(t, cpu(WorkerId::new(), 83)).await, ShortageAnswer::Waits, "another's figures");
    assert_eq!(tell(t, cpu(t.worker, 83)).await, ShortageAnswer::Told);
    assert_eq!(told(t).await.len(), 2);
}

pub(crate) async fn work_that_has_no_room_does_not_wait_for_a_machine(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_plain("p", 2).await;
    let lease = t.claim("p", 1).await.remove(0).lease;
    t.pass(SECOND).await;
    assert_eq!(tell_looked(t).await, ShortageAnswer::NothingWaits);
    t.succeed(&lease).await;
    t.pause("p", None).await;
    assert_eq!(tell_looked(t).await, ShortageAnswer::NothingWaits);
    t.resume("p").await;
    assert_eq!(tell_looked(t).await, ShortageAnswer::Told);
}

/// A provider at which nothing is to be claimed need not be looked at.
async fn tell_looked(t: &TestStore) -> ShortageAnswer {
    match tell(t, cpu(t.worker, 93)).await {
        ShortageAnswer::NotLookedAt => ShortageAnswer::NothingWaits,
        answer => answer,
    }
}

pub(crate) async fn a_claim_by_anybody_ends_a_shortage(t: &TestStore) {
    something_waits(t).await;
    let other = WorkerId::new();
    tell(t, cpu(other, 93)).await;
    assert_eq!(t.claim("p", 1).await.len(), 1);
    assert_eq!(known(t).await, None);
    assert_eq!(told(t).await[1..], [Change::ShortageOver { worker: t.worker }]);
}

pub(crate) async fn a_claim_that_gets_nothing_ends_no_shortage(t: &TestStore) {
    something_waits(t).await;
    let shortage = cpu(WorkerId::new(), 93);
    tell(t, shortage).await;
    let claim = flowgate::store::Claim { slots: 0, ..t.claim_of(&[("p", 1)]) };
    assert!(t.store.claim(claim).await.unwrap().claimed.is_empty());
    assert_eq!(known(t).await, Some(shortage));
}

pub(crate) async fn a_shortage_is_taken_back_by_whoever_told_of_it(t: &TestStore) {
    something_waits(t).await;
    let teller = WorkerId::new();
    let end = async |told_by| t.store.end_shortage(name("p"), t.worker, told_by).await.unwrap();
    assert!(!end(None).await, "there is none");
    tell(t, cpu(teller, 93)).await;
    assert!(!end(Some(WorkerId::new())).await, "not that one's");
    assert!(end(Some(teller)).await);
    assert_eq!(known(t).await, None);
    tell(t, cpu(teller, 93)).await;
    assert!(end(None).await, "whoever's");
    assert_eq!(told(t).await.len(), 4);
}

pub(crate) async fn a_pause_takes_the_place_of_a_shortage(t: &TestStore) {
    something_waits(t).await;
    tell(t, cpu(t.worker, 93)).await;
    let until = t.clock.now() + Duration::from_secs(5);
    t.pause("p", Some(until)).await;
    assert_eq!(known(t).await, None);
    let gate = t.store.gate_at(&name("p"), i64::MAX).await.unwrap().unwrap().change;
    assert!(matches!(gate, Change::Paused { until: ends, .. } if ends == Some(until)), "{gate:?}");
    t.pass(Duration::from_secs(5)).await;
    assert_eq!(known(t).await, None, "it has to be told anew");
    assert_eq!(tell(t, cpu(t.worker, 93)).await, ShortageAnswer::Told);
}

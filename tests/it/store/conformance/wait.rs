//! Why a pending execution waits.

use flowgate::domain::{Change, Clock, Wait};

use crate::store::fixture::{SECOND, TestStore};

async fn waits(t: &TestStore, ids: &[flowgate::domain::ExecutionId]) -> Vec<Wait> {
    let mut waits = Vec::new();
    for id in ids {
        waits.push(t.wait(*id).await);
    }
    waits
}

pub(crate) async fn what_finds_room_waits_for_nothing_and_the_rest_for_the_limit(t: &TestStore) {
    t.declare("p", 2).await;
    let ids = t.submit_plain("p", 4).await;
    assert_eq!(waits(t, &ids).await, [Wait::None, Wait::None, Wait::Limit, Wait::Limit]);
    let changes = t.changes(ids[3]).await;
    assert_eq!(changes, [Change::Submitted { wait: Wait::Limit }]);
}

pub(crate) async fn what_becomes_due_without_room_waits_for_the_limit(t: &TestStore) {
    t.declare("p", 1).await;
    let due = t.clock.now() + SECOND;
    let new = (0..3).map(|_| t.new_with("p", |spec| spec.schedule_at = Some(due)));
    let new: Vec<_> = new.collect();
    let ids: Vec<_> = new.iter().map(|new| new.spec.id).collect();
    t.store.submit(new).await.unwrap().unwrap();
    t.pass(SECOND).await;
    assert_eq!(waits(t, &ids).await, [Wait::None, Wait::Limit, Wait::Limit]);
    assert_eq!(t.claim("p", 5).await.len(), 1);
    let head = t.head().await;
    t.claim("p", 5).await;
    assert_eq!(t.head().await, head, "nothing is left to mark");
}

pub(crate) async fn what_a_claim_leaves_behind_says_that_it_waits_for_the_limit(t: &TestStore) {
    t.declare("p", 1).await;
    let overtaken = t.submit_with("p", |_| {}).await;
    assert_eq!(t.wait(overtaken).await, Wait::None);
    let urgent = t.submit_with("p", |spec| spec.priority = 1).await;
    assert_eq!(t.claim_one("p").await.id, urgent);
    assert_eq!(t.wait(overtaken).await, Wait::Limit);
    let head = t.head().await;
    t.claim("p", 5).await;
    assert_eq!(t.head().await, head, "it is marked once");
}

pub(crate) async fn what_waits_for_the_limit_is_claimed_when_there_is_room(t: &TestStore) {
    t.declare("p", 1).await;
    let ids = t.submit_plain("p", 2).await;
    t.succeed(&t.claim("p", 1).await[0].lease).await;
    assert_eq!(t.wait(ids[1]).await, Wait::Limit);
    assert_eq!(t.claim_one("p").await.id, ids[1]);
    assert_eq!(t.wait(ids[1]).await, Wait::None);
}

pub(crate) async fn a_scheduled_execution_says_until_when(t: &TestStore) {
    t.declare("p", 1).await;
    let until = t.clock.now() + SECOND;
    let id = t.submit_with("p", |spec| spec.schedule_at = Some(until)).await;
    assert_eq!(t.wait(id).await, Wait::Scheduled { until });
    let past = t.submit_with("p", |spec| spec.schedule_at = Some(spec.created_at - SECOND)).await;
    assert_eq!(t.wait(past).await, Wait::None, "a time in the past is now");
}

pub(crate) async fn who_comes_after_the_waiting_waits_too(t: &TestStore) {
    t.declare("p", 2).await;
    let first = t.submit_plain("p", 1).await;
    let second = t.submit_plain("p", 1).await;
    assert_eq!(waits(t, &[first[0], second[0]]).await, [Wait::None, Wait::Limit]);
}

//! What time alone brings about.

use std::time::Duration;

use flowgate::domain::{Change, Clock, ErrorCode, State, Wait};

use crate::store::fixture::{SECOND, TestStore, retry};

pub(crate) async fn a_scheduled_execution_is_claimed_only_when_it_is_due(t: &TestStore) {
    t.declare("p", 2).await;
    let due = t.clock.now() + SECOND * 10;
    let id = t.submit_with("p", |spec| spec.schedule_at = Some(due)).await;
    assert_eq!(t.pass(SECOND * 9).await.promoted, 0);
    assert_eq!(t.claim("p", 1).await.len(), 0);
    assert_eq!(t.pass(SECOND).await.promoted, 1);
    assert_eq!(t.wait(id).await, Wait::None);
    assert_eq!(t.claim("p", 1).await.len(), 1);
}

pub(crate) async fn a_retry_waits_for_its_backoff(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |_| {}).await;
    t.settle(&t.claim_one("p").await, retry(SECOND * 3)).await.unwrap();
    let until = t.clock.now() + SECOND * 3;
    assert_eq!(t.wait(id).await, Wait::Backoff { until });
    assert_eq!(t.claim("p", 1).await.len(), 0);
    assert_eq!(t.pass(SECOND * 2).await.next_due, Some(until));
    assert_eq!(t.claim("p", 1).await.len(), 0);
    assert_eq!(t.pass(SECOND).await.promoted, 1);
    assert_eq!(t.claim("p", 1).await[0].attempt, 2);
}

pub(crate) async fn a_retry_without_delay_is_ready_at_once(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_with("p", |_| {}).await;
    t.settle(&t.claim_one("p").await, retry(Duration::ZERO)).await.unwrap();
    assert_eq!(t.claim("p", 1).await[0].attempt, 2);
}

pub(crate) async fn a_queue_timeout_fails_what_was_never_started(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |spec| spec.queue_timeout = Some(SECOND)).await;
    assert_eq!(t.pass(SECOND / 2).await.expired, 0);
    assert_eq!(t.pass(SECOND / 2).await.expired, 1);
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Failed);
    assert_eq!(execution.failure.unwrap().code, ErrorCode::QueueTimeout);
    assert_eq!(execution.attempts, []);
    assert_eq!(t.claim("p", 1).await.len(), 0);
    assert_eq!(t.pass(SECOND).await.expired, 0);
}

pub(crate) async fn a_queue_timeout_counts_from_the_schedule_time(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t
        .submit_with("p", |spec| {
            spec.schedule_at = Some(spec.created_at + SECOND * 5);
            spec.queue_timeout = Some(SECOND);
        })
        .await;
    t.pass(SECOND * 2).await;
    assert_eq!(t.state(id).await, State::Pending);
    // Both times passed at once: it is over, and is not made ready first.
    let passed = t.pass(SECOND * 10).await;
    assert_eq!((passed.expired, passed.promoted, passed.next_due), (1, 0, None));
    assert!(!t.changes(id).await.contains(&Change::WaitChanged { wait: Wait::None }));
}

pub(crate) async fn a_queue_timeout_does_not_touch_what_was_started_once(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |spec| spec.queue_timeout = Some(SECOND)).await;
    t.settle(&t.claim_one("p").await, retry(SECOND * 3)).await.unwrap();
    assert_eq!(t.pass(SECOND * 9).await.expired, 0);
    assert_eq!(t.state(id).await, State::Pending);
}

pub(crate) async fn a_queue_timeout_passes_while_the_provider_is_paused(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |spec| spec.queue_timeout = Some(SECOND)).await;
    t.pause("p", None).await;
    t.pass(SECOND).await;
    assert_eq!(t.state(id).await, State::Failed);
}

pub(crate) async fn the_next_due_time_is_the_earliest_of_all(t: &TestStore) {
    t.declare("p", 2).await;
    assert_eq!(t.pass(SECOND).await.next_due, None);
    let now = t.clock.now();
    t.submit_with("p", |spec| spec.schedule_at = Some(now + SECOND * 5)).await;
    assert_eq!(t.pass(Duration::ZERO).await.next_due, Some(now + SECOND * 5));
    t.submit_with("p", |spec| spec.queue_timeout = Some(SECOND * 4)).await;
    assert_eq!(t.pass(Duration::ZERO).await.next_due, Some(now + SECOND * 4));
    t.pause("p", Some(now + SECOND * 3)).await;
    assert_eq!(t.pass(Duration::ZERO).await.next_due, Some(now + SECOND * 3));
}

pub(crate) async fn what_is_due_beyond_one_transaction_follows_in_the_next(t: &TestStore) {
    t.declare("p", 2).await;
    let due = t.clock.now() + SECOND;
    let new = (0..700).map(|_| t.new_with("p", |spec| spec.schedule_at = Some(due)));
    t.store.submit(new.collect()).await.unwrap().unwrap();
    let first = t.pass(SECOND).await;
    assert_eq!((first.promoted, first.more, first.next_due), (500, true, Some(due)));
    let rest = t.pass(Duration::ZERO).await;
    assert_eq!((rest.promoted, rest.more, rest.next_due), (200, false, None));
}

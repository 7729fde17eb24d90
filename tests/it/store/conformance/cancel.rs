//! Cancelling: pending at once, running by request, finished not at all.

use flowgate::domain::{Change, Ending, ErrorCode, ExecutionId, State};
use flowgate::store::CancelAnswer;

use crate::store::fixture::{
    GRACE, LEASE, SECOND, TestStore, cancelled, crashed, retry, succeeded,
};

pub(crate) async fn a_pending_execution_is_cancelled_at_once_and_never_claimed(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |spec| spec.queue_timeout = Some(SECOND)).await;
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Cancelled));
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Cancelled);
    assert_eq!(execution.failure.unwrap().code, ErrorCode::Cancelled);
    assert_eq!(execution.cancel.unwrap().1, "changed my mind");
    assert_eq!(t.claim("p", 1).await.len(), 0);
    let passed = t.pass(SECOND * 9).await;
    assert_eq!((passed.expired, passed.next_due), (0, None));
}

pub(crate) async fn a_scheduled_execution_is_cancelled_at_once(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |spec| spec.schedule_at = Some(spec.created_at + SECOND)).await;
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Cancelled));
    let passed = t.pass(SECOND * 9).await;
    assert_eq!((passed.promoted, passed.next_due), (0, None));
}

pub(crate) async fn a_running_execution_is_asked_to_stop_and_ends_cancelled(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Requested));
    assert_eq!(t.state(id).await, State::Running);
    t.settle(&lease, cancelled()).await.unwrap();
    assert_eq!(t.state(id).await, State::Cancelled);
}

pub(crate) async fn a_cancellation_keeps_its_first_reason(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.claim_one("p").await;
    t.cancel(id).await;
    let head = t.head().await;
    let again = t.store.cancel(vec![id], "another".to_owned()).await.unwrap();
    assert_eq!(again, [(id, CancelAnswer::Unchanged)]);
    assert_eq!(t.head().await, head);
    assert_eq!(t.get(id).await.cancel.unwrap().1, "changed my mind");
}

pub(crate) async fn a_finished_execution_is_left_as_it_is(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.succeed(&t.claim_one("p").await).await;
    let (head, before) = (t.head().await, t.get(id).await);
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Unchanged));
    assert_eq!((t.head().await, t.get(id).await), (head, before));
}

pub(crate) async fn work_that_ends_well_before_it_is_stopped_succeeds(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.cancel(id).await;
    t.settle(&lease, succeeded("{}")).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Succeeded);
    assert!(execution.cancel.is_some());
}

async fn assert_ends_cancelled(t: &TestStore, ending: Ending) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.cancel(id).await;
    t.settle(&lease, ending).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Cancelled);
    assert_eq!(execution.failure.unwrap().code, ErrorCode::Cancelled);
    t.pass(SECOND * 100).await;
    assert_eq!(t.claim("p", 1).await.len(), 0);
}

pub(crate) async fn a_retry_ends_cancelled_once_a_stop_was_asked_for(t: &TestStore) {
    assert_ends_cancelled(t, retry(SECOND)).await;
}

pub(crate) async fn a_release_ends_cancelled_once_a_stop_was_asked_for(t: &TestStore) {
    assert_ends_cancelled(t, Ending::Released { begun: true }).await;
}

pub(crate) async fn a_crash_ends_cancelled_once_a_stop_was_asked_for(t: &TestStore) {
    assert_ends_cancelled(t, crashed()).await;
}

pub(crate) async fn a_lost_lease_ends_cancelled_once_a_stop_was_asked_for(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.claim_one("p").await;
    t.cancel(id).await;
    assert_eq!(t.pass(LEASE + GRACE).await.reclaimed.len(), 1);
    assert_eq!(t.state(id).await, State::Cancelled);
}

pub(crate) async fn unknown_ids_are_left_out_of_the_answer(t: &TestStore) {
    let id = t.submit_with("p", |_| {}).await;
    let ids = vec![ExecutionId::new(), id];
    let answers = t.store.cancel(ids, "x".to_owned()).await.unwrap();
    assert_eq!(answers, [(id, CancelAnswer::Cancelled)]);
}

pub(crate) async fn an_id_given_twice_is_cancelled_once(t: &TestStore) {
    let id = t.submit_with("p", |_| {}).await;
    let answers = t.store.cancel(vec![id, id], "x".to_owned()).await.unwrap();
    assert_eq!(answers, [(id, CancelAnswer::Cancelled), (id, CancelAnswer::Unchanged)]);
    let ended = |change: &&Change| matches!(change, Change::Finished { .. });
    assert_eq!(t.changes(id).await.iter().filter(ended).count(), 1);
}

//! The place in the queue: when something became due, less the head start of its priority.

use std::time::Duration;

use flowgate::domain::{Ending, ErrorCode, ExecutionId};

use crate::store::fixture::{HEAD_START, SECOND, TestStore, failure, ids, retry};

async fn prior(t: &TestStore, priority: i32) -> ExecutionId {
    t.submit_with("p", |spec| spec.priority = priority).await
}

pub(crate) async fn a_lower_priority_submitted_long_enough_before_goes_first(t: &TestStore) {
    t.declare("p", 10).await;
    let (low, lowest) = (prior(t, 0).await, prior(t, -2).await);
    t.clock.advance(HEAD_START - SECOND);
    let sooner = prior(t, 1).await;
    t.clock.advance(SECOND);
    let alike = prior(t, 1).await;
    t.clock.advance(SECOND);
    let later = prior(t, 1).await;
    t.clock.advance(2 * HEAD_START);
    let last = prior(t, 1).await;
    let claimed = t.claim("p", 10).await;
    assert_eq!(ids(&claimed), [sooner, low, alike, later, lowest, last]);
}

pub(crate) async fn one_at_a_time_they_go_in_the_same_order(t: &TestStore) {
    t.declare("p", 10).await;
    let low = prior(t, 0).await;
    t.clock.advance(HEAD_START + SECOND);
    let (high, plain) = (prior(t, 1).await, prior(t, 0).await);
    // A claim that takes one looks at no other: it is the database that has them in order.
    for first in [low, high, plain] {
        assert_eq!(ids(&t.claim("p", 1).await), [first]);
    }
}

fn uncharged(delay: Duration) -> Ending {
    let failure = failure(ErrorCode::RateLimited);
    Ending::Retry { failure, delay, charged: false, usage: None }
}

pub(crate) async fn a_retry_keeps_its_head_start(t: &TestStore) {
    t.declare("p", 10).await;
    let high = prior(t, 1).await;
    t.settle(&t.claim_one("p").await, retry(10 * SECOND)).await.unwrap();
    let low = prior(t, 0).await;
    t.pass(10 * SECOND).await;
    let claimed = t.claim("p", 10).await;
    assert_eq!(ids(&claimed), [high, low]);
    // Its place counts from when it is due again: what was submitted before that goes first.
    t.settle(&claimed[1].lease, retry(10 * SECOND)).await.unwrap();
    t.pass(5 * SECOND).await;
    let between = prior(t, 0).await;
    t.pass(5 * SECOND).await;
    let after = prior(t, 0).await;
    assert_eq!(ids(&t.claim("p", 10).await), [between, low, after]);
}

pub(crate) async fn an_uncharged_retry_without_delay_keeps_its_place(t: &TestStore) {
    t.declare("p", 10).await;
    let (first, charged) = (prior(t, 0).await, prior(t, 0).await);
    let claimed = t.claim("p", 10).await;
    t.clock.advance(SECOND);
    let second = prior(t, 0).await;
    t.clock.advance(SECOND);
    t.settle(&claimed[0].lease, uncharged(Duration::ZERO)).await.unwrap();
    t.settle(&claimed[1].lease, retry(Duration::ZERO)).await.unwrap();
    let claimed = t.claim("p", 10).await;
    assert_eq!(ids(&claimed), [first, second, charged]);
    assert_eq!((claimed[0].attempt, claimed[0].charged), (2, 1));
}

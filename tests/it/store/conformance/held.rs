//! What is told of work that is held back though the gate is open and the limit has room.

use flowgate::domain::{Change, Clock, GateState, HeldBy, Hold, Limits, Rates, Timestamp};

use crate::store::fixture::{SECOND, TestStore, ids};

async fn declare(t: &TestStore, requests: u64) {
    let rates = Rates { requests_per_minute: Some(requests), ..Rates::default() };
    t.declare_limits("p", Limits { rates, ..Limits::concurrent(100) }).await;
}

/// Until when the provider's budget was said to be spent, each time something was told; `None` where
/// that was taken back.
async fn told(t: &TestStore) -> Vec<Option<Timestamp>> {
    let until = |hold: &Hold| match hold.by {
        HeldBy::Rate { until } => until,
        ref other => panic!("a rate was expected, not {other:?}"),
    };
    let log = t.log().await.into_iter();
    log.filter_map(|event| match event.change {
        Change::Held { holds } => Some(holds.first().map(until)),
        _ => None,
    })
    .collect()
}

pub(crate) async fn what_is_held_back_is_told_and_not_again_within_ten_seconds(t: &TestStore) {
    declare(t, 2).await;
    t.submit_plain("p", 6).await;
    let begun = t.clock.now();
    let at = |seconds: u32| begun + seconds * SECOND;
    assert_eq!(t.claim("p", 1).await.len(), 1);
    assert_eq!(told(t).await, [], "the budget has room");
    t.clock.advance(5 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 1);
    let mut expected = vec![Some(at(61))];
    assert_eq!(told(t).await, expected);
    for _ in 0..3 {
        t.clock.advance(15 * SECOND);
        assert_eq!(t.claim("p", 9).await.len(), 0);
    }
    assert_eq!(told(t).await, expected, "it says the same");
    // Told anew where that time is over.
    t.clock.advance(11 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 1);
    expected.push(Some(at(66)));
    assert_eq!(told(t).await, expected);
    t.clock.advance(5 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 1);
    assert_eq!(told(t).await, expected, "but not before ten seconds are");
    t.clock.advance(5 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 0);
    expected.push(Some(at(122)));
    assert_eq!(told(t).await, expected);
    let held = GateState::Held(vec![Hold::rate(None, at(122))]);
    assert_eq!(t.provider("p").await.gate(), held);
}

pub(crate) async fn what_is_held_back_is_taken_back_when_nothing_is(t: &TestStore) {
    declare(t, 1).await;
    t.submit_plain("p", 2).await;
    let begun = t.clock.now();
    t.claim("p", 9).await;
    t.clock.advance(61 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 1);
    assert_eq!(told(t).await, [Some(begun + 61 * SECOND), None]);
    assert_eq!(t.provider("p").await.gate(), GateState::Open);
}

pub(crate) async fn what_is_held_back_is_taken_back_when_all_that_waited_is_cancelled(
    t: &TestStore,
) {
    declare(t, 1).await;
    let all = t.submit_plain("p", 2).await;
    t.claim("p", 9).await;
    assert_eq!(told(t).await.len(), 1);
    t.cancel(all[1]).await;
    // Whoever hears that something ended looks.
    t.claim("p", 9).await;
    assert_eq!(told(t).await[1..], [None]);
    assert_eq!(t.provider("p").await.gate(), GateState::Open);
}

pub(crate) async fn what_is_held_back_is_told_anew_when_a_pause_is_over(t: &TestStore) {
    declare(t, 1).await;
    let all = t.submit_plain("p", 2).await;
    t.claim("p", 9).await;
    let held = t.provider("p").await.gate();
    assert!(matches!(held, GateState::Held(_)));
    for by_hand in [false, true] {
        t.pause("p", (!by_hand).then_some(t.clock.now() + SECOND)).await;
        assert!(matches!(t.provider("p").await.gate(), GateState::Paused(_)));
        let before = told(t).await.len();
        if by_hand {
            assert!(t.resume("p").await);
        } else {
            t.pass(SECOND).await;
        }
        assert_eq!(told(t).await.len(), before + 1);
        assert_eq!(t.provider("p").await.gate(), held);
        let newest = t.log().await.pop().unwrap();
        assert_eq!(GateState::after(&newest.change), Some(held.clone()));
        assert_eq!(t.provider("p").await.gate_revision, newest.revision);
    }
    t.clock.advance(61 * SECOND);
    assert_eq!(ids(&t.claim("p", 9).await), all[1..]);
}

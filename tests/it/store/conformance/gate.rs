//! Pausing and resuming a provider.

use flowgate::domain::{Change, Clock, Ending, GateState, Signal, State};
use flowgate::store::{GateChange, ProviderNews, Settlement};
use futures_util::future::join;

use crate::store::fixture::{GRACE, SECOND, TestStore, name, retry, succeeded};

pub(crate) async fn a_paused_provider_gives_nothing_until_it_is_resumed(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 1).await;
    assert!(t.pause("p", None).await);
    assert_eq!(t.claim("p", 1).await.len(), 0);
    t.pass(SECOND * 1_000).await;
    assert_eq!(t.claim("p", 1).await.len(), 0);
    assert!(t.resume("p").await);
    assert_eq!(t.claim("p", 1).await.len(), 1);
}

pub(crate) async fn a_pause_kills_nothing(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.pause("p", None).await;
    assert_eq!(t.state(id).await, State::Running);
    t.succeed(&lease).await;
    assert_eq!(t.state(id).await, State::Succeeded);
}

pub(crate) async fn what_is_noted_of_a_paused_provider_is_kept(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 1).await;
    t.pause("p", None).await;
    let head = t.head().await;
    assert!(t.store.tell_unserved(name("p"), true).await.unwrap());
    assert!(!t.store.tell_unserved(name("p"), true).await.unwrap(), "that is known");
    assert_eq!(t.head().await, head, "the pause says more");
}

pub(crate) async fn a_timed_pause_ends_by_itself(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 1).await;
    let until = t.clock.now() + SECOND * 5;
    t.pause("p", Some(until)).await;
    let early = t.pass(SECOND * 4).await;
    assert_eq!((early.resumed.len(), early.next_due), (0, Some(until)));
    assert_eq!(t.claim("p", 1).await.len(), 0);
    let due = t.pass(SECOND).await;
    assert_eq!((due.resumed, due.next_due), (vec![name("p")], None));
    assert_eq!(t.claim("p", 1).await.len(), 1);
    let resumed = t.log().await.into_iter().filter(|e| matches!(e.change, Change::Resumed { .. }));
    assert_eq!(resumed.count(), 1);
}

pub(crate) async fn a_pause_that_is_resumed_by_hand_is_not_resumed_again(t: &TestStore) {
    t.declare("p", 2).await;
    t.pause("p", Some(t.clock.now() + SECOND)).await;
    t.resume("p").await;
    let head = t.head().await;
    assert_eq!(t.pass(SECOND * 2).await.resumed, []);
    assert_eq!(t.head().await, head);
}

pub(crate) async fn pausing_or_resuming_twice_changes_nothing(t: &TestStore) {
    t.declare("p", 2).await;
    assert!(!t.resume("p").await);
    assert!(t.pause("p", None).await);
    assert!(!t.pause("p", None).await);
    assert!(t.pause("p", Some(t.clock.now() + SECOND)).await, "another end is another pause");
    assert_eq!(t.head().await, 3);
}

pub(crate) async fn an_unknown_provider_cannot_be_paused(t: &TestStore) {
    assert!(!t.pause("nobody", None).await);
    assert_eq!(t.head().await, 0);
}

pub(crate) async fn a_pause_and_an_advance_at_once_agree_on_what_is_due_next(t: &TestStore) {
    t.declare("p", 2).await;
    let until = t.clock.now() + SECOND;
    let change = GateChange::Pause { reason: "rate limited".to_owned(), until: Some(until) };
    let both = join(t.store.advance(GRACE), t.store.set_gate(name("p"), change)).await;
    assert_eq!(both.0.unwrap().next_due, Some(until));
    assert!(both.1.unwrap());
}

/// Ends the one attempt that there is with the word that the provider is to be left alone.
async fn rate_limited(t: &TestStore, wait: std::time::Duration) {
    let signal = Signal::RateLimited { retry_after: Some(wait), message: "slow down".to_owned() };
    let lease = t.claim_one("p").await;
    let ending = retry(std::time::Duration::ZERO);
    let (provider, lane) = (name("p"), String::new());
    let news =
        Some(ProviderNews { provider, lane, signal: Some(signal), observed: None, reserved: None });
    let settlement = Settlement { lease, ending, news };
    t.store.settle(settlement).await.unwrap().unwrap();
}

async fn gate(t: &TestStore) -> GateState {
    let rows = t.store.providers().await.unwrap();
    rows.iter().find(|row| row.record.name == name("p")).unwrap().record.gate()
}

pub(crate) async fn a_rate_limit_outlives_a_pause_and_ends_with_a_resumption(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_with("p", |_| {}).await;
    let until = t.clock.now() + SECOND * 60;
    rate_limited(t, SECOND * 60).await;
    assert!(t.pause("p", Some(t.clock.now() + SECOND)).await);
    assert_eq!(t.pass(SECOND).await.next_due, Some(until));
    assert!(matches!(gate(t).await, GateState::Closed { until: closed, .. } if closed == until));
    assert_eq!(t.claim("p", 1).await.len(), 0);
    // An endless pause is not ended by the time for which the gate had closed.
    assert!(t.pause("p", None).await);
    t.pass(SECOND * 120).await;
    assert!(matches!(gate(t).await, GateState::Paused(_)));
    assert!(t.resume("p").await);
    assert_eq!(gate(t).await, GateState::Open);
    rate_limited(t, SECOND * 60).await;
    t.pass(SECOND * 60).await;
    assert!(matches!(gate(t).await, GateState::Probing { .. }));
    let claimed = t.claim("p", 1).await;
    assert!(claimed[0].probe);
}

pub(crate) async fn a_probe_that_saw_nothing_makes_way_for_the_next(t: &TestStore) {
    t.declare("p", 9).await;
    t.submit_plain("p", 1).await;
    rate_limited(t, SECOND * 60).await;
    t.submit_plain("p", 2).await;
    t.pass(SECOND * 60).await;
    let probe = t.claim("p", 9).await;
    assert_eq!((probe.len(), probe[0].probe), (1, true));
    assert_eq!(t.claim("p", 9).await.len(), 0);
    t.settle_telling(&probe[0], Ending::Released { begun: true }, Some(Signal::Unseen)).await;
    let next = t.claim("p", 9).await;
    assert_eq!((next.len(), next[0].probe), (1, true));
    t.settle_telling(&next[0], succeeded("1"), Some(Signal::Answered)).await;
    assert_eq!(gate(t).await, GateState::Open);
}

//! Models with limits of their own: a lane and a gate for each.

use std::time::Duration;

use flowgate::domain::{
    Bound, Clock, ClosedBy, Ending, ErrorCode, ExecutionId, GateState, Handle, HeldBy, Hold,
    LimitUpdate, Limits, Overrides, RateOverrides, Rates, Signal, State, Told,
};
use flowgate::store::{CancelAnswer, Claimed, ExpectedRevision, LimitChange};

use crate::store::fixture::{GRACE, LEASE, SECOND, TestStore, failure, ids, name, succeeded};

async fn declare(t: &TestStore) {
    let wide = Rates { requests_per_minute: Some(1_000), ..Rates::default() };
    let models = [("m".to_owned(), wide), ("n".to_owned(), wide)].into();
    t.declare_limits("p", Limits { models, ..Limits::concurrent(100) }).await;
}

async fn of(t: &TestStore, model: &str) -> ExecutionId {
    t.submit_demanding("p", Some(model), (0, 0)).await
}

/// Ends an attempt with the word that its model is to be left alone.
async fn limited(t: &TestStore, claimed: &Claimed, wait: Duration) {
    let signal = Signal::RateLimited { retry_after: Some(wait), message: "slow down".to_owned() };
    // Such an attempt is not charged, and keeps its place.
    let failure = failure(ErrorCode::RateLimited);
    let ending = Ending::Retry { failure, delay: Duration::ZERO, charged: false, usage: None };
    t.settle_telling(claimed, ending, Some(signal)).await;
}

async fn holds(t: &TestStore) -> Vec<Hold> {
    match t.provider("p").await.gate() {
        GateState::Held(holds) => holds,
        GateState::Open => Vec::new(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_models_gate_closes_for_its_own_work_only(t: &TestStore) {
    declare(t).await;
    let first = of(t, "m").await;
    let claimed = t.claim("p", 1).await;
    assert_eq!((ids(&claimed), claimed[0].lane.as_str()), (vec![first], "m"));
    let until = t.clock.now() + 20 * SECOND;
    limited(t, &claimed[0], 20 * SECOND).await;
    let (cause, reason) = (ClosedBy::RateLimit, "slow down".to_owned());
    let closed = Hold { model: Some("m".to_owned()), by: HeldBy::Closed { cause, until, reason } };
    assert_eq!(holds(t).await, [closed]);
    of(t, "m").await;
    let (other, plain) = (of(t, "n").await, t.submit_plain("p", 1).await[0]);
    let report = t.store.claim(t.claim_of(&[("p", 9)])).await.unwrap();
    assert_eq!(ids(&report.claimed), [other, plain]);
    assert!(report.claimed.iter().all(|claimed| !claimed.probe));
    assert_eq!(report.resumes.get(&name("p")), Some(&until));
    t.clock.advance(20 * SECOND - Duration::from_micros(1));
    assert_eq!(t.claim("p", 9).await.len(), 0, "not a moment too early");
}

pub(crate) async fn a_closed_models_gate_is_tried_and_opened_by_an_answer(t: &TestStore) {
    declare(t).await;
    let first = of(t, "m").await;
    limited(t, &t.claim("p", 1).await[0], 20 * SECOND).await;
    let (second, third) = (of(t, "m").await, of(t, "m").await);
    t.clock.advance(20 * SECOND);
    let probes = t.claim("p", 9).await;
    assert_eq!((ids(&probes), probes[0].probe), (vec![first], true), "one is to see");
    assert!(matches!(holds(t).await[..], [Hold { by: HeldBy::Probing { .. }, .. }]));
    let report = t.store.claim(t.claim_of(&[("p", 9)])).await.unwrap();
    let next = t.clock.now() + 5 * SECOND;
    assert_eq!((report.claimed.len(), report.resumes.get(&name("p"))), (0, Some(&next)));
    t.clock.advance(5 * SECOND);
    let more = t.claim("p", 9).await;
    assert_eq!((ids(&more), more[0].probe), (vec![second], true), "and another after 5 s");
    // Found no better: closed anew, and nothing before that time.
    limited(t, &probes[0], 30 * SECOND).await;
    t.settle_telling(&more[0], succeeded("1"), Some(Signal::Answered)).await;
    assert!(matches!(holds(t).await[..], [Hold { by: HeldBy::Closed { .. }, .. }]));
    t.clock.advance(29 * SECOND);
    assert_eq!(t.claim("p", 9).await.len(), 0);
    t.clock.advance(SECOND);
    let probes = t.claim("p", 9).await;
    assert_eq!(ids(&probes), [first]);
    t.settle_telling(&probes[0], succeeded("1"), Some(Signal::Answered)).await;
    assert_eq!(holds(t).await, []);
    let rest = t.claim("p", 9).await;
    assert_eq!((ids(&rest), rest[0].probe), (vec![third], false));
}

pub(crate) async fn an_operator_opens_a_models_gate(t: &TestStore) {
    declare(t).await;
    let first = of(t, "m").await;
    limited(t, &t.claim("p", 1).await[0], 20 * SECOND).await;
    assert!(t.resume("p").await);
    assert_eq!(holds(t).await, []);
    assert_eq!(ids(&t.claim("p", 9).await), [first]);
    assert!(!t.resume("p").await, "there is nothing to be opened");
}

pub(crate) async fn what_waits_in_another_models_lane_moves(t: &TestStore) {
    t.declare("p", 100).await;
    let early = [of(t, "m").await, of(t, "m").await, of(t, "m").await];
    let plain = t.submit_plain("p", 1).await[0];
    assert!(t.records(&early).await.iter().all(|record| record.lane.is_empty()));
    let one = RateOverrides { requests_per_minute: Some(Bound::At(1)), ..RateOverrides::default() };
    let models = [("m".to_owned(), one)].into();
    t.override_limits("p", Overrides { models, ..Overrides::default() }, None).await;
    let mut claimed = Vec::new();
    let mut looks = 0;
    loop {
        let report = t.store.claim(t.claim_of(&[("p", 9)])).await.unwrap();
        claimed.extend(ids(&report.claimed));
        looks += 1;
        assert!(looks < 5, "it comes to an end");
        if !report.more {
            break;
        }
    }
    claimed.sort_unstable();
    assert_eq!(claimed, [early[0], plain], "what is counted for the model is all that it admits");
    assert!(t.records(&early).await.iter().all(|record| record.lane == "m"));
}

pub(crate) async fn what_waits_in_a_models_lane_is_found_when_its_limits_are_gone(t: &TestStore) {
    t.declare("p", 100).await;
    // Nobody claims meanwhile.
    t.pause("p", None).await;
    let rates = RateOverrides { requests_per_minute: Some(Bound::At(1)), ..Default::default() };
    let models = [("m".to_owned(), rates)].into();
    t.override_limits("p", Overrides { models, ..Overrides::default() }, None).await;
    let waiting = [of(t, "m").await, of(t, "m").await];
    assert!(t.records(&waiting).await.iter().all(|record| record.lane == "m"));
    let reset = LimitChange { provider: name("p"), update: LimitUpdate::Reset, expires_at: None };
    let told = Told::by_itself("test");
    let set = t.store.set_limits(vec![reset], told, ExpectedRevision::Any, false).await;
    set.unwrap().unwrap();
    t.resume("p").await;
    assert_eq!(ids(&t.claim("p", 9).await), waiting);
}

/// An execution that its provider goes on with, taken back from its worker, behind the gate of its model, which another
/// has closed.
async fn attached_behind_a_closed_gate(t: &TestStore) -> ExecutionId {
    declare(t).await;
    let attached = of(t, "m").await;
    let lease = t.claim_one("p").await;
    let run = Handle::new(serde_json::Map::from_iter([("run".to_owned(), 1.into())])).unwrap();
    t.store.attach(lease, run).await.unwrap().unwrap();
    of(t, "m").await;
    t.clock.advance(LEASE + GRACE);
    limited(t, &t.claim("p", 1).await[0], 600 * SECOND).await;
    t.pass(Duration::ZERO).await;
    attached
}

pub(crate) async fn what_waits_behind_a_models_gate_is_cancelled_and_stopped(t: &TestStore) {
    let attached = attached_behind_a_closed_gate(t).await;
    let plain = of(t, "m").await;
    assert_eq!(t.claim("p", 9).await.len(), 0);
    t.cancel(plain).await;
    assert_eq!(t.state(plain).await, State::Cancelled, "at once");
    assert_eq!(t.cancel(attached).await, Some(CancelAnswer::Requested));
    let claimed = t.claim("p", 9).await;
    assert_eq!((ids(&claimed), claimed[0].cancel_requested), (vec![attached], true));
    assert!(!claimed[0].probe);
}

pub(crate) async fn what_is_stopped_behind_a_models_gate_is_within_the_limit(t: &TestStore) {
    let attached = attached_behind_a_closed_gate(t).await;
    t.cancel(attached).await;
    t.limit("p", Some(3)).await;
    let plain = t.submit_plain("p", 3).await;
    let claimed = t.claim("p", 9).await;
    assert_eq!(ids(&claimed), plain, "they take all the room there is");
    assert_eq!(t.claim("p", 9).await.len(), 0);
    t.succeed(&claimed[0].lease).await;
    assert_eq!(ids(&t.claim("p", 9).await), [attached]);
}

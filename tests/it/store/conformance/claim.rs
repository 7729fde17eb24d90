//! Claims: in order, and never above the limit.

use std::time::Duration;

use flowgate::domain::{Ending, Limits, State, WorkerId};
use flowgate::store::{ProviderClaims, Settlement};
use futures_util::future::{join, join_all};

use crate::store::fixture::{SECOND, TestStore, claim, ids, name, succeeded, unshared};

pub(crate) async fn claims_take_the_interrupted_first_then_priority_due_time_and_id(t: &TestStore) {
    t.declare("p", 10).await;
    let interrupted = t.submit_with("p", |spec| spec.priority = -5).await;
    t.settle(&t.claim_one("p").await, Ending::Released { begun: true }).await.unwrap();
    let later = t.submit_with("p", |spec| spec.schedule_at = Some(spec.created_at + SECOND)).await;
    let first = t.submit_with("p", |_| {}).await;
    let second = t.submit_with("p", |_| {}).await;
    let low = t.submit_with("p", |spec| spec.priority = -1).await;
    let high = t.submit_with("p", |spec| spec.priority = 7).await;
    t.pass(SECOND).await;
    let claimed = t.claim("p", 10).await;
    assert_eq!(ids(&claimed), [interrupted, high, first, second, later, low]);
    let again: Vec<_> = claimed.iter().map(|claimed| claimed.interrupted).collect();
    assert_eq!(again, [true, false, false, false, false, false]);
    assert_eq!(claimed[2].waited, SECOND);
    assert_eq!(claimed[4].waited, Duration::ZERO);
}

pub(crate) async fn a_claim_takes_no_more_than_is_wanted(t: &TestStore) {
    t.declare("p", 10).await;
    let submitted = t.submit_plain("p", 5).await;
    assert_eq!(ids(&t.claim("p", 2).await), submitted[..2]);
    assert_eq!(t.claim("p", 0).await.len(), 0);
    assert_eq!(ids(&t.claim("p", 9).await), submitted[2..]);
}

pub(crate) async fn a_claim_never_exceeds_the_limit(t: &TestStore) {
    t.declare("p", 3).await;
    t.submit_plain("p", 10).await;
    let claimed = t.claim("p", 10).await;
    assert_eq!(claimed.len(), 3);
    assert_eq!(t.claim("p", 10).await.len(), 0);
    t.succeed(&claimed[1].lease).await;
    assert_eq!(t.claim("p", 10).await.len(), 1);
}

pub(crate) async fn a_lowered_limit_lets_what_runs_go_on_and_admits_nothing(t: &TestStore) {
    t.declare("p", 3).await;
    t.submit_plain("p", 10).await;
    let claimed = t.claim("p", 10).await;
    t.limit("p", Some(1)).await;
    assert_eq!(t.state(claimed[0].lease.id).await, State::Running);
    for running in &claimed[..2] {
        t.succeed(&running.lease).await;
        assert_eq!(t.claim("p", 10).await.len(), 0);
    }
    t.succeed(&claimed[2].lease).await;
    assert_eq!(t.claim("p", 10).await.len(), 1);
}

pub(crate) async fn a_raised_limit_admits_more_at_once(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_plain("p", 10).await;
    assert_eq!(t.claim("p", 10).await.len(), 1);
    t.limit("p", Some(4)).await;
    assert_eq!(t.claim("p", 10).await.len(), 3);
    t.limit("p", None).await;
    assert_eq!(t.claim("p", 10).await.len(), 0);
}

pub(crate) async fn many_claims_at_once_share_one_limit(t: &TestStore) {
    t.declare("p", 7).await;
    t.submit_plain("p", 50).await;
    let two = |_| t.store.claim(claim(WorkerId::new(), vec![unshared(name("p"), 2)]));
    let reports = join_all((0..20).map(two)).await;
    let mut claimed: Vec<_> =
        reports.into_iter().flat_map(|report| ids(&report.unwrap().claimed)).collect();
    assert_eq!(claimed.len(), 7);
    claimed.sort_unstable();
    claimed.dedup();
    assert_eq!(claimed.len(), 7, "nothing is claimed twice");
}

pub(crate) async fn a_provider_named_twice_in_a_claim_stays_within_its_limit(t: &TestStore) {
    t.declare("p", 2).await;
    let submitted = t.submit_plain("p", 5).await;
    let report = t.store.claim(t.claim_of(&[("p", 1), ("p", 2)])).await.unwrap();
    assert_eq!(ids(&report.claimed), submitted[..2]);
}

pub(crate) async fn one_providers_limit_does_not_bind_another(t: &TestStore) {
    t.declare("a", 1).await;
    t.declare("b", 2).await;
    t.submit_plain("a", 5).await;
    t.submit_plain("b", 5).await;
    let report = t.store.claim(t.claim_of(&[("b", 9), ("a", 9)])).await.unwrap();
    let count = |provider| {
        let of = report.claimed.iter().filter(|c| c.spec.provider == name(provider));
        of.count()
    };
    assert_eq!((count("a"), count("b")), (1, 2));
}

pub(crate) async fn an_undeclared_provider_gives_nothing(t: &TestStore) {
    t.submit_plain("unheard-of", 1).await;
    assert_eq!(t.claim("unheard-of", 1).await.len(), 0);
}

pub(crate) async fn a_claim_tells_what_to_run_and_how_busy_the_provider_was(t: &TestStore) {
    t.declare("p", 3).await;
    t.submit_plain("p", 1).await;
    t.claim("p", 1).await;
    let id = t.submit_with("p", |spec| spec.priority = 3).await;
    t.clock.advance(SECOND);
    let report = t.store.claim(t.claim_of(&[("p", 5)])).await.unwrap();
    let busy = ProviderClaims { provider: name("p"), running: 1, limit: 3, claimed: 1 };
    assert_eq!(report.providers, [busy]);
    assert!(!report.more);
    let claimed = &report.claimed[0];
    assert_eq!((claimed.spec.id, claimed.spec.priority), (id, 3));
    assert_eq!((claimed.attempt, claimed.charged, claimed.interrupted), (1, 1, false));
    assert_eq!((claimed.lease.owner, claimed.waited), (t.worker, SECOND));
}

pub(crate) async fn a_settlement_and_a_claim_at_once_reuse_the_room(t: &TestStore) {
    t.store.declare(vec![(name("p"), Limits::concurrent(1))]).await.unwrap();
    let submitted = t.submit_plain("p", 2).await;
    let lease = t.claim_one("p").await;
    let claim = t.store.claim(t.claim_of(&[("p", 1)]));
    let settle = t.store.settle(Settlement::new(lease, succeeded("{}")));
    let (report, settled) = join(claim, settle).await;
    settled.unwrap().unwrap();
    let mut claimed = report.unwrap().claimed;
    if claimed.is_empty() && !t.backend.kind().is_exclusive() {
        // Each goes its own way there, and the claim may come first.
        claimed = t.claim("p", 1).await;
    }
    assert_eq!(ids(&claimed), submitted[1..]);
}

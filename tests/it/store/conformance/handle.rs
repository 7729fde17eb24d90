//! Work that goes on at its provider: what is known of it survives the loss of an attempt.

use flowgate::domain::{EndCause, Ending, ErrorCode, Failure, Handle, Lease, OnLost, State, Usage};
use flowgate::store::CancelAnswer;
use serde_json::{Map, json};

use crate::store::fixture::{
    GRACE, LEASE, SECOND, TestStore, cancelled, crashed, name, retry, succeeded,
};

fn handle(run: &str) -> Handle {
    Handle::new(Map::from_iter([("run_id".to_owned(), json!(run))])).unwrap()
}

async fn attach(t: &TestStore, lease: &Lease, run: &str) {
    t.store.attach(lease.clone(), handle(run)).await.unwrap().unwrap();
}

/// Claims the one that is there; says which handle came with it.
async fn claim_with_handle(t: &TestStore) -> (Lease, Option<Handle>, bool) {
    let mut claimed = t.claim("p", 2).await;
    assert_eq!(claimed.len(), 1);
    let claimed = claimed.remove(0);
    (claimed.lease, claimed.handle, claimed.cancel_requested)
}

pub(crate) async fn a_handle_comes_with_every_claim_after_a_loss(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    attach(t, &lease, "r1").await;
    assert_eq!(t.get(id).await.attempts[0].handle, Some(handle("r1")));
    // Lost, then handed back, then crashed: it is known as long as the work may go on.
    t.pass(LEASE + GRACE).await;
    let (lease, known, _) = claim_with_handle(t).await;
    assert_eq!(known, Some(handle("r1")));
    assert_eq!(t.get(id).await.attempts[1].handle, Some(handle("r1")));
    t.settle(&lease, Ending::Released { begun: true }).await.unwrap();
    let (lease, known, _) = claim_with_handle(t).await;
    assert_eq!(known, Some(handle("r1")));
    t.settle(&lease, crashed()).await.unwrap();
    let (lease, known, _) = claim_with_handle(t).await;
    assert_eq!(known, Some(handle("r1")));
    t.succeed(&lease).await;
    assert_eq!(t.records(&[id]).await[0].handle, None);
}

pub(crate) async fn an_attempt_after_a_failure_begins_anew(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    attach(t, &lease, "r1").await;
    t.settle(&lease, retry(std::time::Duration::ZERO)).await.unwrap();
    let (lease, known, _) = claim_with_handle(t).await;
    assert_eq!(known, None);
    attach(t, &lease, "r2").await;
    t.pass(LEASE + GRACE).await;
    assert_eq!(claim_with_handle(t).await.1, Some(handle("r2")));
    let handles: Vec<_> = t.get(id).await.attempts.into_iter().map(|it| it.handle).collect();
    assert_eq!(handles, [Some(handle("r1")), Some(handle("r2")), Some(handle("r2"))]);
}

pub(crate) async fn a_stale_lease_attaches_nothing(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let stale = t.claim_one("p").await;
    t.pass(LEASE + GRACE).await;
    let lease = t.claim_one("p").await;
    let head = t.head().await;
    assert!(t.store.attach(stale, handle("r1")).await.unwrap().is_err());
    assert_eq!((t.head().await, t.get(id).await.attempts[1].handle.clone()), (head, None));
    t.succeed(&lease).await;
}

pub(crate) async fn what_goes_on_at_its_provider_is_claimed_to_be_stopped_there(t: &TestStore) {
    t.declare("p", 1).await;
    // Cancelled while it runs, and then lost.
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    attach(t, &lease, "r1").await;
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Requested));
    t.pass(LEASE + GRACE).await;
    assert_eq!(t.state(id).await, State::Pending);
    let (lease, known, cancelling) = claim_with_handle(t).await;
    assert_eq!((known, cancelling), (Some(handle("r1")), true));
    t.settle(&lease, cancelled()).await.unwrap();
    assert_eq!(t.state(id).await, State::Cancelled);
    // Lost, and then cancelled.
    let id = t.submit_with("p", |_| {}).await;
    attach(t, &t.claim_one("p").await, "r2").await;
    t.pass(LEASE + GRACE).await;
    assert_eq!(t.cancel(id).await, Some(CancelAnswer::Requested));
    assert_eq!(t.state(id).await, State::Pending);
    let (lease, known, cancelling) = claim_with_handle(t).await;
    assert_eq!((known, cancelling), (Some(handle("r2")), true));
    t.settle(&lease, succeeded("{}")).await.unwrap();
    assert_eq!(t.state(id).await, State::Succeeded);
}

pub(crate) async fn what_is_to_be_stopped_passes_a_closed_gate(t: &TestStore) {
    t.declare("p", 2).await;
    let id = t.submit_with("p", |_| {}).await;
    attach(t, &t.claim_one("p").await, "r1").await;
    let other = t.submit_with("p", |_| {}).await;
    t.pass(LEASE + GRACE).await;
    t.pause("p", None).await;
    assert_eq!(t.claim("p", 2).await.len(), 0);
    t.cancel(id).await;
    let (lease, known, cancelling) = claim_with_handle(t).await;
    assert_eq!((lease.id, known, cancelling), (id, Some(handle("r1")), true));
    t.settle(&lease, cancelled()).await.unwrap();
    assert_eq!((t.state(id).await, t.state(other).await), (State::Cancelled, State::Pending));
}

pub(crate) async fn what_cannot_be_stopped_ends_with_the_third_crash(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    attach(t, &t.claim_one("p").await, "r1").await;
    t.cancel(id).await;
    for _ in 0..2 {
        t.pass(LEASE + GRACE).await;
        t.claim_one("p").await;
    }
    t.pass(LEASE + GRACE).await;
    let execution = t.get(id).await;
    assert_eq!((execution.state, execution.crashes), (State::Cancelled, 3));
}

pub(crate) async fn what_must_not_be_repeated_fails_when_it_is_lost(t: &TestStore) {
    t.declare("p", 4).await;
    let fail = |spec: &mut flowgate::domain::Spec| spec.on_lost = OnLost::Fail;
    let lost = t.submit_with("p", fail).await;
    t.claim_one("p").await;
    t.pass(LEASE + GRACE).await;
    let released = t.submit_with("p", fail).await;
    t.settle(&t.claim_one("p").await, Ending::Released { begun: true }).await.unwrap();
    let panicked = t.submit_with("p", fail).await;
    t.settle(&t.claim_one("p").await, crashed()).await.unwrap();
    for id in [lost, released, panicked] {
        let execution = t.get(id).await;
        let code = execution.failure.map(|failure| failure.code);
        assert_eq!((execution.state, code), (State::Failed, Some(ErrorCode::Lost)));
        assert_eq!(execution.attempts.len(), 1);
    }
    // Nothing was done yet, or what was done can be taken up again.
    let unbegun = t.submit_with("p", fail).await;
    t.settle(&t.claim_one("p").await, Ending::Released { begun: false }).await.unwrap();
    assert_eq!(t.state(unbegun).await, State::Pending);
    t.succeed(&t.claim_one("p").await).await;
    let attached = t.submit_with("p", fail).await;
    attach(t, &t.claim_one("p").await, "r1").await;
    t.pass(LEASE + GRACE).await;
    assert_eq!(t.state(attached).await, State::Pending);
    assert_eq!(t.get(attached).await.spec.on_lost, OnLost::Fail);
}

pub(crate) async fn tokens_are_summed_by_provider_whatever_became_of_the_attempt(t: &TestStore) {
    t.declare("p", 3).await;
    t.declare("other", 1).await;
    let used = |input_tokens, output_tokens| Some(Usage { input_tokens, output_tokens });
    let failure = || Failure::new(ErrorCode::Permanent, false, "no");
    t.submit_plain("p", 3).await;
    let claimed = t.claim("p", 3).await;
    let endings = [
        Ending::Succeeded { output: "{}".into(), usage: used(1, 10) },
        Ending::Failed { failure: failure(), output: None, usage: used(2, 20) },
        Ending::Retry { failure: failure(), delay: SECOND, charged: true, usage: used(4, 40) },
    ];
    for (claimed, ending) in claimed.iter().zip(endings) {
        t.settle(&claimed.lease, ending).await.unwrap();
    }
    let attempts = t.get(claimed[2].spec.id).await.attempts;
    assert_eq!(attempts[0].end.as_ref().map(|end| end.cause), Some(EndCause::Failed));
    let rows = t.store.providers().await.unwrap();
    let of = |provider: &str| {
        let row = rows.iter().find(|row| row.record.name == name(provider)).unwrap();
        (row.usage.input_tokens, row.usage.output_tokens)
    };
    assert_eq!((of("p"), of("other")), ((7, 70), (0, 0)));
}

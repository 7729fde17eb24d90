//! Leases: renewed, reclaimed in time, and fenced once lost.

use flowgate::domain::{
    Chunk, ChunkContent, EndCause, Fenced, Lease, OutputStream, State, Token, WorkerId,
};
use flowgate::store::Renewed;

use crate::store::fixture::{GRACE, LEASE, SECOND, TestStore, failed, name, retry, succeeded};

pub(crate) async fn a_lease_is_reclaimed_only_after_its_expiry_and_the_grace(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.claim_one("p").await;
    assert_eq!(t.pass(LEASE).await.reclaimed, []);
    assert_eq!(t.pass(GRACE - SECOND).await.reclaimed, []);
    assert_eq!(t.state(id).await, State::Running);
    assert_eq!(t.pass(SECOND).await.reclaimed, [(id, name("p"))]);
    let execution = t.get(id).await;
    assert_eq!((execution.state, execution.crashes, execution.charged), (State::Pending, 1, 0));
    assert_eq!(execution.attempts[0].end.as_ref().unwrap().cause, EndCause::Lost);
    assert_eq!(t.pass(LEASE * 2).await.reclaimed, []);
}

pub(crate) async fn a_renewed_lease_is_not_reclaimed(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    let head = t.head().await;
    for _ in 0..5 {
        assert_eq!(t.pass(LEASE - SECOND).await.reclaimed, []);
        let renewed = t.store.renew(vec![lease.clone()], LEASE).await.unwrap();
        assert_eq!(renewed, [(lease.id, Renewed::Held { cancel_requested: false })]);
    }
    assert_eq!(t.head().await, head, "a renewal is not logged");
    t.succeed(&lease).await;
}

pub(crate) async fn a_renewal_tells_which_leases_are_lost_and_which_are_to_be_cancelled(
    t: &TestStore,
) {
    t.declare("p", 3).await;
    let ids = t.submit_plain("p", 3).await;
    let leases: Vec<_> = t.claim("p", 3).await.into_iter().map(|c| c.lease).collect();
    t.cancel(ids[1]).await;
    t.succeed(&leases[2]).await;
    let unknown = Lease { id: flowgate::domain::ExecutionId::new(), ..leases[0].clone() };
    let renewals = leases.iter().chain([&unknown]).cloned().collect();
    let expected = [
        (ids[0], Renewed::Held { cancel_requested: false }),
        (ids[1], Renewed::Held { cancel_requested: true }),
        (ids[2], Renewed::Lost),
        (unknown.id, Renewed::Lost),
    ];
    assert_eq!(t.store.renew(renewals, LEASE).await.unwrap(), expected);
}

pub(crate) async fn recovery_takes_back_what_other_workers_left_running(t: &TestStore) {
    t.declare("p", 3).await;
    t.declare("q", 3).await;
    let mut left = t.submit_plain("p", 2).await;
    t.claim("p", 2).await;
    left.extend(t.submit_plain("q", 1).await);
    t.claim("q", 2).await;
    let mut boot = t.claim_of(&[("p", 1)]);
    boot.worker = WorkerId::new();
    let own = t.submit_with("p", |_| {}).await;
    let worker = boot.worker;
    t.store.claim(boot).await.unwrap();
    let mut recovered = t.store.recover(worker).await.unwrap();
    recovered.sort();
    let expected = [(left[0], name("p")), (left[1], name("p")), (left[2], name("q"))];
    assert_eq!(recovered, expected);
    assert_eq!(t.state(own).await, State::Running);
    assert_eq!(t.state(left[0]).await, State::Pending);
    assert_eq!(t.store.recover(worker).await.unwrap(), []);
}

async fn assert_powerless(t: &TestStore, stale: &Lease) {
    let head = t.head().await;
    let records = t.records(&[stale.id]).await;
    for ending in [succeeded("[]"), failed(), retry(SECOND)] {
        assert_eq!(t.settle(stale, ending).await, Err(Fenced));
    }
    let content = ChunkContent::Text("late".to_owned());
    let chunk = Chunk { attempt: 1, index: 0, stream: OutputStream::Result, content };
    assert_eq!(t.store.append_output(stale.clone(), vec![chunk]).await.unwrap(), Err(Fenced));
    let renewed = t.store.renew(vec![stale.clone()], LEASE * 9).await.unwrap();
    assert_eq!(renewed, [(stale.id, Renewed::Lost)]);
    assert_eq!(t.head().await, head);
    assert_eq!(t.records(&[stale.id]).await, records);
    assert_eq!(t.get(stale.id).await.output, None);
}

pub(crate) async fn a_stale_lease_changes_nothing(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_with("p", |_| {}).await;
    let stale = t.claim_one("p").await;
    t.pass(LEASE + GRACE).await;
    assert_powerless(t, &stale).await;
    let lease = t.claim_one("p").await;
    assert_eq!((lease.id, lease.token), (stale.id, Token(2)));
    assert_powerless(t, &stale).await;
    t.succeed(&lease).await;
}

pub(crate) async fn the_lease_of_another_worker_changes_nothing(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    assert_powerless(t, &Lease { owner: WorkerId::new(), ..lease.clone() }).await;
    assert_powerless(t, &Lease { token: Token(9), ..lease }).await;
}

pub(crate) async fn a_lease_ends_with_the_settlement(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.settle(&lease, failed()).await.unwrap();
    assert_powerless(t, &lease).await;
}

pub(crate) async fn a_lost_lease_counts_against_the_limit_until_it_is_reclaimed(t: &TestStore) {
    t.declare("p", 1).await;
    t.submit_plain("p", 2).await;
    t.claim("p", 1).await;
    t.clock.advance(LEASE * 2);
    assert_eq!(t.claim("p", 1).await.len(), 0);
    t.pass(SECOND).await;
    assert_eq!(t.claim("p", 1).await.len(), 1);
}

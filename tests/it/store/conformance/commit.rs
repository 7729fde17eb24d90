//! Group commit: shared by neighbours, felt by none of them.

use flowgate::domain::{Fenced, Limits, State, Told};
use flowgate::store::{CancelAnswer, Renewed, Settlement, StoreError, Submitted};
use futures_util::{join, poll};
use std::pin::pin;

use crate::store::fixture::{GRACE, LEASE, TestStore, limit_change, name, succeeded};

pub(crate) async fn operations_that_wait_together_share_a_commit_and_get_their_own_answers(
    t: &TestStore,
) {
    t.declare("p", 3).await;
    let ids = t.submit_plain("p", 5).await;
    let held = t.claim("p", 2).await;
    let (first, second) = (held[0].lease.clone(), held[1].lease.clone());
    let before = t.store.commit_stats();
    let new = t.new_with("p", |_| {});
    let new_id = new.spec.id;
    let stale = flowgate::domain::Lease { token: flowgate::domain::Token(7), ..second.clone() };
    let store = &t.store;
    let answers = join!(
        store.claim(t.claim_of(&[("p", 9)])),
        store.submit(vec![new]),
        store.advance(GRACE),
        store.settle(Settlement::new(first.clone(), succeeded("[1]"))),
        store.settle(Settlement::new(stale, succeeded("[2]"))),
        store.renew(vec![second.clone()], LEASE),
        store.cancel(vec![ids[4], second.id], "x".to_owned()),
        store.declare(vec![(name("q"), Limits::concurrent(1))]),
    );
    let after = t.store.commit_stats();
    // A shared database has three ways in, which do not wait for each other.
    let ways = if t.backend.kind().is_exclusive() { 1 } else { 3 };
    assert_eq!((after.commits, after.operations), (before.commits + ways, before.operations + 8));
    let mut claimed: Vec<_> = answers.0.unwrap().claimed.into_iter().map(|c| c.lease.id).collect();
    if ways > 1 && claimed.len() < 2 {
        claimed.extend(t.claim("p", 9).await.into_iter().map(|c| c.lease.id));
    }
    assert_eq!(claimed, ids[2..4], "one slot was free and one was freed");
    let submitted = answers.1.unwrap().unwrap();
    let [Submitted::New { revision, .. }] = submitted[..] else { panic!("{submitted:?}") };
    assert_eq!(revision, t.get(new_id).await.revision);
    assert_eq!(answers.2.unwrap().reclaimed, []);
    assert_eq!(answers.3.unwrap(), Ok(()));
    assert_eq!(answers.4.unwrap(), Err(Fenced));
    let renewed = answers.5.unwrap();
    assert!(matches!(renewed[..], [(id, Renewed::Held { .. })] if id == second.id), "{renewed:?}");
    let cancelled = [(ids[4], CancelAnswer::Cancelled), (second.id, CancelAnswer::Requested)];
    assert_eq!(answers.6.unwrap(), cancelled);
    assert_eq!(answers.7.unwrap().len(), 1);
    assert_eq!(t.get(first.id).await.output.as_deref(), Some("[1]"));
}

pub(crate) async fn an_operation_whose_caller_went_away_is_still_done(t: &TestStore) {
    let new = t.new_with("p", |_| {});
    let id = new.spec.id;
    {
        let mut submit = pin!(t.store.submit(vec![new]));
        assert!(poll!(&mut submit).is_pending());
    }
    // Answered after everything that was asked for before.
    t.store.advance(GRACE).await.unwrap();
    assert_eq!(t.state(id).await, State::Pending);
}

pub(crate) async fn an_operation_that_fails_does_not_take_its_neighbours_down(t: &TestStore) {
    t.declare("p", 1).await;
    let stored = t.new_with("p", |_| {});
    let taken = stored.spec.id;
    t.submit(stored).await;
    let (one, two) = (t.new_with("p", |_| {}), t.new_with("p", |_| {}));
    // An id that is there already makes the whole statement fail.
    let twin = t.new_with("p", |spec| spec.id = taken);
    let (first, second) = (one.spec.id, two.spec.id);
    let limits = vec![limit_change("p", Some(4))];
    let any = flowgate::store::ExpectedRevision::Any;
    let answers = join!(
        t.store.submit(vec![one]),
        t.store.submit(vec![t.new_with("p", |_| {}), twin]),
        t.store.submit(vec![two]),
        t.store.set_limits(limits, Told::by_itself("x"), any, false),
    );
    assert!(answers.0.is_ok() && answers.2.is_ok() && answers.3.is_ok());
    assert!(matches!(answers.1, Err(StoreError::Unavailable(_))));
    let query = flowgate::store::ListQuery { limit: 9, ..Default::default() };
    assert_eq!(t.store.list(&query).await.unwrap(), [second, first, taken]);
}

pub(crate) async fn a_closed_store_finishes_what_it_was_given(t: &TestStore) {
    let tasks = flowgate::tasks::Tasks::default();
    let store = flowgate::store::Store::start(t.backend.clone(), t.clock.clone(), &tasks);
    let new = t.new_with("p", |_| {});
    let id = new.spec.id;
    {
        let mut submit = pin!(store.submit(vec![new]));
        assert!(poll!(&mut submit).is_pending());
    }
    drop(store);
    tasks.ended().await;
    assert_eq!(t.state(id).await, State::Pending);
}

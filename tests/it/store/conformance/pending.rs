//! How many executions may be pending.

use flowgate::domain::{Bound, Limits, Overrides};
use flowgate::store::{NewExecution, SubmitRefused, Submitted};
use futures_util::future::join_all;

use crate::store::fixture::{SECOND, TestStore, name, retry};

async fn declare(t: &TestStore, max_pending: u32) {
    t.declare_limits("p", Limits { max_pending: Some(max_pending), ..Limits::concurrent(1) }).await;
}

async fn submit(t: &TestStore, new: Vec<NewExecution>) -> Result<Vec<Submitted>, SubmitRefused> {
    t.store.submit(new).await.unwrap()
}

fn plain(t: &TestStore) -> NewExecution {
    t.new_with("p", |_| {})
}

async fn pending(t: &TestStore) -> u64 {
    let rows = t.store.providers().await.unwrap();
    rows.iter().find(|row| row.record.name == name("p")).unwrap().pending
}

pub(crate) async fn a_full_queue_takes_nothing_more_until_something_starts(t: &TestStore) {
    declare(t, 2).await;
    let scheduled = t.new_with("p", |spec| spec.schedule_at = Some(spec.created_at + SECOND));
    submit(t, vec![plain(t), scheduled]).await.unwrap();
    let full = |pending| Err(SubmitRefused::TooManyPending { index: 0, max: 2, pending });
    assert_eq!(submit(t, vec![plain(t)]).await, full(2));
    let lease = t.claim_one("p").await;
    assert!(submit(t, vec![plain(t)]).await.is_ok());
    // What comes back is not refused, and counts.
    t.settle(&lease, retry(SECOND)).await.unwrap();
    assert_eq!((pending(t).await, submit(t, vec![plain(t)]).await), (3, full(3)));
    let unbounded = Overrides { max_pending: Some(Bound::Unbounded), ..Overrides::default() };
    t.override_limits("p", unbounded, None).await;
    assert!(submit(t, vec![plain(t), plain(t)]).await.is_ok());
    t.submit_plain("another", 9).await;
}

pub(crate) async fn a_batch_that_does_not_fit_stores_nothing_of_it(t: &TestStore) {
    declare(t, 3).await;
    t.declare("q", 1).await;
    let head = t.head().await;
    let other = t.new_with("q", |_| {});
    let batch = vec![plain(t), other, plain(t), plain(t), plain(t)];
    let refused = SubmitRefused::TooManyPending { index: 4, max: 3, pending: 0 };
    assert_eq!(submit(t, batch).await, Err(refused));
    assert_eq!(t.head().await, head, "all or none");
    assert!(submit(t, vec![plain(t), plain(t), plain(t)]).await.is_ok());
}

pub(crate) async fn a_repeated_request_passes_a_full_queue(t: &TestStore) {
    declare(t, 2).await;
    let named = || t.new_with("p", |spec| spec.request_id = Some("once".to_owned()));
    let first = named();
    let id = first.spec.id;
    // Named twice in one batch it counts once.
    submit(t, vec![first, named(), plain(t)]).await.unwrap();
    assert_eq!(submit(t, vec![named()]).await, Ok(vec![Submitted::Replayed(id)]));
    let with_more = submit(t, vec![named(), plain(t)]).await;
    assert_eq!(with_more, Err(SubmitRefused::TooManyPending { index: 1, max: 2, pending: 2 }));
}

pub(crate) async fn submissions_at_once_fill_a_queue_exactly(t: &TestStore) {
    declare(t, 7).await;
    let answers = join_all((0..20).map(|_| submit(t, vec![plain(t)]))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    assert_eq!(pending(t).await, 7);
}

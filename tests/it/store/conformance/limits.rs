//! Limits: declared, overridden, reset.

use flowgate::domain::{Clock, LimitUpdate, Limits, Told};
use flowgate::store::{ExpectedRevision, LimitChange, ProviderRow, SetLimitsError};
use futures_util::future::join;

use crate::store::fixture::{SECOND, TestStore, limit_change, name};

async fn row(t: &TestStore, provider: &str) -> ProviderRow {
    let rows = t.store.providers().await.unwrap();
    rows.into_iter().find(|row| row.record.name == name(provider)).expect("it is declared")
}

async fn set(
    t: &TestStore,
    provider: &str,
    max_concurrent: u32,
    expected: ExpectedRevision,
    validate_only: bool,
) -> Result<Vec<ProviderRow>, SetLimitsError> {
    let changes = vec![limit_change(provider, Some(max_concurrent))];
    t.store.set_limits(changes, Told::by_itself("test"), expected, validate_only).await.unwrap()
}

pub(crate) async fn declaring_the_same_again_changes_nothing(t: &TestStore) {
    let limits = |max_concurrent| vec![(name("p"), Limits::concurrent(max_concurrent))];
    assert_eq!(t.store.declare(limits(2)).await.unwrap(), limits(2));
    assert_eq!(t.store.declare(limits(2)).await.unwrap(), []);
    assert_eq!(t.head().await, 1);
    assert_eq!(t.store.declare(limits(3)).await.unwrap(), limits(3));
    assert_eq!(row(t, "p").await.record.limits_revision, 2);
}

pub(crate) async fn an_override_outlives_a_new_declaration_until_it_is_reset(t: &TestStore) {
    t.declare("p", 2).await;
    t.limit("p", Some(9)).await;
    t.declare("p", 3).await;
    let record = row(t, "p").await.record;
    assert_eq!((record.declared.max_concurrent, record.effective().max_concurrent), (3, 9));
    t.limit("p", None).await;
    let record = row(t, "p").await.record;
    assert_eq!((record.overriding.max_concurrent, record.effective().max_concurrent), (None, 3));
    let head = t.head().await;
    t.limit("p", None).await;
    assert_eq!(t.head().await, head, "a reset of what is not overridden changes nothing");
}

pub(crate) async fn limits_changed_since_the_expected_revision_are_left_alone(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 1).await;
    t.limit("p", Some(5)).await;
    let changed = set(t, "p", 7, ExpectedRevision::Newest(2), false).await;
    assert_eq!(changed, Err(SetLimitsError::Changed { current: 3 }));
    assert_eq!(row(t, "p").await.record.effective().max_concurrent, 5);
    assert!(set(t, "p", 7, ExpectedRevision::Newest(3), false).await.is_ok());
    assert_eq!(row(t, "p").await.record.limits_revision, 4);
}

pub(crate) async fn limits_changed_at_the_same_moment_are_left_alone(t: &TestStore) {
    t.declare("p", 2).await;
    let expected = ExpectedRevision::Newest(1);
    let both = join(set(t, "p", 5, expected, false), set(t, "p", 6, expected, false)).await;
    assert!(both.0.is_ok());
    assert!(matches!(both.1, Err(SetLimitsError::Changed { .. })));
    assert_eq!(row(t, "p").await.record.effective().max_concurrent, 5);
}

pub(crate) async fn the_expected_revision_counts_limits_that_are_kept(t: &TestStore) {
    t.declare("p", 2).await;
    t.declare("q", 2).await;
    t.limit("q", Some(5)).await;
    let kept = |provider| LimitChange {
        provider: name(provider),
        update: LimitUpdate::Keep,
        expires_at: None,
    };
    let set = async |changes, expected| {
        let expected = ExpectedRevision::Newest(expected);
        t.store.set_limits(changes, Told::by_itself("test"), expected, false).await.unwrap()
    };
    let changed = Err(SetLimitsError::Changed { current: 3 });
    assert_eq!(set(vec![limit_change("p", Some(7)), kept("q")], 1).await, changed);
    assert_eq!(set(vec![kept("q"), kept("p")], 2).await, changed);
    assert_eq!(t.head().await, 3, "nothing was set");
    let rows = set(vec![kept("q"), limit_change("p", Some(7))], 3).await.unwrap();
    let shown: Vec<_> = rows.iter().map(|row| row.record.effective().max_concurrent).collect();
    assert_eq!((shown, t.head().await), (vec![5, 7], 4));
    assert_eq!(row(t, "q").await.record.limits_revision, 3, "kept limits are not changed");
}

pub(crate) async fn validating_changes_nothing(t: &TestStore) {
    t.declare("p", 2).await;
    let rows = set(t, "p", 5, ExpectedRevision::Any, true).await.unwrap();
    assert_eq!(rows[0].record.effective().max_concurrent, 5, "shown as it would be");
    assert_eq!(row(t, "p").await.record.effective().max_concurrent, 2);
    assert_eq!(t.head().await, 1);
}

pub(crate) async fn an_unknown_provider_leaves_all_limits_alone(t: &TestStore) {
    t.declare("p", 2).await;
    let changes = vec![limit_change("p", Some(5)), limit_change("nobody", Some(5))];
    let set = t.store.set_limits(changes, Told::by_itself("test"), ExpectedRevision::Any, false);
    assert_eq!(set.await.unwrap(), Err(SetLimitsError::UnknownProvider(name("nobody"))));
    assert_eq!(t.head().await, 1);
}

pub(crate) async fn providers_are_shown_with_what_they_have_to_do(t: &TestStore) {
    t.declare("q", 1).await;
    t.declare("p", 1).await;
    let oldest = t.clock.now();
    t.submit_plain("p", 3).await;
    t.clock.advance(SECOND);
    t.submit_with("p", |spec| spec.schedule_at = Some(spec.created_at + SECOND)).await;
    t.claim("p", 1).await;
    t.pause("p", Some(oldest + SECOND * 60)).await;
    let rows = t.store.providers().await.unwrap();
    let names: Vec<_> = rows.iter().map(|row| row.record.name.as_str()).collect();
    assert_eq!(names, ["p", "q"]);
    assert_eq!((rows[0].running, rows[0].pending, rows[0].oldest_ready), (1, 3, Some(oldest)));
    assert_eq!((rows[1].running, rows[1].pending, rows[1].oldest_ready), (0, 0, None));
    let record = &rows[0].record;
    let pause = record.pause.as_ref().unwrap();
    assert_eq!((pause.reason.as_str(), pause.until), ("maintenance", Some(oldest + SECOND * 60)));
    assert_eq!((record.limits_revision, record.gate_revision), (2, t.head().await));
}

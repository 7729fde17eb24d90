//! Limits: declared, overridden, reset.

use flowgate::domain::{
    AdaptiveBounds, Bound, Change, Clock, LimitUpdate, Limits, Overrides, RateOverrides, Told,
};
use flowgate::store::{ExpectedRevision, LimitChange, ProviderRow, SetLimitsError};
use futures_util::future::join;

use crate::store::fixture::{GRACE, SECOND, TestStore, limit_change, name};

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

pub(crate) async fn no_more_models_have_limits_than_a_provider_may_have(t: &TestStore) {
    t.declare("p", 2).await;
    let set = async |names: std::ops::Range<u32>| {
        let models = names.map(|n| (format!("model-{n}"), RateOverrides::default())).collect();
        let update = LimitUpdate::Set(Overrides { models, ..Overrides::default() });
        let change = LimitChange { provider: name("p"), update, expires_at: None };
        let told = Told::by_itself("test");
        t.store.set_limits(vec![change], told, ExpectedRevision::Any, false).await.unwrap()
    };
    assert!(set(0..32).await.is_ok());
    assert!(set(30..32).await.is_ok(), "these it has already");
    let head = t.head().await;
    assert_eq!(set(31..33).await, Err(SetLimitsError::TooManyModels(name("p"))));
    assert_eq!(t.head().await, head);
}

pub(crate) async fn limits_set_for_a_time_return_to_what_they_were(t: &TestStore) {
    t.declare("p", 2).await;
    t.limit("p", Some(3)).await;
    let expires_at = Some(t.clock.now() + SECOND * 60);
    let change = LimitChange { expires_at, ..limit_change("p", Some(9)) };
    let told = Told { reason: "a rush".to_owned(), actor: "ops".to_owned() };
    t.store.set_limits(vec![change], told, ExpectedRevision::Any, false).await.unwrap().unwrap();
    let advance = async || t.store.advance(GRACE).await.unwrap();
    assert_eq!(advance().await.next_due, expires_at);
    let record = row(t, "p").await.record;
    assert_eq!((record.effective().max_concurrent, record.due_at()), (9, expires_at));
    let head = t.head().await;
    t.clock.advance(SECOND * 60);
    assert_eq!(advance().await.next_due, None);
    let record = row(t, "p").await.record;
    assert_eq!((record.effective().max_concurrent, record.expiry), (3, None));
    assert_eq!((t.head().await, record.limits_revision), (head + 1, head + 1));
    advance().await;
    assert_eq!(t.head().await, head + 1, "once is enough");
}

pub(crate) async fn changes_of_limits_are_read_newest_first(t: &TestStore) {
    t.declare("q", 5).await;
    t.declare("p", 2).await;
    t.limit("p", Some(3)).await;
    t.submit_plain("p", 1).await;
    t.pause("p", None).await;
    t.limit("q", Some(4)).await;
    t.limit("p", None).await;
    let read = async |before, limit| {
        let changes = t.store.limit_changes(&name("p"), before, limit).await.unwrap();
        let told = changes.iter().map(|event| match &event.change {
            Change::LimitsChanged { effective, .. } => (event.revision, effective.max_concurrent),
            other => panic!("no change of limits: {other:?}"),
        });
        told.collect::<Vec<_>>()
    };
    let head = t.head().await;
    assert_eq!(read(i64::MAX, 10).await, [(head, 2), (3, 3), (2, 2)]);
    assert_eq!(read(i64::MAX, 1).await, [(head, 2)]);
    assert_eq!(read(head, 1).await, [(3, 3)]);
    assert_eq!(read(2, 1).await, []);
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
    assert_eq!((rows[0].ready, rows[1].ready), (2, 0));
    assert_eq!((rows[1].running, rows[1].pending, rows[1].oldest_ready), (0, 0, None));
    let record = &rows[0].record;
    let pause = record.pause.as_ref().unwrap();
    assert_eq!((pause.reason.as_str(), pause.until), ("maintenance", Some(oldest + SECOND * 60)));
    assert_eq!((record.limits_revision, record.gate_revision), (2, t.head().await));
}

fn wide(max_concurrent: u32, max_pending: u32) -> Overrides {
    let max_pending = Some(Bound::At(max_pending));
    Overrides { max_pending, ..Overrides::concurrent(max_concurrent) }
}

async fn in_force(t: &TestStore) -> (u32, Option<u32>) {
    let limits = t.provider("p").await.effective();
    (limits.max_concurrent, limits.max_pending)
}

pub(crate) async fn limits_set_for_a_time_return_to_what_was_before(t: &TestStore) {
    t.declare("p", 2).await;
    t.limit("p", Some(5)).await;
    let until = t.clock.now() + 10 * SECOND;
    t.override_limits("p", wide(9, 7), Some(until)).await;
    assert_eq!(in_force(t).await, (9, Some(7)));
    let early = t.pass(9 * SECOND).await;
    assert_eq!((in_force(t).await, early.next_due), ((9, Some(7)), Some(until)));
    t.pass(SECOND).await;
    assert_eq!((in_force(t).await, t.provider("p").await.expiry), ((5, None), None));
    let newest = t.log().await.pop().unwrap();
    let Change::LimitsChanged { overriding, expires_at, .. } = newest.change else {
        panic!("{newest:?}")
    };
    assert_eq!((overriding, expires_at), (Some(Box::new(Overrides::concurrent(5))), None));
    t.submit_plain("p", 9).await;
    assert_eq!(t.claim("p", 9).await.len(), 5);
    let head = t.head().await;
    t.pass(10 * SECOND).await;
    assert_eq!(t.head().await, head, "once");
}

pub(crate) async fn limits_set_for_a_time_twice_return_to_what_held_for_good(t: &TestStore) {
    t.declare("p", 2).await;
    let at = |seconds: u32| Some(t.clock.now() + seconds * SECOND);
    t.override_limits("p", wide(9, 7), at(10)).await;
    t.override_limits("p", Overrides::concurrent(4), at(20)).await;
    t.pass(10 * SECOND).await;
    assert_eq!(in_force(t).await, (4, Some(7)), "the later word counts for both");
    t.pass(10 * SECOND).await;
    assert_eq!(in_force(t).await, (2, None));
}

pub(crate) async fn what_is_set_for_good_meanwhile_stays(t: &TestStore) {
    t.declare("p", 2).await;
    t.override_limits("p", wide(9, 7), Some(t.clock.now() + 10 * SECOND)).await;
    t.limit("p", Some(3)).await;
    assert_eq!(in_force(t).await, (3, Some(7)), "at once");
    t.pass(10 * SECOND).await;
    assert_eq!(in_force(t).await, (3, None), "and what was set for a time ends all the same");
    t.override_limits("p", wide(9, 7), Some(t.clock.now() + 10 * SECOND)).await;
    t.limit("p", None).await;
    assert_eq!((in_force(t).await, t.provider("p").await.expiry), ((2, None), None));
}

async fn adapted(t: &TestStore) -> Option<u32> {
    t.provider("p").await.adapted.map(|adapted| adapted.limit())
}

pub(crate) async fn a_limit_that_moves_by_itself_stays_within_its_bounds(t: &TestStore) {
    let adaptive = Some(AdaptiveBounds { min: 2, max: 4, target_latency: None });
    t.declare_limits("p", Limits { adaptive, ..Limits::concurrent(10) }).await;
    assert_eq!(in_force(t).await.0, 4);
    t.submit_plain("p", 20).await;
    assert_eq!(t.claim("p", 9).await.len(), 4);
    t.limit("p", Some(3)).await;
    assert_eq!((in_force(t).await.0, adapted(t).await), (3, Some(3)));
    t.limit("p", Some(1)).await;
    assert_eq!(in_force(t).await.0, 2);
    let fixed = Overrides { adaptive: Some(Bound::Unbounded), ..Overrides::concurrent(1) };
    t.override_limits("p", fixed, Some(t.clock.now() + SECOND)).await;
    assert_eq!((in_force(t).await.0, adapted(t).await), (1, None));
    t.pass(SECOND).await;
    assert_eq!((in_force(t).await.0, adapted(t).await), (2, Some(2)));
}

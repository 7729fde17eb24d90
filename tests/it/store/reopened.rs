//! What a provider's row keeps of its limits, its gates and its budgets, whoever opens the store next.

use flowgate::domain::{
    AdaptiveBounds, Bound, Clock, GateState, HeldBy, Limits, Overrides, RateOverrides, Rates,
    Signal,
};

use super::fixture::{SECOND, TestStore, ids, succeeded};
use crate::support::{Db, on_both};

on_both! {
    #[tokio::test]
    everything_that_is_limited_outlives_a_restart;
    #[tokio::test]
    what_is_held_back_outlives_a_restart;
    #[tokio::test]
    limits_set_for_a_time_end_after_a_restart_too;
}

fn everything() -> Limits {
    let rates = |factor| Rates {
        requests_per_minute: Some(factor),
        input_tokens_per_minute: Some(1_000 * factor),
        output_tokens_per_minute: Some(u64::MAX / 2),
    };
    Limits {
        max_concurrent: 7,
        rates: rates(9),
        max_pending: Some(70),
        adaptive: Some(AdaptiveBounds { min: 1, max: 9, target_latency: Some(3 * SECOND) }),
        models: [("m".to_owned(), rates(2)), ("a \"model\": {}".to_owned(), rates(3))].into(),
    }
}

async fn everything_that_is_limited_outlives_a_restart(db: Db) {
    let t = TestStore::open(db).await;
    t.declare_limits("p", everything()).await;
    let output = Some(Bound::Unbounded);
    let rates = RateOverrides { output_tokens_per_minute: output, ..RateOverrides::default() };
    let overrides = Overrides {
        rates,
        max_pending: Some(Bound::At(3)),
        models: [("n".to_owned(), rates)].into(),
        ..Overrides::concurrent(5)
    };
    t.override_limits("p", overrides, Some(t.clock.now() + 60 * SECOND)).await;
    let waiting = t.submit_demanding("p", Some("m"), (10, 10)).await;
    let before = t.provider("p").await;
    assert_eq!(before.effective().max_concurrent, 5);
    assert_eq!(before.effective().max_pending, Some(3));
    let records = t.records(&[waiting]).await;
    let t = t.reopen().await;
    assert_eq!(t.provider("p").await, before);
    assert_eq!(t.records(&[waiting]).await, records);
    assert_eq!(ids(&t.claim("p", 9).await), [waiting]);
    t.check().await;
}

async fn what_is_held_back_outlives_a_restart(db: Db) {
    let t = TestStore::open(db).await;
    let one = Rates { requests_per_minute: Some(1), ..Rates::default() };
    let wide = Rates { requests_per_minute: Some(99), ..Rates::default() };
    let models = [("m".to_owned(), wide), ("n".to_owned(), one)].into();
    t.declare_limits("p", Limits { models, ..Limits::concurrent(9) }).await;
    t.submit_demanding("p", Some("m"), (0, 0)).await;
    let first = t.claim("p", 1).await;
    let signal = Signal::RateLimited { retry_after: Some(90 * SECOND), message: String::new() };
    t.settle_telling(&first[0], succeeded("1"), Some(signal)).await;
    let of_m = t.submit_demanding("p", Some("m"), (0, 0)).await;
    t.submit_demanding("p", Some("n"), (0, 0)).await;
    let of_n = t.submit_demanding("p", Some("n"), (0, 0)).await;
    assert_eq!(t.claim("p", 9).await.len(), 1);
    let held = t.provider("p").await.gate();
    let GateState::Held(holds) = &held else { panic!("{held:?}") };
    assert!(
        matches!(holds[0].by, HeldBy::Closed { .. }) && matches!(holds[1].by, HeldBy::Rate { .. })
    );

    let t = t.reopen().await;
    assert_eq!(t.provider("p").await.gate(), held);
    let head = t.head().await;
    assert_eq!(t.claim("p", 9).await.len(), 0);
    assert_eq!(t.head().await, head, "and is not told again");
    t.clock.advance(61 * SECOND);
    assert_eq!(ids(&t.claim("p", 9).await), [of_n]);
    t.clock.advance(29 * SECOND);
    let probe = t.claim("p", 9).await;
    assert_eq!((ids(&probe), probe[0].probe), (vec![of_m], true));
    let t = t.reopen().await;
    t.settle_telling(&probe[0], succeeded("1"), Some(Signal::Answered)).await;
    assert_eq!(t.provider("p").await.gate(), GateState::Open);
    t.check().await;
}

async fn limits_set_for_a_time_end_after_a_restart_too(db: Db) {
    let t = TestStore::open(db).await;
    t.declare("p", 2).await;
    let until = t.clock.now() + 10 * SECOND;
    t.override_limits("p", Overrides::concurrent(9), Some(until)).await;
    t.override_limits("p", Overrides::concurrent(4), Some(until)).await;
    let t = t.reopen().await;
    assert_eq!(t.provider("p").await.effective().max_concurrent, 4);
    assert_eq!(t.pass(9 * SECOND).await.next_due, Some(until));
    let t = t.reopen().await;
    t.pass(SECOND).await;
    assert_eq!(t.provider("p").await.effective().max_concurrent, 2);
    t.check().await;
}

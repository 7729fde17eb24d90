use std::time::Duration;

use proptest::prelude::*;

use super::{Adaptive, AdaptiveBounds, Observation, Quota, RETURN_PAUSE, Step, StepReason};
use crate::domain::Timestamp;

const SECOND: Duration = Duration::from_secs(1);
const BOUNDS: AdaptiveBounds = AdaptiveBounds { min: 1, max: 100, target_latency: None };

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000 + millis * 1_000)
}

fn answers(completed: u32) -> Observation {
    Observation { completed, ..Observation::default() }
}

fn timed(completed: u32, millis: u64) -> Observation {
    let mean_latency = Some(Duration::from_millis(millis));
    Observation { mean_latency, ..answers(completed) }
}

fn refused(claimed_at: Timestamp) -> Observation {
    Observation { rate_limited: Some(claimed_at), ..Observation::default() }
}

fn left(remaining: u64) -> Observation {
    Observation { quota: Some(Quota { remaining, limit: None }), ..answers(1) }
}

/// A limit of ten that was found too much, and is seven since `at(0)`.
fn lowered() -> Adaptive {
    let mut adaptive = Adaptive::new(10);
    let step = adaptive.hear(&BOUNDS, &refused(at(-10)), at(0));
    assert_eq!(step, Some(Step { from: 10, to: 7, reason: StepReason::RateLimited }));
    adaptive
}

/// Lets a round of answers come and looks whether the limit rises.
fn round(adaptive: &mut Adaptive, now: Timestamp) -> Option<Step> {
    let limit = adaptive.limit();
    assert_eq!(adaptive.hear(&BOUNDS, &answers(limit), now), None);
    adaptive.look(&BOUNDS, limit, true, now)
}

#[test]
fn the_limit_rises_only_where_it_binds_and_a_round_of_answers_has_come() {
    let mut adaptive = Adaptive::new(3);
    assert_eq!(adaptive.look(&BOUNDS, 3, true, at(0)), None, "nothing is known yet");
    adaptive.hear(&BOUNDS, &answers(3), at(0));
    assert_eq!(adaptive.look(&BOUNDS, 2, true, at(0)), None, "there is room already");
    assert_eq!(adaptive.look(&BOUNDS, 3, false, at(0)), None, "nothing waits for more");
    let step = adaptive.look(&BOUNDS, 3, true, at(0)).unwrap();
    assert_eq!((step.from, step.to), (3, 4));
    assert_eq!(
        step.to_string(),
        "raised from 3 to 4: more is ready, and 3 answers came without complaint"
    );
    adaptive.hear(&BOUNDS, &answers(40), at(1));
    assert_eq!(adaptive.look(&BOUNDS, 4, true, at(499)), None, "an answer may be on its way");
    assert_eq!(adaptive.look(&BOUNDS, 4, true, at(500)).unwrap().to, 5);
}

#[test]
fn several_answers_of_one_congestion_lower_it_once() {
    let mut adaptive = lowered();
    for claimed in [-50, -1, 0] {
        assert_eq!(adaptive.hear(&BOUNDS, &refused(at(claimed)), at(5)), None);
    }
    let again = adaptive.hear(&BOUNDS, &refused(at(6)), at(9)).unwrap();
    assert_eq!((again.from, again.to), (7, 5));
    assert_eq!(again.to_string(), "lowered from 7 to 5: the provider is rate limiting");
}

#[test]
fn it_returns_quickly_to_just_below_what_was_too_much_and_tries_that_after_a_while() {
    let mut adaptive = lowered();
    assert_eq!(round(&mut adaptive, at(250)).unwrap().to, 8);
    assert_eq!(round(&mut adaptive, at(500)).unwrap().to, 9);
    assert_eq!(round(&mut adaptive, at(1_000)), None);
    assert_eq!(round(&mut adaptive, at(9_900)), None);
    let trial = round(&mut adaptive, at(10_000)).unwrap();
    assert_eq!((trial.to, trial.reason), (10, StepReason::Trial { ceiling: 10 }));
    assert_eq!(trial.to_string(), "raised from 9 to 10: to see whether 10 is still too many");
    // It is not: the limit goes on as if it had never been.
    assert_eq!(round(&mut adaptive, at(10_500)).unwrap().to, 11);
    assert_eq!(round(&mut adaptive, at(11_000)).unwrap().to, 12);
    assert_eq!(round(&mut adaptive, at(11_500)).unwrap().to, 14);
}

#[test]
fn a_costly_way_back_makes_the_next_trial_late() {
    let mut adaptive = lowered();
    // The provider asked to be left alone for half a minute.
    assert_eq!(round(&mut adaptive, at(30_000)).unwrap().to, 8);
    assert_eq!(round(&mut adaptive, at(30_500)).unwrap().to, 9);
    assert_eq!(round(&mut adaptive, at(31_000)), None);
    assert_eq!(round(&mut adaptive, at(31_000 + 6 * 31_000 - 1)), None);
    assert!(round(&mut adaptive, at(31_000 + 6 * 31_000)).is_some());
}

#[test]
fn a_limit_that_cannot_be_lower_is_not_raised_at_once() {
    let mut adaptive = Adaptive::new(1);
    assert_eq!(adaptive.hear(&BOUNDS, &refused(at(-1)), at(0)), None);
    assert_eq!(round(&mut adaptive, at(1_000)), None);
    assert!(matches!(round(&mut adaptive, at(9_000)).unwrap().reason, StepReason::Trial { .. }));
}

#[test]
fn attempts_that_take_too_long_lower_it_once_a_round_that_began_under_it() {
    let bounds = AdaptiveBounds { target_latency: Some(SECOND), ..BOUNDS };
    let mut adaptive = Adaptive::new(20);
    assert_eq!(adaptive.hear(&bounds, &timed(20, 9_000), at(0)), None, "they began before");
    assert_eq!(adaptive.hear(&bounds, &timed(19, 3_000), at(1)), None);
    let step = adaptive.hear(&bounds, &timed(1, 3_000), at(2)).unwrap();
    assert_eq!((step.from, step.to), (20, 18));
    let said = "lowered from 20 to 18: attempts take 3.000 s on average, the target is 1.000 s";
    assert_eq!(step.to_string(), said);
    assert_eq!(adaptive.hear(&bounds, &timed(18, 3_000), at(3)), None);
    assert_eq!(adaptive.hear(&bounds, &timed(18, 900), at(900)), None);
    assert_eq!(adaptive.look(&bounds, 18, true, at(900)).unwrap().to, 19);
}

#[test]
fn what_is_not_known_to_be_fast_is_not_raised() {
    let bounds = AdaptiveBounds { target_latency: Some(SECOND), ..BOUNDS };
    let mut adaptive = Adaptive::new(4);
    adaptive.hear(&bounds, &timed(4, 100), at(0));
    adaptive.hear(&bounds, &timed(3, 100), at(0));
    assert_eq!(adaptive.look(&bounds, 4, true, at(0)), None);
    adaptive.hear(&bounds, &timed(1, 100), at(0));
    assert!(adaptive.look(&bounds, 4, true, at(0)).is_some());
}

#[test]
fn a_quota_that_runs_out_lowers_it_to_what_is_left_and_lets_it_rise_when_it_is_whole_again() {
    let mut adaptive = Adaptive::new(10);
    assert_eq!(adaptive.hear(&BOUNDS, &left(10), at(0)), None);
    let step = adaptive.hear(&BOUNDS, &left(9), at(1)).unwrap();
    assert_eq!((step.to, step.reason), (9, StepReason::Quota { remaining: 9 }));
    assert_eq!(
        step.to_string(),
        "lowered from 10 to 9: the provider takes 9 more requests for now"
    );
    assert_eq!(adaptive.hear(&BOUNDS, &left(8), at(2)), None, "that was said just now");
    assert_eq!(adaptive.hear(&BOUNDS, &left(4), at(3)).unwrap().to, 4);
    assert_eq!(adaptive.hear(&BOUNDS, &left(0), at(4)).unwrap().to, 1);
    adaptive.hear(&BOUNDS, &left(1), at(5_000));
    assert_eq!(adaptive.look(&BOUNDS, 1, true, at(5_000)), None, "no more is left");
    adaptive.hear(&BOUNDS, &left(500), at(6_000));
    assert_eq!(adaptive.look(&BOUNDS, 1, true, at(6_000)).unwrap().to, 2);
}

#[test]
fn other_bounds_move_it_into_them() {
    let mut adaptive = Adaptive::new(10);
    let narrow = AdaptiveBounds { min: 2, max: 4, target_latency: None };
    assert_eq!(adaptive.clone().clamped(&narrow).limit(), 4);
    let step = adaptive.look(&narrow, 0, false, at(0));
    assert_eq!(step, Some(Step { from: 10, to: 4, reason: StepReason::Bounds }));
    let high = AdaptiveBounds { min: 20, max: 7, target_latency: None };
    assert_eq!(adaptive.hear(&high, &answers(1), at(1)).unwrap().to, 20);
    let none = AdaptiveBounds { min: 0, max: 0, target_latency: None };
    assert_eq!(adaptive.hear(&none, &answers(1), at(2)).unwrap().to, 1);
}

#[test]
fn it_is_the_same_after_it_was_stored() {
    let mut adaptive = lowered();
    round(&mut adaptive, at(250));
    adaptive.hear(&BOUNDS, &Observation { quota: left(50).quota, ..timed(9, 70) }, at(300));
    let stored = serde_json::to_string(&adaptive).unwrap();
    assert_eq!(serde_json::from_str::<Adaptive>(&stored).unwrap(), adaptive);
    let early: Adaptive = serde_json::from_str(r#"{"limit":4}"#).unwrap();
    assert_eq!(early, Adaptive::new(4));
}

/// Anything that may happen to a limit.
#[derive(Debug, Clone)]
enum Act {
    Hear { completed: u32, millis: Option<u64>, refused: Option<u64>, left: Option<u64> },
    Look { running: u32, ready_left: bool },
    Bounds(AdaptiveBounds),
}

fn bounds() -> impl Strategy<Value = AdaptiveBounds> {
    let edge = || prop_oneof![0u32..30, Just(u32::MAX)];
    let target = proptest::option::of((1u64..2_000).prop_map(Duration::from_millis));
    (edge(), edge(), target).prop_map(|(min, max, target_latency)| AdaptiveBounds {
        min,
        max,
        target_latency,
    })
}

fn act() -> impl Strategy<Value = Act> {
    let hear = (
        prop_oneof![0u32..40, Just(u32::MAX)],
        proptest::option::of(prop_oneof![0u64..4_000, Just(u64::MAX / 1_000)]),
        proptest::option::weighted(0.2, 0u64..3_000),
        proptest::option::weighted(0.2, prop_oneof![0u64..40, Just(u64::MAX)]),
    );
    let hear = hear.prop_map(|(completed, millis, refused, left)| Act::Hear {
        completed,
        millis,
        refused,
        left,
    });
    // That the limit binds is what is most worth trying.
    let running = prop_oneof![0u32..40, Just(u32::MAX), Just(u32::MAX)];
    let look = (running, proptest::bool::weighted(0.8));
    let look = look.prop_map(|(running, ready_left)| Act::Look { running, ready_left });
    prop_oneof![5 => hear, 5 => look, 1 => bounds().prop_map(Act::Bounds)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whatever_happens_the_limit_keeps_to_its_bounds_its_pauses_and_one_step_per_congestion(
        start in prop_oneof![0u32..40, Just(u32::MAX)],
        first in bounds(),
        acts in proptest::collection::vec((act(), 0u32..1_500), 1..60),
    ) {
        let mut bounds = first;
        let mut adaptive = Adaptive::new(start).clamped(&bounds);
        let mut now = at(0);
        let (mut raised_at, mut refused_at, mut heard) = (None::<Timestamp>, None, 0u32);
        for (act, pass) in acts {
            now = now + Duration::from_millis(u64::from(pass));
            let from = adaptive.limit();
            let moved = bounds.nearest(from) != from;
            let (step, claimed_at, told) = match act {
                Act::Bounds(other) => {
                    bounds = other;
                    continue;
                }
                Act::Look { running, ready_left } => {
                    let step = adaptive.look(&bounds, running, ready_left, now);
                    if let Some(step) = step.filter(|_| !moved) {
                        prop_assert!(step.to > from && running >= from && ready_left);
                        prop_assert!(heard >= from, "{heard} answers are no round");
                        prop_assert!(raised_at.is_none_or(|at| now.since(at) >= RETURN_PAUSE));
                        raised_at = Some(now);
                    }
                    (step, None, 0)
                }
                Act::Hear { completed, millis, refused, left } => {
                    let claimed_at = refused.map(|ago| now - Duration::from_millis(ago));
                    let seen = Observation {
                        completed,
                        mean_latency: millis.map(Duration::from_millis),
                        rate_limited: claimed_at,
                        quota: left.map(|remaining| Quota { remaining, limit: None }),
                    };
                    heard = heard.saturating_add(completed);
                    let step = adaptive.hear(&bounds, &seen, now);
                    prop_assert!(moved || step.is_none_or(|step| step.to < from));
                    (step, claimed_at, completed)
                }
            };
            prop_assert_eq!(adaptive.limit(), bounds.nearest(adaptive.limit()));
            prop_assert_eq!(step.map_or(from, |step| step.to), adaptive.limit());
            prop_assert!(step.is_none_or(|step| step.from == from && step.to != from));
            if let Some(step) = step {
                // What is told along with other bounds is told of what holds since.
                heard = if step.reason == StepReason::Bounds { told } else { 0 };
                if step.reason == StepReason::RateLimited {
                    let claimed_at = claimed_at.expect("nothing else is told so");
                    prop_assert!(refused_at.is_none_or(|at| claimed_at > at));
                    refused_at = Some(now);
                }
            }
        }
    }
}

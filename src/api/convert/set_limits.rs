//! Limits that are to be set: every one of them checked, with the path of its field.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check::{Check, Violations};
use super::scalar::{reason, required, timeout, timestamp};
use crate::domain::{
    AdaptiveBounds, Bound, LimitUpdate, MOST_CONCURRENT, MOST_MODELS, MOST_PENDING,
    MOST_PER_MINUTE, Overrides, ProviderName, RateOverrides, Timestamp, Told, check_model,
};
use crate::engine::LimitsDraft;
use crate::pb;
use crate::store::{ExpectedRevision, LimitChange};

/// The longest time for which limits are set.
const MAX_TERM: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Checks `SetLimits`. The changes are in the request's order; a provider named without a limit
/// is kept as it is.
pub(crate) fn set_limits(
    given: pb::SetLimitsRequest,
    now: Timestamp,
) -> Result<LimitsDraft, Violations> {
    let mut check = Check::default();
    let expires_at = check.optional("expire_time", given.expire_time, |given| {
        timestamp(given).and_then(|at| expiry(at, now))
    });
    if given.limits.is_empty() {
        check.add("limits", "must name at least one provider");
    }
    let (mut changes, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, limits) in given.limits.iter().enumerate() {
        check.within(&format!("limits[{index}]"), |check| {
            let provider = check.field("provider", required::<ProviderName>(&limits.provider));
            if limits.reset && given.expire_time.is_some() {
                check.add("reset", "must not be set beside expire_time");
            }
            let update = limit_update(limits, check);
            let Some(provider) = provider else { return };
            if !seen.insert(provider.clone()) {
                check.add("provider", "must not be named twice");
            }
            changes.push(LimitChange { provider, update, expires_at });
        });
    }
    let expected = match given.expected_revision {
        None => ExpectedRevision::Any,
        Some(revision) if revision >= 0 => ExpectedRevision::Newest(revision),
        Some(_) => {
            check.add("expected_revision", "must not be negative");
            ExpectedRevision::Any
        }
    };
    let told = (check.field("reason", reason(given.reason)))
        .zip(check.field("actor", reason(given.actor)))
        .map(|(reason, actor)| Told { reason, actor });
    let validate_only = given.validate_only;
    let draft = told.map(|told| LimitsDraft { changes, told, expected, validate_only });
    check.finish(draft)
}

fn expiry(at: Timestamp, now: Timestamp) -> Result<Timestamp, &'static str> {
    if at <= now {
        return Err("must lie in the future");
    }
    if at.since(now) > MAX_TERM { Err("must lie at most 365 days ahead") } else { Ok(at) }
}

fn limit_update(given: &pb::ProviderLimits, check: &mut Check) -> LimitUpdate {
    let rates = pb::RateLimits {
        requests_per_minute: given.requests_per_minute,
        input_tokens_per_minute: given.input_tokens_per_minute,
        output_tokens_per_minute: given.output_tokens_per_minute,
    };
    let overrides = Overrides {
        max_concurrent: check.optional("max_concurrent", given.max_concurrent, max_concurrent),
        rates: rate_overrides(&rates, check),
        max_pending: check.optional("max_pending", given.max_pending, max_pending),
        adaptive: given.adaptive.as_ref().and_then(|given| adaptive(given, check)),
        models: models(&given.models, check),
    };
    let named = pb::ProviderLimits { provider: String::new(), reset: false, ..given.clone() };
    match (named == pb::ProviderLimits::default(), given.reset) {
        (false, true) => {
            check.add("reset", "must not be set beside a limit");
            LimitUpdate::Reset
        }
        (true, true) => LimitUpdate::Reset,
        (true, false) => LimitUpdate::Keep,
        (false, false) => LimitUpdate::Set(overrides),
    }
}

fn max_concurrent(given: i32) -> Result<u32, &'static str> {
    match u32::try_from(given) {
        Ok(0) => Err("must be at least 1: use PauseProvider to admit nothing"),
        Ok(limit @ 1..=MOST_CONCURRENT) => Ok(limit),
        Ok(_) | Err(_) => Err("must be between 1 and 100,000"),
    }
}

fn max_pending(given: i32) -> Result<Bound<u32>, &'static str> {
    match u32::try_from(given) {
        Ok(0) => Ok(Bound::Unbounded),
        Ok(bound @ 1..=MOST_PENDING) => Ok(Bound::At(bound)),
        Ok(_) | Err(_) => Err("must be between 1 and 10,000,000, or 0 for no such limit"),
    }
}

fn rate(given: i64) -> Result<Bound<u64>, &'static str> {
    match u64::try_from(given) {
        Ok(0) => Ok(Bound::Unbounded),
        Ok(rate @ 1..=MOST_PER_MINUTE) => Ok(Bound::At(rate)),
        Ok(_) | Err(_) => Err("must be between 1 and 1,000,000,000, or 0 for no such limit"),
    }
}

fn rate_overrides(given: &pb::RateLimits, check: &mut Check) -> RateOverrides {
    let mut rate = |field: &str, given| check.optional(field, given, rate);
    RateOverrides {
        requests_per_minute: rate("requests_per_minute", given.requests_per_minute),
        input_tokens_per_minute: rate("input_tokens_per_minute", given.input_tokens_per_minute),
        output_tokens_per_minute: rate("output_tokens_per_minute", given.output_tokens_per_minute),
    }
}

fn adaptive(given: &pb::AdaptiveLimits, check: &mut Check) -> Option<Bound<AdaptiveBounds>> {
    if *given == pb::AdaptiveLimits::default() {
        return Some(Bound::Unbounded);
    }
    check.within("adaptive", |check| {
        let max = u32::try_from(given.max).ok().filter(|max| (1..=MOST_CONCURRENT).contains(max));
        let max = check.field("max", max.ok_or("must be between 1 and 100,000"));
        let least = |min: &u32| (1..=max.unwrap_or(MOST_CONCURRENT)).contains(min);
        let min = u32::try_from(given.min).ok().filter(least);
        let min = check.field("min", min.ok_or("must be between 1 and max"));
        let target_latency = check.optional("target_latency", given.target_latency, timeout);
        Some(Bound::At(AdaptiveBounds { min: min?, max: max?, target_latency }))
    })
}

fn models(
    given: &BTreeMap<String, pb::RateLimits>,
    check: &mut Check,
) -> BTreeMap<String, RateOverrides> {
    if given.len() > MOST_MODELS {
        check.add("models", too_many_models());
        return BTreeMap::new();
    }
    let mut models = BTreeMap::new();
    for (name, rates) in given {
        check.within(&format!("models[{name}]"), |check| {
            check.field("", check_model(name));
            models.insert(name.clone(), rate_overrides(rates, check));
        });
    }
    models
}

/// What is wrong where there are more models than may have limits of their own.
pub(crate) fn too_many_models() -> String {
    format!("must be at most {MOST_MODELS} for one provider, with those it has already")
}

#[cfg(test)]
mod tests {
    use super::super::limits::overridden;
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn of(provider: &str) -> pb::ProviderLimits {
        pb::ProviderLimits { provider: provider.to_owned(), ..Default::default() }
    }

    fn limit(provider: &str, max_concurrent: Option<i32>, reset: bool) -> pb::ProviderLimits {
        pb::ProviderLimits { max_concurrent, reset, ..of(provider) }
    }

    fn asked(given: pb::SetLimitsRequest) -> Result<LimitsDraft, Vec<(String, String)>> {
        set_limits(given, NOW).map_err(|violations| {
            let kept = violations.kept.into_iter();
            kept.map(|violation| (violation.field, violation.description)).collect()
        })
    }

    fn set(limits: Vec<pb::ProviderLimits>) -> Result<LimitsDraft, Vec<(String, String)>> {
        asked(pb::SetLimitsRequest { limits, ..Default::default() })
    }

    fn fields(limits: Vec<pb::ProviderLimits>) -> Vec<String> {
        let found = set(limits).expect_err("something is wrong");
        found.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn a_limit_of_0_points_to_pausing() {
        let found = set(vec![limit("a", Some(0), false)]).expect_err("0 is no limit");
        assert_eq!(found[0].0, "limits[0].max_concurrent");
        assert!(found[0].1.contains("PauseProvider"));
        for out_of_range in [-1, 100_001] {
            assert!(set(vec![limit("a", Some(out_of_range), false)]).is_err());
        }
    }

    #[test]
    fn limits_are_set_reset_or_left_alone() {
        let set = set(vec![
            limit("b", Some(100_000), false),
            limit("a", None, true),
            limit("c", None, false),
        ])
        .expect("nothing is wrong");
        let named: Vec<_> = set.changes.iter().map(|change| change.provider.as_str()).collect();
        assert_eq!(named, ["b", "a", "c"]);
        let updates: Vec<_> = set.changes.iter().map(|change| change.update.clone()).collect();
        let limits = Overrides::concurrent(100_000);
        assert_eq!(updates, [LimitUpdate::Set(limits), LimitUpdate::Reset, LimitUpdate::Keep]);
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(fields(vec![]), ["limits"]);
        assert_eq!(fields(vec![limit("a", Some(1), true)]), ["limits[0].reset"]);
        let pending = pb::ProviderLimits { max_pending: Some(0), reset: true, ..of("a") };
        assert_eq!(fields(vec![pending]), ["limits[0].reset"]);
        let twice = vec![limit("a", Some(1), false), limit("a", Some(2), false)];
        assert_eq!(fields(twice), ["limits[1].provider"]);
    }

    #[test]
    fn every_limit_out_of_range_is_named_with_its_path() {
        let rates = pb::RateLimits { output_tokens_per_minute: Some(-1), ..Default::default() };
        let adaptive = pb::AdaptiveLimits { min: 9, max: 8, target_latency: None };
        let limits = pb::ProviderLimits {
            requests_per_minute: Some(1_000_000_001),
            max_pending: Some(10_000_001),
            adaptive: Some(adaptive),
            models: [("gpt-5".to_owned(), rates), ("x".repeat(129), pb::RateLimits::default())]
                .into(),
            ..of("a")
        };
        let long = format!("limits[0].models[{}]", "x".repeat(129));
        let expected = [
            "limits[0].requests_per_minute",
            "limits[0].max_pending",
            "limits[0].adaptive.min",
            "limits[0].models[gpt-5].output_tokens_per_minute",
            &*long,
        ];
        assert_eq!(fields(vec![limits]), expected);
        let many = (0..33).map(|n| (format!("m{n}"), pb::RateLimits::default())).collect();
        let many = pb::ProviderLimits { models: many, ..of("a") };
        assert_eq!(fields(vec![many]), ["limits[0].models"]);
        for (min, max) in [(1, 100_001), (0, 5), (1, 0), (-1, 5)] {
            let adaptive = Some(pb::AdaptiveLimits { min, max, target_latency: None });
            let found = set(vec![pb::ProviderLimits { adaptive, ..of("a") }]);
            assert!(found.is_err(), "{min}..{max}");
        }
    }

    #[test]
    fn what_is_set_reads_back_as_it_was_given() {
        let rates = pb::RateLimits {
            requests_per_minute: Some(0),
            input_tokens_per_minute: Some(7),
            output_tokens_per_minute: None,
        };
        let span = prost_types::Duration { seconds: 2, nanos: 0 };
        let given = pb::ProviderLimits {
            max_concurrent: Some(3),
            requests_per_minute: Some(1_000_000_000),
            input_tokens_per_minute: Some(0),
            max_pending: Some(0),
            adaptive: Some(pb::AdaptiveLimits { min: 1, max: 8, target_latency: Some(span) }),
            models: [("gpt-5".to_owned(), rates)].into(),
            ..of("a")
        };
        for adaptive in [given.adaptive, Some(pb::AdaptiveLimits::default())] {
            let given = pb::ProviderLimits { adaptive, ..given.clone() };
            let draft = set(vec![given.clone()]).expect("nothing is wrong");
            let LimitUpdate::Set(overrides) = &draft.changes[0].update else {
                panic!("it is set: {draft:?}")
            };
            assert_eq!(overridden("a".to_owned(), overrides), given);
        }
    }

    #[test]
    fn limits_expire_within_a_year_and_not_beside_a_reset() {
        let at = |seconds, reset: bool| {
            let expire_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
            let limits = vec![limit("a", (!reset).then_some(1), reset)];
            asked(pb::SetLimitsRequest { limits, expire_time, ..Default::default() })
                .map(|draft| draft.changes[0].expires_at.is_some())
                .map_err(|found| found[0].0.clone())
        };
        let year = 365 * 86_400;
        assert_eq!(at(1_001, false), Ok(true));
        assert_eq!(at(1_000 + year, false), Ok(true));
        for wrong in [1_000, 1_001 + year] {
            assert_eq!(at(wrong, false), Err("expire_time".to_owned()));
        }
        assert_eq!(at(1_001, true), Err("limits[0].reset".to_owned()));
    }

    #[test]
    fn who_and_why_have_at_most_256_characters() {
        let limits = vec![limit("a", Some(1), false)];
        let long = "x".repeat(257);
        let request = pb::SetLimitsRequest {
            limits,
            actor: long.clone(),
            reason: long,
            ..Default::default()
        };
        let found = asked(request).expect_err("both are too long");
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["reason", "actor"]);
    }
}

//! Providers: limits and pauses in, the picture of a provider out.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{Check, Violations};
use super::enums::error_code;
use super::execution::{closed, usage};
use super::filter::provider_names;
use super::retry_policy;
use super::scalar::{
    duration, reason, required, timestamp, to_duration, to_i32, to_i64, to_timestamp,
};
use crate::domain::{GateState, LimitUpdate, Limits, Overrides, ProviderName, Timestamp, Told};
use crate::engine::{LimitsDraft, ProviderView};
use crate::pb;
use crate::store::{ExpectedRevision, LimitChange};

const MAX_CONCURRENT: u32 = 100_000;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What `PauseProvider` is to do.
#[derive(Debug)]
pub(crate) struct Pause {
    /// Which provider.
    pub(crate) provider: ProviderName,
    /// Why.
    pub(crate) reason: String,
    /// Until when, if not for good.
    pub(crate) until: Option<Timestamp>,
}

/// Checks `GetProvider`.
pub(crate) fn provider_name(given: &str) -> Result<ProviderName, Violations> {
    let mut check = Check::default();
    let name = check.field("provider", required(given));
    check.finish(name)
}

/// Checks `SetLimits`. The changes are in the request's order; a provider named without a limit
/// is kept as it is.
pub(crate) fn set_limits(given: pb::SetLimitsRequest) -> Result<LimitsDraft, Violations> {
    let mut check = Check::default();
    if given.limits.is_empty() {
        check.add("limits", "must name at least one provider");
    }
    let (mut changes, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, limits) in given.limits.iter().enumerate() {
        check.within(&format!("limits[{index}]"), |check| {
            let provider = check.field("provider", required::<ProviderName>(&limits.provider));
            let update = limit_update(limits, check);
            let Some(provider) = provider else { return };
            if !seen.insert(provider.clone()) {
                check.add("provider", "must not be named twice");
            }
            changes.extend(update.map(|update| LimitChange { provider, update, expires_at: None }));
        });
    }
    let reason = check.field("reason", reason(given.reason));
    let expected = match given.expected_revision {
        None => ExpectedRevision::Any,
        Some(revision) if revision >= 0 => ExpectedRevision::Newest(revision),
        Some(_) => {
            check.add("expected_revision", "must not be negative");
            ExpectedRevision::Any
        }
    };
    let validate_only = given.validate_only;
    let told = reason.map(|reason| Told { reason, actor: String::new() });
    let draft = told.map(|told| LimitsDraft { changes, told, expected, validate_only });
    check.finish(draft)
}

/// Checks `PauseProvider`.
pub(crate) fn pause(given: pb::PauseProviderRequest, now: Timestamp) -> Result<Pause, Violations> {
    let mut check = Check::default();
    let provider = check.field("provider", required(&given.provider));
    let reason = check.field("reason", reason(given.reason));
    let until = check.optional("resume_time", given.resume_time, |given| {
        timestamp(given)
            .and_then(|until| if until > now { Ok(until) } else { Err("must lie in the future") })
    });
    check.finish(provider.zip(reason).map(|(provider, reason)| Pause { provider, reason, until }))
}

/// Checks `ResumeProvider`.
pub(crate) fn resume(
    given: pb::ResumeProviderRequest,
) -> Result<(ProviderName, String), Violations> {
    let mut check = Check::default();
    let provider = check.field("provider", required(&given.provider));
    let reason = check.field("reason", reason(given.reason));
    check.finish(provider.zip(reason))
}

/// Checks `WatchProviders`: which, and how often at most.
pub(crate) fn watch(
    given: &pb::WatchProvidersRequest,
) -> Result<(Vec<ProviderName>, Duration), Violations> {
    let mut check = Check::default();
    let names = provider_names(&given.providers, &mut check);
    let interval = check.optional("min_interval", given.min_interval, |given| {
        let interval = duration(given)?;
        let in_range = (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval);
        if in_range { Ok(interval) } else { Err("must be between 100 ms and 1 h") }
    });
    check.finish(Some((names, interval.unwrap_or(DEFAULT_INTERVAL))))
}

/// A provider as clients read it.
pub(crate) fn provider(view: ProviderView) -> pb::Provider {
    let record = view.row.record;
    let effective = record.effective();
    let (gate_state, gate_reason, gate_until) = match record.gate() {
        GateState::Open | GateState::Held(_) => (pb::GateState::Open, String::new(), None),
        GateState::Paused(pause) => (pb::GateState::Paused, pause.reason, pause.until),
        GateState::Short(shortage) => (pb::GateState::Short, shortage.lack.to_string(), None),
        GateState::Closed { cause, until, reason } => {
            (pb::GateState::Closed, closed(cause, &reason), Some(until))
        }
        GateState::Probing { cause, reason } => {
            (pb::GateState::Probing, closed(cause, &reason), None)
        }
    };
    pb::Provider {
        name: record.name.into(),
        kind: view.kind,
        declared_limits: Some(limits(record.declared)),
        effective_limits: Some(limits(effective)),
        limits_overridden: !record.overriding.is_empty(),
        limits_revision: record.limits_revision,
        running_count: to_i64(view.row.running),
        pending_count: to_i64(view.row.pending),
        gate_state: gate_state.into(),
        gate_reason,
        gate_until: gate_until.map(to_timestamp),
        rates: Some(pb::ProviderRates {
            succeeded_per_minute: view.succeeded_per_minute,
            failed_per_minute: view.failed_per_minute,
        }),
        oldest_pending_age: view.oldest_pending_age.map(to_duration),
        accepting: view.unavailable.is_none(),
        unavailable_reason: view.unavailable.unwrap_or_default(),
        usage: Some(usage(view.row.usage)),
        retry_policy: Some(retry_policy::to_pb(&view.retry)),
        retryable_codes: view.retryable.iter().map(|code| error_code(*code).into()).collect(),
    }
}

fn limits(limits: Limits) -> pb::Limits {
    pb::Limits { max_concurrent: Some(to_i32(limits.max_concurrent)) }
}

fn limit_update(given: &pb::ProviderLimits, check: &mut Check) -> Option<LimitUpdate> {
    let max_concurrent = check.optional("max_concurrent", given.max_concurrent, max_concurrent);
    match (given.max_concurrent, given.reset) {
        (Some(_), true) => {
            check.add("reset", "must not be set beside a limit");
            None
        }
        (None, true) => Some(LimitUpdate::Reset),
        (Some(_), false) => max_concurrent.map(|max| LimitUpdate::Set(Overrides::concurrent(max))),
        (None, false) => Some(LimitUpdate::Keep),
    }
}

fn max_concurrent(given: i32) -> Result<u32, &'static str> {
    match u32::try_from(given) {
        Ok(0) => Err("must be at least 1: use PauseProvider to admit nothing"),
        Ok(limit @ 1..=MAX_CONCURRENT) => Ok(limit),
        Ok(_) | Err(_) => Err("must be between 1 and 100,000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ErrorCode, ProviderRecord, RetryPolicy};
    use crate::store::ProviderRow;

    fn limit(provider: &str, max_concurrent: Option<i32>, reset: bool) -> pb::ProviderLimits {
        pb::ProviderLimits { provider: provider.to_owned(), max_concurrent, reset }
    }

    fn set(limits: Vec<pb::ProviderLimits>) -> Result<LimitsDraft, Vec<(String, String)>> {
        set_limits(pb::SetLimitsRequest { limits, ..Default::default() }).map_err(|violations| {
            let kept = violations.kept.into_iter();
            kept.map(|violation| (violation.field, violation.description)).collect()
        })
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
        let fields = |limits| {
            let found = set(limits).expect_err("the request contradicts itself");
            found.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields(vec![]), ["limits"]);
        assert_eq!(fields(vec![limit("a", Some(1), true)]), ["limits[0].reset"]);
        let twice = vec![limit("a", Some(1), false), limit("a", Some(2), false)];
        assert_eq!(fields(twice), ["limits[1].provider"]);
    }

    #[test]
    fn a_pause_ends_in_the_future_or_not_at_all() {
        let now = Timestamp::from_micros(1_000_000);
        let pause = |resume_time| {
            let provider = "a".to_owned();
            pause(pb::PauseProviderRequest { provider, reason: String::new(), resume_time }, now)
        };
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        assert!(pause(None).is_ok_and(|pause| pause.until.is_none()));
        assert!(pause(at(2)).is_ok_and(|pause| pause.until.is_some()));
        assert!(pause(at(1)).is_err_and(|found| found.kept[0].field == "resume_time"));
    }

    #[test]
    fn pictures_are_pushed_every_100_ms_to_1_h() {
        let interval = |min_interval| {
            watch(&pb::WatchProvidersRequest { providers: vec![], min_interval })
                .map(|(_, interval)| interval)
                .ok()
        };
        let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        assert_eq!(interval(None), Some(DEFAULT_INTERVAL));
        assert_eq!(interval(span(0, 100_000_000)), Some(MIN_INTERVAL));
        assert_eq!(interval(span(0, 99_000_000)), None);
        assert_eq!(interval(span(3_601, 0)), None);
    }

    #[test]
    fn a_paused_and_overridden_provider_is_shown_as_such() {
        let declared = Limits::concurrent(3);
        let mut record = ProviderRecord::new("a".parse().unwrap(), declared);
        record.overriding = Overrides::concurrent(9);
        record.pause = Some(crate::domain::Pause { reason: "why".to_owned(), until: None });
        let shown = provider(ProviderView {
            row: ProviderRow { running: 4, pending: 5, ..ProviderRow::idle(record) },
            kind: "simulated".to_owned(),
            unavailable: Some("no modules_dir".to_owned()),
            succeeded_per_minute: 1.0,
            failed_per_minute: 0.0,
            oldest_pending_age: Some(Duration::from_secs(2)),
            retry: RetryPolicy::default(),
            retryable: vec![ErrorCode::Timeout],
        });
        let max = |limits: &Option<pb::Limits>| limits.as_ref().and_then(|it| it.max_concurrent);
        assert_eq!((max(&shown.declared_limits), max(&shown.effective_limits)), (Some(3), Some(9)));
        assert_eq!(
            (shown.gate_state(), shown.gate_reason.as_str()),
            (pb::GateState::Paused, "why")
        );
        assert!(shown.limits_overridden && !shown.accepting);
        assert_eq!(shown.retry_policy.and_then(|policy| policy.max_attempts), Some(4));
        assert_eq!(shown.retryable_codes, [i32::from(pb::ErrorCode::Timeout)]);
    }
}

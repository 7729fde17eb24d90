//! Providers: pauses in, the picture of a provider out.

use std::time::Duration;

use super::check::{Check, Violations};
use super::enums::error_code;
use super::execution::{closed, held, usage};
use super::filter::provider_names;
use super::limits::limits;
use super::retry_policy;
use super::scalar::{duration, reason, required, timestamp, to_duration, to_i64, to_timestamp};
use crate::domain::{Effect, GateState, Hold, ProviderName, Timestamp};
use crate::engine::ProviderView;
use crate::pb;

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
        holds: record.flow.holds().iter().map(|it| hold(&record.name, it)).collect(),
        limits_expire_time: record.expiry.map(|expiry| to_timestamp(expiry.at)),
        name: record.name.into(),
        kind: view.kind,
        declared_limits: Some(limits(&record.declared)),
        effective_limits: Some(limits(&effective)),
        limits_overridden: !record.overriding.is_empty(),
        limits_revision: record.limits_revision,
        running_count: to_i64(view.row.running),
        pending_count: to_i64(view.row.pending),
        ready_count: to_i64(view.row.ready),
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

/// What a call of `SetLimits` does to a provider's work.
pub(crate) fn effect(provider: String, effect: &Effect, validated: bool) -> pb::LimitsEffect {
    pb::LimitsEffect {
        provider,
        starts: to_i64(effect.starts),
        drains: to_i64(effect.drains),
        message: effect.words(validated),
    }
}

fn hold(provider: &ProviderName, hold: &Hold) -> pb::ProviderHold {
    let pb::WaitStatus { code, message, until } = held(provider, hold);
    pb::ProviderHold { model: hold.model.clone().unwrap_or_default(), reason: code, until, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ErrorCode, Limits, Overrides, ProviderRecord, RetryPolicy};
    use crate::store::ProviderRow;

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

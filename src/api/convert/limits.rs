//! Limits as clients read them, now and in the history of their changes.

use super::scalar::{to_duration, to_i32, to_i64, to_timestamp};
use crate::domain::{
    AdaptiveBounds, Bound, Change, Event, Limits, Overrides, RateOverrides, Rates,
};
use crate::pb;

/// Limits as clients read them.
pub(super) fn limits(limits: &Limits) -> pb::Limits {
    let pb::RateLimits { requests_per_minute, input_tokens_per_minute, output_tokens_per_minute } =
        rates(limits.rates);
    pb::Limits {
        max_concurrent: Some(to_i32(limits.max_concurrent)),
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        max_pending: limits.max_pending.map(to_i32),
        adaptive: limits.adaptive.map(bounds),
        models: limits.models.iter().map(|(name, it)| (name.clone(), rates(*it))).collect(),
    }
}

fn rates(rates: Rates) -> pb::RateLimits {
    pb::RateLimits {
        requests_per_minute: rates.requests_per_minute.map(to_i64),
        input_tokens_per_minute: rates.input_tokens_per_minute.map(to_i64),
        output_tokens_per_minute: rates.output_tokens_per_minute.map(to_i64),
    }
}

fn bounds(bounds: AdaptiveBounds) -> pb::AdaptiveLimits {
    pb::AdaptiveLimits {
        min: to_i32(bounds.min),
        max: to_i32(bounds.max),
        target_latency: bounds.target_latency.map(to_duration),
    }
}

/// A change of limits as clients read it; `None` for an entry of the log that is none.
pub(crate) fn limits_change(event: Event) -> Option<pb::LimitsChange> {
    let Change::LimitsChanged { declared, overriding, effective, expires_at, reason, actor, step } =
        event.change
    else {
        return None;
    };
    let provider = event.provider.to_string();
    Some(pb::LimitsChange {
        revision: event.revision,
        time: Some(to_timestamp(event.at)),
        overridden: overriding.map(|overriding| overridden(provider.clone(), &overriding)),
        provider,
        declared: Some(limits(&declared)),
        effective: Some(limits(&effective)),
        reason,
        actor,
        expire_time: expires_at.map(to_timestamp),
        moved_by_itself: step.is_some(),
    })
}

/// What is overridden, in the form in which it is set.
pub(super) fn overridden(provider: String, set: &Overrides) -> pb::ProviderLimits {
    let of = |it: &RateOverrides| pb::RateLimits {
        requests_per_minute: it.requests_per_minute.map(stated),
        input_tokens_per_minute: it.input_tokens_per_minute.map(stated),
        output_tokens_per_minute: it.output_tokens_per_minute.map(stated),
    };
    let pb::RateLimits { requests_per_minute, input_tokens_per_minute, output_tokens_per_minute } =
        of(&set.rates);
    pb::ProviderLimits {
        provider,
        max_concurrent: set.max_concurrent.map(to_i32),
        reset: false,
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        max_pending: set.max_pending.map(|bound| match bound {
            Bound::Unbounded => 0,
            Bound::At(max) => to_i32(max),
        }),
        adaptive: set.adaptive.map(|bound| match bound {
            Bound::Unbounded => pb::AdaptiveLimits::default(),
            Bound::At(adaptive) => bounds(adaptive),
        }),
        models: set.models.iter().map(|(name, it)| (name.clone(), of(it))).collect(),
    }
}

fn stated(rate: Bound<u64>) -> i64 {
    match rate {
        Bound::Unbounded => 0,
        Bound::At(rate) => to_i64(rate),
    }
}

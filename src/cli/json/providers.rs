//! Providers.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::executions::{retry_policy_json, usage_json};
use super::{Object, enum_name};
use crate::pb;

/// Every reply that is a list of providers.
pub(in crate::cli) fn providers(providers: &[pb::Provider]) -> Value {
    Object::default().list("providers", providers.iter().map(provider)).done()
}

/// The reply to `SetLimits`.
pub(in crate::cli) fn limits_set(reply: &pb::SetLimitsResponse) -> Value {
    let pb::SetLimitsResponse { providers, effects } = reply;
    Object::default()
        .list("providers", providers.iter().map(provider))
        .list("effects", effects.iter().map(effect))
        .done()
}

fn effect(effect: &pb::LimitsEffect) -> Value {
    let pb::LimitsEffect { provider, starts, drains, message } = effect;
    Object::default()
        .text("provider", provider)
        .int64("starts", *starts)
        .int64("drains", *drains)
        .text("message", message)
        .done()
}

/// Changes of limits, from one page of them or several.
pub(in crate::cli) fn limits_changes(changes: &[pb::LimitsChange]) -> Value {
    Object::default().list("changes", changes.iter().map(limits_change)).done()
}

fn limits_change(change: &pb::LimitsChange) -> Value {
    let pb::LimitsChange {
        revision,
        time,
        provider,
        declared,
        overridden: set,
        effective,
        reason,
        actor,
        expire_time,
        moved_by_itself,
    } = change;
    Object::default()
        .int64("revision", *revision)
        .time("time", time.as_ref())
        .text("provider", provider)
        .set("declared", declared.as_ref().map(limits))
        .set("overridden", set.as_ref().map(overridden))
        .set("effective", effective.as_ref().map(limits))
        .text("reason", reason)
        .text("actor", actor)
        .time("expireTime", expire_time.as_ref())
        .boolean("movedByItself", *moved_by_itself)
        .done()
}

fn provider(provider: &pb::Provider) -> Value {
    let pb::Provider {
        name,
        kind,
        declared_limits,
        effective_limits,
        limits_overridden,
        limits_revision,
        running_count,
        pending_count,
        gate_state,
        gate_reason,
        gate_until,
        rates,
        oldest_pending_age,
        accepting,
        unavailable_reason,
        usage,
        limits_expire_time,
        holds,
        ready_count,
        retry_policy,
        retryable_codes,
    } = provider;
    Object::default()
        .text("name", name)
        .text("kind", kind)
        .set("declaredLimits", declared_limits.as_ref().map(limits))
        .set("effectiveLimits", effective_limits.as_ref().map(limits))
        .boolean("limitsOverridden", *limits_overridden)
        .int64("limitsRevision", *limits_revision)
        .int64("runningCount", *running_count)
        .int64("pendingCount", *pending_count)
        .name::<pb::GateState>("gateState", *gate_state)
        .text("gateReason", gate_reason)
        .time("gateUntil", gate_until.as_ref())
        .set("rates", rates.as_ref().map(rates_json))
        .duration("oldestPendingAge", oldest_pending_age.as_ref())
        .boolean("accepting", *accepting)
        .text("unavailableReason", unavailable_reason)
        .set("usage", usage.as_ref().map(usage_json))
        .time("limitsExpireTime", limits_expire_time.as_ref())
        .list("holds", holds.iter().map(hold))
        .int64("readyCount", *ready_count)
        .set("retryPolicy", retry_policy.as_ref().map(retry_policy_json))
        .list(
            "retryableCodes",
            retryable_codes.iter().map(|code| enum_name::<pb::ErrorCode>(*code)),
        )
        .done()
}

fn limits(limits: &pb::Limits) -> Value {
    let pb::Limits {
        max_concurrent,
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        max_pending,
        adaptive,
        models,
    } = limits;
    Object::default()
        .set("maxConcurrent", max_concurrent.map(Value::from))
        .set_int64("requestsPerMinute", *requests_per_minute)
        .set_int64("inputTokensPerMinute", *input_tokens_per_minute)
        .set_int64("outputTokensPerMinute", *output_tokens_per_minute)
        .set("maxPending", max_pending.map(Value::from))
        .set("adaptive", adaptive.as_ref().map(adaptive_json))
        .set("models", models_json(models))
        .done()
}

fn models_json(models: &BTreeMap<String, pb::RateLimits>) -> Option<Value> {
    let models: Map<_, _> =
        models.iter().map(|(name, rates)| (name.clone(), model_rates(rates))).collect();
    (!models.is_empty()).then(|| models.into())
}

fn model_rates(rates: &pb::RateLimits) -> Value {
    let pb::RateLimits { requests_per_minute, input_tokens_per_minute, output_tokens_per_minute } =
        rates;
    Object::default()
        .set_int64("requestsPerMinute", *requests_per_minute)
        .set_int64("inputTokensPerMinute", *input_tokens_per_minute)
        .set_int64("outputTokensPerMinute", *output_tokens_per_minute)
        .done()
}

fn adaptive_json(adaptive: &pb::AdaptiveLimits) -> Value {
    let pb::AdaptiveLimits { min, max, target_latency } = adaptive;
    Object::default()
        .int32("min", *min)
        .int32("max", *max)
        .duration("targetLatency", target_latency.as_ref())
        .done()
}

fn overridden(set: &pb::ProviderLimits) -> Value {
    let pb::ProviderLimits {
        provider,
        max_concurrent,
        reset,
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        max_pending,
        adaptive,
        models,
    } = set;
    Object::default()
        .text("provider", provider)
        .set("maxConcurrent", max_concurrent.map(Value::from))
        .boolean("reset", *reset)
        .set_int64("requestsPerMinute", *requests_per_minute)
        .set_int64("inputTokensPerMinute", *input_tokens_per_minute)
        .set_int64("outputTokensPerMinute", *output_tokens_per_minute)
        .set("maxPending", max_pending.map(Value::from))
        .set("adaptive", adaptive.as_ref().map(adaptive_json))
        .set("models", models_json(models))
        .done()
}

fn hold(hold: &pb::ProviderHold) -> Value {
    let pb::ProviderHold { model, reason, until, message } = hold;
    Object::default()
        .text("model", model)
        .name::<pb::WaitReason>("reason", *reason)
        .time("until", until.as_ref())
        .text("message", message)
        .done()
}

fn rates_json(rates: &pb::ProviderRates) -> Value {
    let pb::ProviderRates { succeeded_per_minute, failed_per_minute } = rates;
    Object::default()
        .double("succeededPerMinute", *succeeded_per_minute)
        .double("failedPerMinute", *failed_per_minute)
        .done()
}

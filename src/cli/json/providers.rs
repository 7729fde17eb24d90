//! Providers.

use serde_json::Value;

use super::executions::{retry_policy_json, usage_json};
use super::{Object, enum_name};
use crate::pb;

/// Every reply that is a list of providers.
pub(in crate::cli) fn providers(providers: &[pb::Provider]) -> Value {
    Object::default().list("providers", providers.iter().map(provider)).done()
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
        .set("retryPolicy", retry_policy.as_ref().map(retry_policy_json))
        .list(
            "retryableCodes",
            retryable_codes.iter().map(|code| enum_name::<pb::ErrorCode>(*code)),
        )
        .done()
}

fn limits(limits: &pb::Limits) -> Value {
    let pb::Limits { max_concurrent } = limits;
    Object::default().set("maxConcurrent", max_concurrent.map(Value::from)).done()
}

fn rates_json(rates: &pb::ProviderRates) -> Value {
    let pb::ProviderRates { succeeded_per_minute, failed_per_minute } = rates;
    Object::default()
        .double("succeededPerMinute", *succeeded_per_minute)
        .double("failedPerMinute", *failed_per_minute)
        .done()
}

//! The retry policy, in and out.

use super::check::Check;
use super::enums;
use super::scalar::{backoff, to_duration, to_i32};
use crate::domain::{ErrorCode, RetryPolicy, RetryRequest};
use crate::pb;

/// Checks what a submission asks for.
pub(crate) fn from_pb(given: &pb::RetryPolicy, check: &mut Check) -> RetryRequest {
    RetryRequest {
        max_attempts: check.optional("max_attempts", given.max_attempts, max_attempts),
        initial_backoff: check.optional("initial_backoff", given.initial_backoff, backoff),
        max_backoff: check.optional("max_backoff", given.max_backoff, backoff),
        multiplier: check.optional("backoff_multiplier", given.backoff_multiplier, multiplier),
        retry_on: retry_on(&given.retry_on, check),
    }
}

/// The policy as clients read it.
pub(crate) fn to_pb(policy: &RetryPolicy) -> pb::RetryPolicy {
    pb::RetryPolicy {
        max_attempts: Some(to_i32(policy.max_attempts)),
        initial_backoff: Some(to_duration(policy.initial_backoff)),
        max_backoff: Some(to_duration(policy.max_backoff)),
        backoff_multiplier: Some(policy.multiplier),
        retry_on: policy.retry_on.iter().map(|code| enums::error_code(*code).into()).collect(),
    }
}

fn max_attempts(given: i32) -> Result<u32, &'static str> {
    let given = u32::try_from(given).ok().filter(|given| (1..=100).contains(given));
    given.ok_or("must be between 1 and 100")
}

fn multiplier(given: f64) -> Result<f64, &'static str> {
    // NaN lies in no range.
    if (1.0..=10.0).contains(&given) { Ok(given) } else { Err("must be between 1.0 and 10.0") }
}

fn retry_on(given: &[i32], check: &mut Check) -> Vec<ErrorCode> {
    let mut codes = Vec::new();
    for (index, given) in given.iter().enumerate() {
        let code = check.field(format!("retry_on[{index}]"), retried_code(*given));
        codes.extend(code.filter(|code| !codes.contains(code)));
    }
    codes
}

fn retried_code(given: i32) -> Result<ErrorCode, &'static str> {
    match pb::ErrorCode::try_from(given) {
        Ok(pb::ErrorCode::Transient) => Ok(ErrorCode::Transient),
        Ok(pb::ErrorCode::Permanent) => Ok(ErrorCode::Permanent),
        Ok(pb::ErrorCode::Timeout) => Ok(ErrorCode::Timeout),
        Ok(pb::ErrorCode::ModuleFailed) => Ok(ErrorCode::ModuleFailed),
        Ok(pb::ErrorCode::ModuleNotFound) => Ok(ErrorCode::ModuleNotFound),
        Ok(pb::ErrorCode::ModuleStartFailed) => Ok(ErrorCode::ModuleStartFailed),
        Ok(pb::ErrorCode::Resource) => Ok(ErrorCode::Resource),
        Ok(pb::ErrorCode::OutputTooLarge) => Ok(ErrorCode::OutputTooLarge),
        Ok(pb::ErrorCode::Internal) => Ok(ErrorCode::Internal),
        Ok(
            pb::ErrorCode::RateLimited
            | pb::ErrorCode::Cancelled
            | pb::ErrorCode::QueueTimeout
            | pb::ErrorCode::Crashed
            | pb::ErrorCode::Released
            | pb::ErrorCode::Lost,
        ) => Err("has a rule of its own and cannot be named here"),
        Ok(pb::ErrorCode::Unspecified) => Err("must not be UNSPECIFIED"),
        Err(_) => Err("is not a known error code"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of(given: &pb::RetryPolicy) -> Vec<String> {
        let mut check = Check::default();
        let policy = check.within("retry_policy", |check| from_pb(given, check));
        match check.finish(Some(policy)) {
            Ok(_) => Vec::new(),
            Err(violations) => violations.kept.into_iter().map(|one| one.field).collect(),
        }
    }

    #[test]
    fn absent_fields_are_left_open_and_a_policy_comes_back_as_it_was() {
        let read = |given| from_pb(&given, &mut Check::default());
        assert_eq!(read(pb::RetryPolicy::default()), RetryRequest::default());
        let policy =
            RetryPolicy { retry_on: vec![ErrorCode::ModuleFailed], ..RetryPolicy::default() };
        assert_eq!(read(to_pb(&policy)), RetryRequest::from(policy));
    }

    #[test]
    fn every_field_out_of_range_is_named_at_once() {
        let fields = fields_of(&pb::RetryPolicy {
            max_attempts: Some(0),
            initial_backoff: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            max_backoff: Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
            backoff_multiplier: Some(f64::NAN),
            retry_on: vec![pb::ErrorCode::ModuleFailed.into(), pb::ErrorCode::Crashed.into(), 99],
        });
        let expected = [
            "retry_policy.max_attempts",
            "retry_policy.initial_backoff",
            "retry_policy.max_backoff",
            "retry_policy.backoff_multiplier",
            "retry_policy.retry_on[1]",
            "retry_policy.retry_on[2]",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        for (attempts, multiplier) in [(1, 1.0), (100, 10.0)] {
            let given = pb::RetryPolicy {
                max_attempts: Some(attempts),
                backoff_multiplier: Some(multiplier),
                initial_backoff: Some(prost_types::Duration::default()),
                ..pb::RetryPolicy::default()
            };
            assert_eq!(fields_of(&given), [""; 0]);
        }
    }
}

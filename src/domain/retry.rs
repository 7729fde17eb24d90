//! When a failed attempt is tried again: full-jitter exponential backoff, counted attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ErrorCode, Failure, FailureKind};

/// How many crashes an execution may cause before it is failed instead of tried again.
pub const MAX_CRASHES: u32 = 3;

/// How often, and how far apart, an execution is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// The most that the first retry waits.
    pub initial_backoff: Duration,
    /// The most that any retry waits.
    pub max_backoff: Duration,
    /// Growth of the bound from one retry to the next.
    pub multiplier: f64,
    /// Codes retried though the provider calls them permanent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_on: Vec<ErrorCode>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 4,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            multiplier: 2.0,
            retry_on: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// The upper bound of the wait before the retry that follows charged attempt `charged` (from 1).
    pub fn backoff_bound(&self, charged: u32) -> Duration {
        let exponent = i32::try_from(charged.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        let cap = self.max_backoff.as_secs_f64();
        Duration::from_secs_f64(if seconds.is_finite() { seconds.min(cap) } else { cap })
    }

    /// How long to wait before the next attempt, or `None` if there is to be none.
    ///
    /// `charged` counts the attempts that cost one, the failed one included; `jitter` is uniform in
    /// `[0, 1)`.
    pub fn next_delay(
        &self,
        charged: u32,
        kind: FailureKind,
        failure: &Failure,
        jitter: f64,
    ) -> Option<Duration> {
        match kind {
            FailureKind::Cancelled => None,
            // The provider's gate says when, for this one and all others.
            FailureKind::RateLimited { .. } => Some(Duration::ZERO),
            FailureKind::Permanent if !self.retry_on.contains(&failure.code) => None,
            FailureKind::Permanent | FailureKind::Transient => {
                (charged < self.max_attempts).then(|| self.backoff_bound(charged).mul_f64(jitter))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failure() -> Failure {
        Failure::new(ErrorCode::Transient, true, "down")
    }

    proptest! {
        #[test]
        fn a_retry_waits_within_its_bound_and_never_past_the_cap(
            charged in 1u32..1_000, jitter in 0.0f64..1.0, initial_ms in 1u64..100_000,
            cap_ms in 1u64..1_000_000, multiplier in 1.0f64..10.0,
        ) {
            let policy = RetryPolicy {
                max_attempts: u32::MAX,
                initial_backoff: Duration::from_millis(initial_ms),
                max_backoff: Duration::from_millis(cap_ms),
                multiplier,
                retry_on: vec![],
            };
            let delay = policy
                .next_delay(charged, FailureKind::Transient, &failure(), jitter)
                .expect("attempts are left");
            prop_assert!(delay <= policy.backoff_bound(charged));
            prop_assert!(delay <= Duration::from_millis(cap_ms));
        }
    }

    #[test]
    fn the_last_attempt_is_not_retried() {
        let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
        assert!(policy.next_delay(1, FailureKind::Transient, &failure(), 0.5).is_some());
        assert!(policy.next_delay(2, FailureKind::Transient, &failure(), 0.5).is_none());
    }

    #[test]
    fn a_permanent_failure_is_retried_only_when_the_policy_names_its_code() {
        let failure = Failure::new(ErrorCode::ModuleFailed, false, "exit 1");
        let mut policy = RetryPolicy::default();
        assert!(policy.next_delay(1, FailureKind::Permanent, &failure, 0.5).is_none());
        policy.retry_on.push(ErrorCode::ModuleFailed);
        assert!(policy.next_delay(1, FailureKind::Permanent, &failure, 0.5).is_some());
    }

    #[test]
    fn a_rate_limited_attempt_is_left_to_the_gate_of_its_provider() {
        let kind = FailureKind::RateLimited { retry_after: Some(Duration::from_secs(7)) };
        let delay = RetryPolicy::default().next_delay(99, kind, &failure(), 0.1);
        assert_eq!(delay, Some(Duration::ZERO));
    }
}

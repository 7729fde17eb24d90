//! When a failed attempt is tried again: which failures, how often, and how long after.
//!
//! What must stay true: a submission's own word counts for more than its provider's defaults, field
//! by field; no retry comes before the time that the provider itself asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ErrorCode, FailureKind, RetryBudget};

/// How many crashes an execution may cause before it is failed instead of tried again.
pub const MAX_CRASHES: u32 = 3;

/// The longest wait that is believed of a provider that asks for one.
pub const LONGEST_HINT: Duration = Duration::from_secs(24 * 60 * 60);

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
        match Duration::try_from_secs_f64(seconds) {
            Ok(bound) => bound.min(self.max_backoff),
            // Nothing grows into nothing, anything else beyond every cap.
            Err(_) if self.initial_backoff.is_zero() => Duration::ZERO,
            Err(_) => self.max_backoff,
        }
    }
}

/// What a submission asks for; what it leaves open is its provider's to say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetryRequest {
    /// Attempts in all, the first included.
    pub max_attempts: Option<u32>,
    /// The most that the first retry waits.
    pub initial_backoff: Option<Duration>,
    /// The most that any retry waits.
    pub max_backoff: Option<Duration>,
    /// Growth of the bound from one retry to the next.
    pub multiplier: Option<f64>,
    /// Codes retried beside those that the provider's rules name.
    pub retry_on: Vec<ErrorCode>,
}

impl RetryRequest {
    /// The policy in force, with `defaults` for what is left open. The codes stay the submission's
    /// own: those of the provider are looked at when an attempt fails, so that an operator's change
    /// reaches what was submitted before.
    pub fn over(self, defaults: &RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts),
            initial_backoff: self.initial_backoff.unwrap_or(defaults.initial_backoff),
            max_backoff: self.max_backoff.unwrap_or(defaults.max_backoff),
            multiplier: self.multiplier.unwrap_or(defaults.multiplier),
            retry_on: self.retry_on,
        }
    }
}

impl From<RetryPolicy> for RetryRequest {
    /// Asks for exactly this policy.
    fn from(policy: RetryPolicy) -> Self {
        let RetryPolicy { max_attempts, initial_backoff, max_backoff, multiplier, retry_on } =
            policy;
        Self {
            max_attempts: Some(max_attempts),
            initial_backoff: Some(initial_backoff),
            max_backoff: Some(max_backoff),
            multiplier: Some(multiplier),
            retry_on,
        }
    }
}

/// How failed attempts of a provider are tried again.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetryRules {
    /// What holds where a submission says nothing else. Its codes are retried in any case.
    pub defaults: RetryPolicy,
    /// Codes not retried though the provider calls them transient, unless the submission names them.
    pub no_retry_on: Vec<ErrorCode>,
    /// How many retries there may be; any number if `None`.
    pub budget: Option<RetryBudget>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retrial {
    /// Nothing.
    Never,
    /// Another attempt as soon as the provider's gate lets it: the failed one costs none.
    AtTheGate,
    /// Another attempt after a wait, if the policy has one left.
    Charged,
}

impl RetryRules {
    /// What follows a failure of this kind and code, attempts left apart. `own` is the policy of the
    /// execution.
    pub fn retrial(&self, own: &RetryPolicy, kind: FailureKind, code: ErrorCode) -> Retrial {
        let retried = match kind {
            FailureKind::Cancelled => return Retrial::Never,
            // The provider's gate says when, for this one and all others.
            FailureKind::RateLimited => return Retrial::AtTheGate,
            FailureKind::Transient => !self.no_retry_on.contains(&code),
            FailureKind::Permanent => self.defaults.retry_on.contains(&code),
        };
        if retried || own.retry_on.contains(&code) { Retrial::Charged } else { Retrial::Never }
    }

    /// The codes that are retried, where `transient` are those that the provider calls so. Codes with
    /// a rule of their own are not among them.
    pub fn retryable(&self, transient: &[ErrorCode]) -> Vec<ErrorCode> {
        let retried = |code: &ErrorCode| {
            self.defaults.retry_on.contains(code)
                || transient.contains(code) && !self.no_retry_on.contains(code)
        };
        ErrorCode::ALL.into_iter().filter(retried).collect()
    }

    /// How long the retry that follows charged attempt `charged` waits. `hint` is what the provider
    /// asked for, `jitter` is uniform in `[0, 1)`. One that finds no room in the budget waits for
    /// half to all of the longest backoff, its own or the provider's: a client's short one is no way
    /// around the budget.
    pub fn delay(
        &self,
        own: &RetryPolicy,
        charged: u32,
        hint: Option<Duration>,
        room: bool,
        jitter: f64,
    ) -> Duration {
        let backoff = if room {
            own.backoff_bound(charged).mul_f64(jitter)
        } else {
            own.max_backoff.max(self.defaults.max_backoff).mul_f64(0.5 + jitter / 2.0)
        };
        backoff.max(hint.unwrap_or_default().min(LONGEST_HINT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        let backoff = || prop_oneof![0u64..100_000, 0..=YEAR_MS].prop_map(Duration::from_millis);
        (backoff(), backoff(), 1.0f64..=10.0).prop_map(
            |(initial_backoff, max_backoff, multiplier)| RetryPolicy {
                initial_backoff,
                max_backoff,
                multiplier,
                ..RetryPolicy::default()
            },
        )
    }

    fn config() -> ProptestConfig {
        ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_retry_waits_within_its_bound_and_never_past_the_cap(
            own in policies(), charged in 1u32..1_000, jitter in 0.0f64..1.0,
        ) {
            let delay = RetryRules::default().delay(&own, charged, None, true, jitter);
            let exponent = i32::try_from(charged - 1).expect("it is small");
            let grown = own.initial_backoff.as_secs_f64() * own.multiplier.powi(exponent);
            let cap = own.max_backoff.as_secs_f64();
            // Nothing times more than any number holds is no number: it stays nothing.
            let bound = if own.initial_backoff.is_zero() { 0.0 } else { grown.min(cap) };
            prop_assert!(delay.as_secs_f64() <= bound * (1.0 + 1e-9) + 1e-9);
            prop_assert!(delay <= own.max_backoff);
        }

        #[test]
        fn no_retry_comes_before_the_time_that_the_provider_asked_for(
            own in policies(), charged in 1u32..1_000, jitter in 0.0f64..1.0, room: bool,
            hint_ms in 0u64..100_000_000,
        ) {
            let hint = Duration::from_millis(hint_ms);
            let rules = RetryRules::default();
            let delay = rules.delay(&own, charged, Some(hint), room, jitter);
            prop_assert!(delay >= hint.min(LONGEST_HINT));
            // And it lengthens no wait that is longer by itself.
            let without = rules.delay(&own, charged, None, room, jitter);
            prop_assert_eq!(delay, without.max(hint.min(LONGEST_HINT)));
        }

        #[test]
        fn what_finds_no_room_in_the_budget_is_spread_over_half_of_the_longest_backoff(
            own in policies(), charged in 1u32..1_000, jitter in 0.0f64..1.0,
        ) {
            let rules = RetryRules::default();
            let delay = rules.delay(&own, charged, None, false, jitter);
            let longest = own.max_backoff.max(rules.defaults.max_backoff);
            prop_assert!((longest / 2..=longest).contains(&delay));
        }

        #[test]
        fn what_a_submission_says_wins_field_by_field(
            own in policies(), defaults in policies(), asked in any::<[bool; 4]>(),
        ) {
            let request = RetryRequest {
                max_attempts: asked[0].then_some(7),
                initial_backoff: asked[1].then_some(own.initial_backoff),
                max_backoff: asked[2].then_some(own.max_backoff),
                multiplier: asked[3].then_some(own.multiplier),
                retry_on: vec![],
            };
            let pick = |asked: bool| if asked { &own } else { &defaults };
            let policy = request.over(&defaults);
            prop_assert_eq!(policy.max_attempts, if asked[0] { 7 } else { 4 });
            prop_assert_eq!(policy.initial_backoff, pick(asked[1]).initial_backoff);
            prop_assert_eq!(policy.max_backoff, pick(asked[2]).max_backoff);
            prop_assert!(policy.multiplier.total_cmp(&pick(asked[3]).multiplier).is_eq());
        }
    }

    fn rules(retry_on: &[ErrorCode], no_retry_on: &[ErrorCode]) -> RetryRules {
        let defaults = RetryPolicy { retry_on: retry_on.to_vec(), ..RetryPolicy::default() };
        RetryRules { defaults, no_retry_on: no_retry_on.to_vec(), budget: None }
    }

    #[test]
    fn a_permanent_failure_is_retried_only_when_the_provider_or_the_execution_names_its_code() {
        use FailureKind::{Permanent, Transient};
        let own = RetryPolicy::default();
        let naming =
            RetryPolicy { retry_on: vec![ErrorCode::ModuleFailed], ..RetryPolicy::default() };
        let code = ErrorCode::ModuleFailed;
        assert_eq!(rules(&[], &[]).retrial(&own, Permanent, code), Retrial::Never);
        assert_eq!(rules(&[], &[]).retrial(&naming, Permanent, code), Retrial::Charged);
        assert_eq!(rules(&[code], &[]).retrial(&own, Permanent, code), Retrial::Charged);
        assert_eq!(rules(&[], &[code]).retrial(&own, Transient, code), Retrial::Never);
        assert_eq!(rules(&[], &[code]).retrial(&naming, Transient, code), Retrial::Charged);
    }

    #[test]
    fn a_rate_limited_attempt_is_left_to_the_gate_of_its_provider() {
        let rules = rules(&[], &[ErrorCode::RateLimited]);
        let kind = FailureKind::RateLimited;
        let retrial = rules.retrial(&RetryPolicy::default(), kind, ErrorCode::RateLimited);
        assert_eq!(retrial, Retrial::AtTheGate);
    }

    #[test]
    fn what_is_retried_is_what_the_provider_calls_transient_but_for_the_operators_word() {
        use ErrorCode::{ModuleFailed, Permanent, Timeout, Transient};
        assert_eq!(rules(&[], &[]).retryable(&[Transient, Timeout]), [Transient, Timeout]);
        let changed = rules(&[Permanent, ModuleFailed], &[Timeout]);
        let retried = changed.retryable(&[Transient, Timeout]);
        assert_eq!(retried, [Transient, Permanent, ModuleFailed]);
    }
}

//! Providers: as configured, as clients see them, and what operators change of them.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Breaker, ErrorCode, Limits, ProviderName, RetryPolicy, RetryRules, Told};
use crate::providers::Provider;
use crate::store::{ExpectedRevision, LimitChange, ProviderRow, StoreError};

/// A provider as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderView {
    /// Limits, gate and counts.
    pub row: ProviderRow,
    /// Its kind, such as `process`.
    pub kind: String,
    /// Why submissions are refused, if they are.
    pub unavailable: Option<String>,
    /// Executions that succeeded here in the last 60 s.
    pub succeeded_per_minute: f64,
    /// Executions that failed here in the last 60 s.
    pub failed_per_minute: f64,
    /// How long the longest-waiting ready execution has waited.
    pub oldest_pending_age: Option<Duration>,
    /// What holds for executions that leave it open, as configured here.
    pub retry: RetryPolicy,
    /// Codes of failures that are tried again.
    pub retryable: Vec<ErrorCode>,
}

/// A change of limits, all or none.
#[derive(Debug, Clone)]
pub struct LimitsDraft {
    /// Each provider at most once.
    pub changes: Vec<LimitChange>,
    /// Who changes them, and why.
    pub told: Told,
    /// Refuses the change if the limits changed since.
    pub expected: ExpectedRevision,
    /// Only checks.
    pub validate_only: bool,
}

/// Why a provider was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No provider of that name is configured.
    #[error("unknown provider {name}")]
    Unknown {
        /// What was named.
        name: ProviderName,
        /// What could have been named.
        known: Vec<ProviderName>,
    },
    /// It would have limits for more models than a provider may.
    #[error("too many models of provider {0} have limits of their own")]
    TooManyModels(ProviderName),
    /// Limits changed since the caller looked.
    #[error("limits changed at revision {current}, the caller expected {expected}")]
    LimitsChanged {
        /// The newest.
        current: i64,
        /// What the caller saw.
        expected: i64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The limits of a provider in the configuration, with what is needed to run its work.
#[derive(Clone)]
pub struct ConfiguredProvider {
    /// Its name.
    pub name: ProviderName,
    /// Its kind, such as `process`.
    pub kind: String,
    /// The declared limits.
    pub limits: Limits,
    /// The default `run_timeout`.
    pub run_timeout: Duration,
    /// When its failures close its gate.
    pub breaker: Breaker,
    /// How its failed attempts are tried again.
    pub retry: RetryRules,
    /// What does the work.
    pub provider: Arc<dyn Provider>,
}

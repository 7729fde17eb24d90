//! How an attempt can fail, in types: nobody parses messages.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What went wrong, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Failed in a way that may pass.
    Transient,
    /// Failed in a way that will not pass by trying again.
    Permanent,
    /// The provider asked to be called less often.
    RateLimited,
    /// Stopped on request.
    Cancelled,
    /// `run_timeout` passed.
    Timeout,
    /// `queue_timeout` passed before the first start.
    QueueTimeout,
    /// The worker was lost or the attempt panicked.
    Crashed,
    /// An attempt was lost or handed back, and must not be repeated.
    Lost,
    /// A module exited with a status other than zero.
    ModuleFailed,
    /// The module's file does not exist.
    ModuleNotFound,
    /// The module's file exists but could not be started.
    ModuleStartFailed,
    /// Handed back at shutdown, or got too late to begin; seen on attempts only.
    Released,
    /// The result is larger than may be stored.
    OutputTooLarge,
    /// A fault of Flowgate itself.
    Internal,
    /// The worker's machine had too little left, and the work was not to wait.
    Resource,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 15] = [
        Self::Transient,
        Self::Permanent,
        Self::RateLimited,
        Self::Cancelled,
        Self::Timeout,
        Self::QueueTimeout,
        Self::Crashed,
        Self::Lost,
        Self::ModuleFailed,
        Self::ModuleNotFound,
        Self::ModuleStartFailed,
        Self::Released,
        Self::OutputTooLarge,
        Self::Internal,
        Self::Resource,
    ];

    /// Its name in the contract, without the prefix of its enumeration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "TRANSIENT",
            Self::Permanent => "PERMANENT",
            Self::RateLimited => "RATE_LIMITED",
            Self::Cancelled => "CANCELLED",
            Self::Timeout => "TIMEOUT",
            Self::QueueTimeout => "QUEUE_TIMEOUT",
            Self::Crashed => "CRASHED",
            Self::Lost => "LOST",
            Self::ModuleFailed => "MODULE_FAILED",
            Self::ModuleNotFound => "MODULE_NOT_FOUND",
            Self::ModuleStartFailed => "MODULE_START_FAILED",
            Self::Released => "RELEASED",
            Self::OutputTooLarge => "OUTPUT_TOO_LARGE",
            Self::Internal => "INTERNAL",
            Self::Resource => "RESOURCE",
        }
    }

    /// The rule that says what follows this code, where no list of codes to retry has a say in it.
    pub const fn rule_of_its_own(self) -> Option<&'static str> {
        match self {
            Self::RateLimited => Some("a rate-limited attempt waits for the gate and costs none"),
            Self::Cancelled => Some("what was cancelled is not tried again"),
            Self::QueueTimeout => Some("it ends what never started"),
            Self::Crashed => Some("crashes are tried again and counted apart, up to 3"),
            Self::Lost => Some("on_lost decides what follows a lost attempt"),
            Self::Released => Some("what was handed back is always taken up again"),
            Self::Transient
            | Self::Permanent
            | Self::Timeout
            | Self::ModuleFailed
            | Self::ModuleNotFound
            | Self::ModuleStartFailed
            | Self::OutputTooLarge
            | Self::Internal
            | Self::Resource => None,
        }
    }
}

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// May pass: retried with backoff, charged, unless the provider's rules name its code.
    Transient,
    /// Retried when the provider's gate opens, uncharged.
    RateLimited,
    /// Not retried, unless the policy or the provider's rules name its code.
    Permanent,
    /// The work was stopped because it was asked to.
    Cancelled,
}

/// A failed attempt, as recorded with it and shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub code: ErrorCode,
    /// For people; carries no secrets.
    pub message: String,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// For programs: a JSON object, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: ErrorCode, retryable: bool, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable, details: None }
    }

    /// Adds to what programs can read of it; what is there under that name stays.
    pub fn add_detail(&mut self, name: &str, value: Value) {
        let details = self.details.get_or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(details) = details {
            details.entry(name).or_insert(value);
        }
    }
}

/// Tokens an attempt consumed at its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
}

impl Usage {
    /// More than any attempt consumes; what is told above that, or below nothing, is not believed.
    const MOST: i64 = 1 << 40;

    /// What a provider told, within what can be true: its word must not spoil the sums.
    pub fn believed(self) -> Self {
        let believed = |tokens: i64| tokens.clamp(0, Self::MOST);
        Self {
            input_tokens: believed(self.input_tokens),
            output_tokens: believed(self.output_tokens),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
    }
}

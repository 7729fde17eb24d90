//! `simulated`: work that takes a stated time and ends as told, for rehearsing limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{AttemptFailure, Call, Provider, Success, Violation};
use crate::domain::{ErrorCode, Failure, FailureKind, Usage};

/// The longest `duration_ms` and `retry_after_ms`: one day.
const MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// The most pieces of output one attempt produces.
const MAX_CHUNKS: u32 = 10_000;

/// What an attempt beyond the capacity is asked to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The provider.
#[derive(Debug)]
pub struct Simulated {
    capacity: Arc<AtomicU32>,
    retry_after: Duration,
    under_way: AtomicU32,
}

impl Default for Simulated {
    /// A provider that takes whatever comes.
    fn default() -> Self {
        Self::with_capacity(Arc::new(AtomicU32::new(u32::MAX)))
    }
}

impl Simulated {
    /// A provider that turns attempts away as rate limited while `capacity` others are under way in this
    /// process. Whoever holds the number may change it at any time: no attempt under way is ended.
    pub fn with_capacity(capacity: Arc<AtomicU32>) -> Self {
        Self { capacity, retry_after: RETRY_AFTER, under_way: AtomicU32::new(0) }
    }

    /// The same with another wait for those that are turned away; 200 ms otherwise.
    pub fn asking_to_wait(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    /// Counts an attempt as under way until this is dropped.
    fn begin(&self) -> Result<UnderWay<'_>, AttemptFailure> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        let one_more = |count| (count < capacity).then_some(count + 1);
        match self.under_way.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(UnderWay(&self.under_way)),
            Err(count) => {
                let message = format!("{count} attempts are under way, the capacity is {capacity}");
                let failure = Failure::new(ErrorCode::RateLimited, true, message);
                let failed = AttemptFailure::new(FailureKind::RateLimited, failure);
                Err(AttemptFailure { retry_after: Some(self.retry_after), ..failed })
            }
        }
    }
}

/// One attempt under way.
struct UnderWay<'a>(&'a AtomicU32);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The input, every field optional.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// How long an attempt takes.
    #[serde(default)]
    duration_ms: u64,
    /// The result; the execution's id and attempt where absent.
    output: Option<Value>,
    /// How it fails, if it does.
    fail: Option<Fail>,
    /// How many attempts fail before one succeeds; all of them where absent.
    fail_attempts: Option<u32>,
    /// What a failure asks to wait.
    retry_after_ms: Option<u64>,
    /// Pieces of output, spread evenly over the duration.
    #[serde(default)]
    chunks: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fail {
    Transient,
    Permanent,
    RateLimited,
}

#[async_trait]
impl Provider for Simulated {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        read(input).map(drop)
    }

    fn is_remote(&self) -> bool {
        false
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        let script = read(&call.input).map_err(|violations| {
            let message = violations
                .iter()
                .map(|v| format!("input.{}: {}", v.field, v.description))
                .collect::<Vec<_>>()
                .join("; ");
            let failure = Failure::new(ErrorCode::Permanent, false, message);
            AttemptFailure::new(FailureKind::Permanent, failure)
        })?;
        let _under_way = self.begin()?;
        let duration = Duration::from_millis(script.duration_ms);
        let pieces = script.chunks + 1;
        for index in 0..pieces {
            tokio::time::sleep(duration / pieces).await;
            if index < script.chunks {
                call.output.result_text(format!("chunk {index}\n")).await;
            }
        }
        match script.fail.filter(|_| call.attempt <= script.fail_attempts.unwrap_or(u32::MAX)) {
            Some(fail) => Err(fail.of(&script)),
            None => {
                let output = script.output.unwrap_or_else(
                    || json!({ "execution": call.execution.to_string(), "attempt": call.attempt }),
                );
                let written = i64::from(script.chunks);
                let usage = Usage { input_tokens: 0, output_tokens: written };
                Ok(Success::new(output, (written > 0).then_some(usage)))
            }
        }
    }
}

impl Fail {
    fn of(self, script: &Script) -> AttemptFailure {
        let (kind, code, retryable) = match self {
            Self::Transient => (FailureKind::Transient, ErrorCode::Transient, true),
            Self::Permanent => (FailureKind::Permanent, ErrorCode::Permanent, false),
            Self::RateLimited => (FailureKind::RateLimited, ErrorCode::RateLimited, true),
        };
        let failure = Failure::new(code, retryable, "failed as the input asked");
        let retry_after = script.retry_after_ms.map(Duration::from_millis);
        AttemptFailure { retry_after, ..AttemptFailure::new(kind, failure) }
    }
}

fn read(input: &Map<String, Value>) -> Result<Script, Vec<Violation>> {
    // Field by field, so that a violation names its field.
    let mut violations = Vec::new();
    for (key, value) in input {
        let description = match key.as_str() {
            "duration_ms" | "retry_after_ms" if value.as_u64().is_none_or(|ms| ms > MAX_MS) => {
                format!("must be a whole number of milliseconds between 0 and {MAX_MS}")
            }
            "chunks" if value.as_u64().is_none_or(|n| n > u64::from(MAX_CHUNKS)) => {
                format!("must be a whole number between 0 and {MAX_CHUNKS}")
            }
            "fail_attempts" if value.as_u64().is_none_or(|n| n > 1_000) => {
                "must be a whole number between 0 and 1000".to_owned()
            }
            "fail"
                if !matches!(value.as_str(), Some("transient" | "permanent" | "rate_limited")) =>
            {
                "must be one of \"transient\", \"permanent\", \"rate_limited\"".to_owned()
            }
            "duration_ms" | "retry_after_ms" | "chunks" | "fail_attempts" | "fail" | "output" => {
                continue;
            }
            _ => "is not a field of a simulated input".to_owned(),
        };
        violations.push(Violation::new(key, description));
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    serde_json::from_value(Value::Object(input.clone()))
        .map_err(|error| vec![Violation::new("", error.to_string())])
}

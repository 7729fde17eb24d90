//! `simulated`: work that takes a stated time and ends as told, for rehearsing limits.

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

/// The provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct Simulated;

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
            None => Ok(Success {
                output: script.output.unwrap_or_else(
                    || json!({ "execution": call.execution.to_string(), "attempt": call.attempt }),
                ),
                usage: (script.chunks > 0)
                    .then(|| Usage { input_tokens: 0, output_tokens: i64::from(script.chunks) }),
            }),
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

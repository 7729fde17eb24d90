//! From a line to the submission it asks for.
//!
//! A line is the JSON of a SubmitExecutionRequest, under the names of the contract or their
//! lowerCamelCase. What the contract does not have is refused, so that a misspelt setting is not
//! silently left out of ten thousand executions.

use std::collections::BTreeMap;

use prost_types::{Duration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::name::{Digest, Name};
use crate::cli::{json, names, time};
use crate::pb::{ErrorCode, OnLost, RetryPolicy, SubmitExecutionRequest};

/// The label that every execution of a batch carries, with the batch's name.
pub(super) const LABEL: &str = "flowgate.batch";
/// An input of 16 MiB, and what else a submission may hold.
pub(super) const MAX_LINE_BYTES: usize = 17 * 1024 * 1024;
/// Larger inputs go out as their text: as a Struct, the largest would not fit a message.
const MAX_STRUCT_TEXT: usize = 1024 * 1024;

/// What lines are read with.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) name: Name,
    /// Of lines that name none.
    pub(super) provider: Option<String>,
}

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    provider: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(alias = "inputJson")]
    input_json: Option<String>,
    #[serde(alias = "requestId")]
    request_id: Option<String>,
    priority: Option<i32>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(alias = "scheduleTime")]
    schedule_time: Option<String>,
    #[serde(alias = "queueTimeout")]
    queue_timeout: Option<String>,
    #[serde(alias = "runTimeout")]
    run_timeout: Option<String>,
    #[serde(alias = "retryPolicy")]
    retry_policy: Option<WrittenPolicy>,
    #[serde(alias = "onLost")]
    on_lost: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPolicy {
    #[serde(alias = "maxAttempts")]
    max_attempts: Option<i32>,
    #[serde(alias = "initialBackoff")]
    initial_backoff: Option<String>,
    #[serde(alias = "maxBackoff")]
    max_backoff: Option<String>,
    #[serde(alias = "backoffMultiplier")]
    backoff_multiplier: Option<f64>,
    #[serde(default, alias = "retryOn")]
    retry_on: Vec<String>,
}

impl Reading {
    /// What stands for a line's content; none for a blank line.
    ///
    /// Of its bytes as they are: what they mean might be written otherwise by another version.
    pub(super) fn digest(&self, text: &[u8]) -> Option<Digest> {
        let text = text.trim_ascii();
        let provider = self.provider.as_deref().unwrap_or_default();
        (!text.is_empty()).then(|| Digest::of(&[text, provider.as_bytes()]))
    }

    /// The submission that a line asks for, or what is wrong with it.
    pub(super) fn request(
        &self,
        number: u64,
        text: &[u8],
        digest: Digest,
    ) -> Result<SubmitExecutionRequest, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
        if !text.trim_start().starts_with('{') {
            return Err("is not a JSON object".to_owned());
        }
        let line: Written<'_> = serde_json::from_str(text).map_err(|error| told(&error))?;
        let provider = line.provider.or_else(|| self.provider.clone());
        let mut labels = line.labels.unwrap_or_default();
        if labels.insert(LABEL.to_owned(), self.name.as_str().to_owned()).is_some() {
            return Err(format!("labels: {LABEL} is set by the batch"));
        }
        let own_request_id = line.request_id.filter(|id| !id.is_empty());
        let (input, input_json) = match (line.input, line.input_json) {
            (Some(_), Some(_)) => return Err("input_json: must not be given beside input".into()),
            (Some(input), None) => given(input)?,
            (None, text) => (None, text.unwrap_or_default()),
        };
        Ok(SubmitExecutionRequest {
            provider: provider.ok_or("names no provider, and there is no --provider")?,
            input,
            input_json,
            request_id: own_request_id.unwrap_or_else(|| self.name.request_id(number, digest)),
            priority: line.priority.unwrap_or_default(),
            labels,
            schedule_time: optional("schedule_time", line.schedule_time, parse_time)?,
            queue_timeout: optional("queue_timeout", line.queue_timeout, parse_duration)?,
            run_timeout: optional("run_timeout", line.run_timeout, parse_duration)?,
            retry_policy: line.retry_policy.map(WrittenPolicy::read).transpose()?,
            on_lost: optional("on_lost", line.on_lost, names::parse::<OnLost>)?
                .unwrap_or_default()
                .into(),
        })
    }
}

impl WrittenPolicy {
    fn read(self) -> Result<RetryPolicy, String> {
        let codes = self.retry_on.iter().map(|name| names::parse::<ErrorCode>(name));
        let codes: Result<Vec<_>, _> = codes.collect();
        let codes = codes.map_err(|error| format!("retry_policy.retry_on: {error}"))?;
        let backoff = |field, text| optional(field, text, parse_duration);
        Ok(RetryPolicy {
            max_attempts: self.max_attempts,
            initial_backoff: backoff("retry_policy.initial_backoff", self.initial_backoff)?,
            max_backoff: backoff("retry_policy.max_backoff", self.max_backoff)?,
            backoff_multiplier: self.backoff_multiplier,
            retry_on: codes.into_iter().map(i32::from).collect(),
        })
    }
}

/// The input as it is sent: as its text where a Struct would round a number or grow too large.
fn given(input: &RawValue) -> Result<(Option<prost_types::Struct>, String), String> {
    let text = input.get();
    if !text.starts_with('{') {
        return Err("input: must be a JSON object".to_owned());
    }
    if text.len() > MAX_STRUCT_TEXT {
        return Ok((None, text.to_owned()));
    }
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("input: {}", told(&error)))?;
    Ok(match json::to_struct(object) {
        Ok(message) => (Some(message), String::new()),
        Err(_rounded) => (None, text.to_owned()),
    })
}

fn optional<T>(
    field: &str,
    text: Option<String>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let parsed = text.map(|text| parse(&text)).transpose();
    parsed.map_err(|error| format!("{field}: {error}"))
}

/// A time that means the same in every run: from now would make another submission each time.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    match text.parse() {
        Ok(time) => Ok(time),
        Err(_) if text.starts_with(['+', '-']) => {
            Err("must be a time such as 2026-01-31T08:00:00Z, the same in every run".to_owned())
        }
        Err(_) => time::parse_time(text),
    }
}

/// `1.5s` as in proto3 JSON, or `1m 30s` as on the command line.
fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse().or_else(|_| time::parse_duration(text))
}

/// What is wrong with the JSON of one line: the number of its line is always 1, and said elsewhere.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = text.strip_suffix(&place).unwrap_or(&text);
    format!("{problem} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(provider: Option<&str>) -> Reading {
        Reading { name: "n".parse().unwrap(), provider: provider.map(str::to_owned) }
    }

    fn request(line: &str) -> Result<SubmitExecutionRequest, String> {
        let reading = reading(Some("claude"));
        let digest = reading.digest(line.as_bytes()).expect("the line is not blank");
        reading.request(3, line.as_bytes(), digest)
    }

    #[test]
    fn a_line_becomes_the_request_whichever_names_it_uses() {
        let line = r#"{"provider": "sim", "input": {"a": 1}, "request_id": "mine", "priority": -3,
            "labels": {"team": "a"}, "schedule_time": "2030-01-01T00:00:00Z", "queue_timeout": "5m",
            "run_timeout": "1.5s", "retry_policy": {"max_attempts": 2, "retry_on": ["timeout"]}}"#;
        let first = request(line).unwrap();
        assert_eq!((first.provider.as_str(), first.request_id.as_str()), ("sim", "mine"));
        assert_eq!((first.labels["team"].as_str(), first.labels[LABEL].as_str()), ("a", "n"));
        assert_eq!(first.queue_timeout.unwrap().seconds, 300);
        assert_eq!(first.run_timeout.unwrap().nanos, 500_000_000);
        let policy = first.retry_policy.as_ref().unwrap();
        assert_eq!(policy.retry_on, [i32::from(ErrorCode::Timeout)]);
        let camel = line
            .replace("request_id", "requestId")
            .replace("schedule_time", "scheduleTime")
            .replace("run_timeout", "runTimeout")
            .replace("retry_policy", "retryPolicy")
            .replace("max_attempts", "maxAttempts")
            .replace("\"timeout\"", "\"ERROR_CODE_TIMEOUT\"");
        assert_eq!(request(&camel).unwrap(), first);
    }

    #[test]
    fn a_line_needs_nothing_but_a_provider() {
        let given = request("{}").unwrap();
        assert_eq!((given.provider.as_str(), &given.input), ("claude", &None));
        assert!(given.request_id.starts_with("batch:n:3:"), "{}", given.request_id);
        let digest = Digest::of(&[]);
        let refused = reading(None).request(1, b"{}", digest).unwrap_err();
        assert!(refused.contains("--provider"), "{refused}");
    }

    #[test]
    fn an_input_that_a_struct_would_change_goes_out_as_its_text() {
        let exact = request(r#"{"input": {"seed": 9007199254740993}}"#).unwrap();
        assert_eq!(
            (exact.input, exact.input_json.as_str()),
            (None, r#"{"seed": 9007199254740993}"#)
        );
        let large = format!(r#"{{"input": {{"list": [{}1]}}}}"#, "1,".repeat(MAX_STRUCT_TEXT));
        assert!(request(&large).unwrap().input_json.len() > MAX_STRUCT_TEXT);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, expected) in [
            ("nonsense", "is not a JSON object"),
            ("[]", "is not a JSON object"),
            ("{nonsense", "key must be a string (column 2)"),
            (r#"{"imput": {}}"#, "unknown field `imput`"),
            (r#"{"retry_policy": {"attempts": 2}}"#, "unknown field `attempts`"),
            (r#"{"input": [1]}"#, "input: must be a JSON object"),
            (r#"{"input": {}, "input_json": "{}"}"#, "input_json: "),
            (r#"{"priority": 1, "priority": 2}"#, "duplicate field"),
            (r#"{"labels": {"flowgate.batch": "x"}}"#, "set by the batch"),
            (r#"{"run_timeout": "soon"}"#, "run_timeout: "),
            (r#"{"schedule_time": "+10s"}"#, "the same in every run"),
            (r#"{"retry_policy": {"retry_on": ["luck"]}}"#, "must be one of"),
        ] {
            let refused = request(line).unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
            assert!(!refused.contains("at line"), "{line}: {refused}");
        }
        let digest = Digest::of(&[]);
        assert_eq!(reading(None).request(1, b"\xff", digest).unwrap_err(), "is not UTF-8");
    }

    #[test]
    fn the_content_of_a_line_includes_the_provider_it_goes_to() {
        let digest = |provider, line: &[u8]| reading(provider).digest(line);
        assert_eq!(digest(None, b" {} \r"), digest(None, b"{}"));
        assert_ne!(digest(Some("a"), b"{}"), digest(Some("b"), b"{}"));
        assert_ne!(digest(None, b"{}"), digest(None, b"{ }"));
        assert_eq!(digest(None, b" \r"), None);
    }
}

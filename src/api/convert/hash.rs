//! Tells whether two submissions with one `request_id` ask for the same.
//!
//! The hash covers every field but the `request_id`, defaults filled in, the input as parsed JSON.
//! It is stored beside the execution: its form must not change between versions. The defaults are
//! Flowgate's own, never those of a provider: an operator who changes one must not turn a repeated
//! submission into a conflict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use crate::domain::{ErrorCode, OnLost, RetryPolicy};
use crate::engine::Draft;

/// The submission in the one form that is hashed. Maps are sorted by their keys.
#[derive(Serialize)]
struct Canonical<'a> {
    provider: &'a str,
    input: &'a Map<String, Value>,
    /// Numbers of the input that the parsed form has rounded.
    rounded_numbers: Vec<&'a str>,
    priority: i32,
    labels: &'a BTreeMap<String, String>,
    schedule_time_us: Option<i64>,
    queue_timeout_us: Option<u128>,
    run_timeout_us: Option<u128>,
    max_attempts: u32,
    initial_backoff_us: u128,
    max_backoff_us: u128,
    backoff_multiplier: f64,
    retry_on: Vec<ErrorCode>,
    /// Left out where it is the default, as in submissions from before there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_lost: Option<OnLost>,
}

/// The hash of `draft`, whose input is `input`, as 64 hexadecimal digits.
pub(crate) fn request_hash(draft: &Draft, input: &Map<String, Value>) -> String {
    let mut retry = draft.retry.clone().over(&RetryPolicy::default());
    retry.retry_on.sort_unstable_by_key(|code| *code as u8);
    let canonical = Canonical {
        provider: draft.provider.as_str(),
        input,
        rounded_numbers: if draft.input.exact { rounded(&draft.input.json) } else { Vec::new() },
        priority: draft.priority,
        labels: &draft.labels,
        schedule_time_us: draft.schedule_at.map(crate::domain::Timestamp::as_micros),
        queue_timeout_us: draft.queue_timeout.as_ref().map(Duration::as_micros),
        run_timeout_us: draft.run_timeout.as_ref().map(Duration::as_micros),
        max_attempts: retry.max_attempts,
        initial_backoff_us: retry.initial_backoff.as_micros(),
        max_backoff_us: retry.max_backoff.as_micros(),
        backoff_multiplier: retry.multiplier,
        retry_on: retry.retry_on,
        on_lost: Some(draft.on_lost).filter(|on_lost| *on_lost != OnLost::default()),
    };
    let mut hasher = Sha256::new();
    serde_json::to_writer(&mut hasher, &canonical).expect("a hasher takes every byte");
    hex(&hasher.finalize())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every character");
        text
    })
}

/// The numbers in a JSON text that no integer or double holds exactly, sorted: what tells apart
/// two inputs that only differ in digits a double has no room for.
fn rounded(json: &str) -> Vec<&str> {
    let mut numbers = Vec::new();
    let mut rest = json;
    while let Some(start) = rest.find(|char: char| matches!(char, '"' | '-' | '0'..='9')) {
        rest = &rest[start..];
        let length = if rest.starts_with('"') { string_length(rest) } else { number_length(rest) };
        let (token, behind) = rest.split_at(length);
        if !token.starts_with('"') && is_rounded(token) {
            numbers.push(token);
        }
        rest = behind;
    }
    numbers.sort_unstable();
    numbers
}

/// The length of the string that `text` begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

fn number_length(text: &str) -> usize {
    let in_number = |char: char| matches!(char, '-' | '+' | '.' | 'e' | 'E' | '0'..='9');
    text.find(|char| !in_number(char)).unwrap_or(text.len())
}

fn is_rounded(token: &str) -> bool {
    /// So many decimal digits always survive a double.
    const SAFE_DIGITS: usize = 15;
    let mantissa = token.split(['e', 'E']).next().unwrap_or(token);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0');
    digits.count() > SAFE_DIGITS
        && !token.parse::<Number>().is_ok_and(|number| number.is_i64() || number.is_u64())
}

#[cfg(test)]
mod tests {
    use super::super::submit::draft;
    use crate::api::convert::json::to_struct;
    use crate::pb;
    use prost_types::{Duration, Timestamp};
    use serde_json::{Value, json};

    fn hash(given: pb::SubmitExecutionRequest) -> String {
        draft(given, None).expect("the request is well-formed").request_hash
    }

    fn of_json(json: &str) -> String {
        hash(pb::SubmitExecutionRequest {
            provider: "ollama".to_owned(),
            input_json: json.to_owned(),
            ..Default::default()
        })
    }

    fn base() -> pb::SubmitExecutionRequest {
        pb::SubmitExecutionRequest { provider: "ollama".to_owned(), ..Default::default() }
    }

    #[test]
    fn the_same_meaning_has_the_same_hash() {
        let Value::Object(object) = json!({"b": [1, 2.5], "a": {"y": 1, "x": null}}) else {
            unreachable!()
        };
        let given = pb::SubmitExecutionRequest { input: Some(to_struct(object)), ..base() };
        let same = of_json("{ \"a\": {\"x\": null, \"y\": 1},\n \"b\": [1, 2.50] }");
        assert_eq!(hash(given), same);
        let defaults = pb::SubmitExecutionRequest {
            request_id: "another".to_owned(),
            input_json: "{}".to_owned(),
            retry_policy: Some(pb::RetryPolicy {
                max_attempts: Some(4),
                max_backoff: Some(Duration { seconds: 60, nanos: 0 }),
                ..Default::default()
            }),
            ..base()
        };
        assert_eq!(hash(defaults), hash(base()));
    }

    #[test]
    fn any_field_changed_changes_the_hash() {
        let span = Some(Duration { seconds: 7, nanos: 0 });
        let policy = |policy| pb::SubmitExecutionRequest { retry_policy: Some(policy), ..base() };
        let plain = pb::RetryPolicy::default();
        let changed = [
            base(),
            pb::SubmitExecutionRequest { provider: "claude".to_owned(), ..base() },
            pb::SubmitExecutionRequest { input_json: "{\"a\":1}".to_owned(), ..base() },
            pb::SubmitExecutionRequest { input_json: "{\"a\":1.5}".to_owned(), ..base() },
            pb::SubmitExecutionRequest { input_json: "{\"a\":\"1\"}".to_owned(), ..base() },
            pb::SubmitExecutionRequest { priority: 1, ..base() },
            pb::SubmitExecutionRequest { labels: [("a".into(), "b".into())].into(), ..base() },
            pb::SubmitExecutionRequest {
                schedule_time: Some(Timestamp { seconds: 7, nanos: 0 }),
                ..base()
            },
            pb::SubmitExecutionRequest { queue_timeout: span, ..base() },
            pb::SubmitExecutionRequest { run_timeout: span, ..base() },
            policy(pb::RetryPolicy { max_attempts: Some(5), ..plain.clone() }),
            policy(pb::RetryPolicy { initial_backoff: span, ..plain.clone() }),
            policy(pb::RetryPolicy { max_backoff: span, ..plain.clone() }),
            policy(pb::RetryPolicy { backoff_multiplier: Some(3.0), ..plain.clone() }),
            policy(pb::RetryPolicy { retry_on: vec![8], ..plain }),
        ];
        let count = changed.len();
        let hashes: std::collections::BTreeSet<_> = changed.into_iter().map(hash).collect();
        assert_eq!(hashes.len(), count);
        assert!(hashes.iter().all(|hash| hash.len() == 64));
    }

    #[test]
    fn numbers_that_differ_beyond_a_double_are_told_apart() {
        let large = of_json(r#"{"seed":123456789012345678901234567890}"#);
        assert_ne!(large, of_json(r#"{"seed":123456789012345678901234567891}"#));
        assert_eq!(large, of_json(r#" {"seed" : 123456789012345678901234567890}"#));
        assert_ne!(of_json(r#"{"n":9007199254740993}"#), of_json(r#"{"n":9007199254740992}"#));
    }

    #[test]
    fn digits_within_a_string_are_no_numbers() {
        assert_eq!(
            super::rounded(r#"{"a\"1234567890123456789.5":"12345678901234567.5"}"#),
            [""; 0]
        );
        let text = r#"{"a":[-1234567890123456.5,1.25],"b":2}"#;
        assert_eq!(super::rounded(text), ["-1234567890123456.5"]);
    }
}

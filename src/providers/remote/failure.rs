//! What goes wrong on the way to a provider and what its errors mean, in types.
//!
//! Each adapter has one table of [`Rule`]s; `docs/providers.md` shows them. The first that fits
//! decides, [`COMMON`] comes last.

use std::error::Error as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};

use super::RemoteConfig;
use super::quota::quota;
use super::wait_hint::wait_hint;
use crate::domain::{ErrorCode, Failure, FailureKind};
use crate::providers::AttemptFailure;

/// What an error means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::providers) enum Class {
    /// May pass.
    Transient,
    /// Passes by waiting; costs no attempt.
    RateLimited,
    /// Will not pass.
    Permanent,
}

/// One line of a table of errors.
#[derive(Debug, Clone)]
pub(in crate::providers) struct Rule {
    /// The statuses it is about.
    pub(in crate::providers) status: RangeInclusive<u16>,
    /// The `type`, `code` or the like in the body that it is about; any if `None`.
    pub(in crate::providers) named: Option<&'static str>,
    /// What it means.
    pub(in crate::providers) class: Class,
}

impl Rule {
    /// A rule for a status, whatever the body says.
    pub(in crate::providers) const fn status(status: u16, class: Class) -> Self {
        Self { status: status..=status, named: None, class }
    }

    /// A rule for what the body says, whatever the status.
    pub(in crate::providers) const fn named(name: &'static str, class: Class) -> Self {
        Self { status: 100..=599, named: Some(name), class }
    }
}

/// What statuses mean where a provider's own table says nothing else.
pub(in crate::providers) const COMMON: &[Rule] = &[
    Rule::status(408, Class::Transient),
    Rule::status(409, Class::Transient),
    Rule::status(425, Class::Transient),
    Rule::status(429, Class::RateLimited),
    Rule::status(503, Class::RateLimited),
    Rule::status(529, Class::RateLimited),
    Rule { status: 500..=599, named: None, class: Class::Transient },
];

impl AttemptFailure {
    /// Adds to what programs can read of it.
    pub(in crate::providers) fn add_detail(&mut self, name: &str, value: Value) {
        self.failure.add_detail(name, value);
    }

    pub(in crate::providers) fn with_detail(mut self, name: &str, value: Value) -> Self {
        self.add_detail(name, value);
        self
    }

    /// What a log may say of it: nothing that a server said, which may repeat the input.
    pub(in crate::providers) fn for_log(&self) -> String {
        let details = self.failure.details.as_ref();
        let ours = ["http_status", "reason", "endpoint"].into_iter().filter_map(|name| {
            Some(match details?.get(name)? {
                Value::String(text) => format!(", {name} {text}"),
                other => format!(", {name} {other}"),
            })
        });
        format!("{:?}{}", self.failure.code, ours.collect::<String>())
    }
}

/// A failure that may pass.
pub(in crate::providers) fn transient(message: impl Into<String>) -> AttemptFailure {
    let failure = Failure::new(ErrorCode::Transient, true, message);
    AttemptFailure::new(FailureKind::Transient, failure)
}

/// A failure that will not pass.
pub(in crate::providers) fn permanent(message: impl Into<String>) -> AttemptFailure {
    let failure = Failure::new(ErrorCode::Permanent, false, message);
    AttemptFailure::new(FailureKind::Permanent, failure)
}

/// An answer that is not what the provider's protocol has: cut off, or something else's.
pub(in crate::providers) fn broken(message: impl Into<String>) -> AttemptFailure {
    transient(message).with_detail("reason", "broken_answer".into())
}

/// A failure that a provider tells of by name inside an answer or a stream, `status` as if.
pub(in crate::providers) fn told(rules: &[Rule], status: u16, error: &Value) -> AttemptFailure {
    let said = Said::of(error);
    let class = classify(rules, status, &said.names);
    of_class(class, said.message_or("the provider failed without saying why"), None)
        .with_detail("provider_error", json!({"names": said.names, "message": said.message}))
}

/// What an answer with this status means.
pub(super) fn refused(
    rules: &[Rule],
    status: StatusCode,
    headers: &HeaderMap,
    body: &str,
) -> AttemptFailure {
    let said = match serde_json::from_str::<Value>(body) {
        Ok(value) => Said::of(&value),
        Err(_) => Said { names: Vec::new(), message: Some(brief(body)).filter(|b| !b.is_empty()) },
    };
    let class = classify(rules, status.as_u16(), &said.names);
    let hint = wait_hint(headers);
    let name = status.canonical_reason().unwrap_or("status");
    let message = if status.is_redirection() {
        "redirects are not followed".to_owned()
    } else {
        said.message_or("no more was said")
    };
    let message = format!("{} {name}: {message}", status.as_u16());
    let mut failed = of_class(class, message, hint);
    failed.quota = quota(headers);
    failed.add_detail("http_status", status.as_u16().into());
    if !said.names.is_empty() {
        let error = json!({"names": said.names, "message": said.message});
        failed.add_detail("provider_error", error);
    }
    let id = ["x-request-id", "request-id"].iter().find_map(|name| headers.get(*name));
    if let Some(id) = id.and_then(|id| id.to_str().ok()) {
        failed.add_detail("request_id", id.into());
    }
    failed
}

fn of_class(class: Class, message: String, retry_after: Option<Duration>) -> AttemptFailure {
    let (code, retryable, kind) = match class {
        Class::Transient => (ErrorCode::Transient, true, FailureKind::Transient),
        Class::Permanent => (ErrorCode::Permanent, false, FailureKind::Permanent),
        Class::RateLimited => (ErrorCode::RateLimited, true, FailureKind::RateLimited),
    };
    let failed = AttemptFailure::new(kind, Failure::new(code, retryable, message));
    let failed = AttemptFailure { retry_after, ..failed };
    match retry_after {
        Some(hint) => failed.with_detail("retry_after_seconds", hint.as_secs_f64().into()),
        None => failed,
    }
}

/// The class of an error by the first rule that fits it. What no rule fits is the request's fault.
fn classify(rules: &[Rule], status: u16, names: &[String]) -> Class {
    let fits = |rule: &&Rule| {
        rule.status.contains(&status)
            && rule.named.is_none_or(|named| names.iter().any(|name| name == named))
    };
    rules.iter().chain(COMMON).find(fits).map_or(Class::Permanent, |rule| rule.class)
}

/// What an error's body says, in any of the forms in use.
#[derive(Debug, PartialEq)]
struct Said {
    names: Vec<String>,
    message: Option<String>,
}

impl Said {
    fn of(body: &Value) -> Self {
        let mut said = Self { names: Vec::new(), message: None };
        said.read(body, 0);
        said.message = said.message.map(|message| brief(&message));
        said
    }

    fn read(&mut self, value: &Value, depth: u32) {
        match value {
            Value::String(text) => {
                self.message.get_or_insert_with(|| text.clone());
            }
            Value::Object(object) if depth < 4 => {
                for name in ["code", "type", "error_type"] {
                    match object.get(name) {
                        Some(Value::String(text)) if text != "error" => {
                            self.names.push(text.clone());
                        }
                        Some(Value::Number(number)) => self.names.push(number.to_string()),
                        _ => {}
                    }
                }
                // What is said at the innermost place says most.
                for name in ["error", "detail", "message", "msg", "errors"] {
                    if let Some(inner) = object.get(name) {
                        self.read(inner, depth + 1);
                    }
                }
            }
            Value::Array(values) if depth < 4 => {
                if let Some(first) = values.first() {
                    self.read(first, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn message_or(&self, other: &str) -> String {
        self.message.clone().unwrap_or_else(|| other.to_owned())
    }
}

/// No more of a message than people read.
fn brief(text: &str) -> String {
    const MOST: usize = 1_000;
    let text = text.trim();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// No answer came.
pub(super) fn unreachable(
    error: &reqwest::Error,
    url: &Url,
    config: &RemoteConfig,
) -> AttemptFailure {
    let endpoint = url.origin().ascii_serialization();
    let message = if error.is_builder() {
        return permanent(format!("the request cannot be made: {}", causes(error)));
    } else if error.is_connect() && error.is_timeout() {
        let limit = humantime::format_duration(config.connect_timeout);
        format!("cannot connect to {endpoint} within {limit}")
    } else if error.is_connect() {
        format!("cannot connect to {endpoint}: {}", causes(error))
    } else if error.is_timeout() {
        let limit = humantime::format_duration(config.idle_timeout);
        format!("{endpoint} said nothing for {limit}")
    } else {
        format!("no answer from {endpoint}: {}", causes(error))
    };
    let failed = transient(message).with_detail("endpoint", endpoint.into());
    if error.is_connect() { failed.with_detail("sent", false.into()) } else { failed }
}

/// An answer began and did not end.
pub(super) fn body_broken(error: &reqwest::Error) -> AttemptFailure {
    let message = if error.is_timeout() {
        "the server fell silent in the middle of its answer".to_owned()
    } else {
        format!("the answer broke off: {}", causes(error))
    };
    broken(message)
}

/// The innermost cause, without the URL, which may say more than it should.
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = match error.source() {
        Some(source) => source,
        None => return "it failed".to_owned(),
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the cases read better without a `&`")]
    fn said(body: Value) -> (Vec<String>, Option<String>) {
        let Said { names, message } = Said::of(&body);
        (names, message)
    }

    #[test]
    fn a_log_repeats_nothing_that_a_server_said() {
        let refused = refused(COMMON, StatusCode::BAD_GATEWAY, &HeaderMap::new(), "your input: x");
        assert!(refused.failure.message.contains("your input"));
        assert_eq!(refused.for_log(), "Transient, http_status 502");
        assert_eq!(broken("odd: x").for_log(), "Transient, reason broken_answer");
    }

    #[test]
    fn errors_are_read_in_the_forms_of_all_vendors() {
        let rate = json!({"error": {"message": "slow down", "type": "rate_limit_error",
            "param": null, "code": null}});
        assert_eq!(said(rate), (vec!["rate_limit_error".into()], Some("slow down".into())));
        let claude =
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}});
        assert_eq!(said(claude), (vec!["overloaded_error".into()], Some("m".into())));
        assert_eq!(
            said(json!({"error": "model 'x' not found"})).1,
            Some("model 'x' not found".into())
        );
        assert_eq!(said(json!({"detail": "Invalid API key"})).1, Some("Invalid API key".into()));
        let flow = json!({"detail": {"error": "Flow not found", "code": "FLOW_NOT_FOUND"}});
        assert_eq!(said(flow), (vec!["FLOW_NOT_FOUND".into()], Some("Flow not found".into())));
        let field =
            json!({"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required"}]});
        assert_eq!(said(field), (vec!["missing".into()], Some("Field required".into())));
        let n8n = json!({"code": 404, "message": "not registered", "hint": "x"});
        assert_eq!(said(n8n), (vec!["404".into()], Some("not registered".into())));
        assert_eq!(said(json!(17)), (vec![], None));
    }

    #[test]
    fn a_providers_own_rule_comes_before_the_common_ones() {
        let rules = [Rule::named("insufficient_quota", Class::Permanent)];
        let names = ["insufficient_quota".to_owned()];
        assert_eq!(classify(&rules, 429, &names), Class::Permanent);
        assert_eq!(classify(&rules, 429, &[]), Class::RateLimited);
        for (status, class) in [
            (400, Class::Permanent),
            (401, Class::Permanent),
            (404, Class::Permanent),
            (408, Class::Transient),
            (500, Class::Transient),
            (503, Class::RateLimited),
            (529, Class::RateLimited),
            (302, Class::Permanent),
        ] {
            assert_eq!(classify(&[], status, &[]), class, "{status}");
        }
    }

    #[test]
    fn an_answer_that_is_not_json_is_quoted_in_brief() {
        let body = "x".repeat(5_000);
        let failed = refused(&[], StatusCode::BAD_GATEWAY, &HeaderMap::new(), &body);
        assert!(failed.failure.message.starts_with("502 Bad Gateway: xxx"));
        assert!(failed.failure.message.len() < 1_100);
        assert_eq!(failed.failure.details, Some(json!({"http_status": 502})));
    }
}

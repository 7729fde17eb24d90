//! `http`: one request to a path below the base URL.
//!
//! What must stay true: no input leads out of the base URL, to another host or above its path.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use serde_json::{Map, Value, json};

use super::output::whole_characters;
use super::remote::{
    Answer, Check, DROP_GRACE, Progress, Remote, RemoteConfig, Request, Scheme, dropped, fields,
};
use super::{AttemptFailure, Call, Provider, Success, Violation};

/// The methods that a request may have.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Headers that belong to the connection and not to the request.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Content types of which the text is passed on while it comes.
const STREAMED: &[&str] = &["text/event-stream", "application/x-ndjson", "text/plain"];

/// The provider.
#[derive(Debug)]
pub struct Http {
    remote: Remote,
}

impl Http {
    /// A provider at these base URLs.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Bearer) }
    }

    async fn run(&self, request: &Request, progress: &Progress) -> Result<Value, AttemptFailure> {
        let (_route, answer) = self.remote.first(request).await?;
        let (status, headers) = (answer.status(), headers_of(answer.headers()));
        let json = answer.is("application/json");
        let streamed = status.is_success() && STREAMED.iter().any(|kind| answer.is(kind));
        let refused = (!status.is_success()).then(|| answer.verdict());
        let body =
            if streamed { passed_on(answer, progress).await? } else { answer.bytes().await? };
        let refused = refused.map(|verdict| verdict.of(&[], &body));
        let mut output = json!({"status": status.as_u16(), "headers": headers});
        output["body"] = match serde_json::from_slice(&body) {
            Ok(value) if json => value,
            _ => match String::from_utf8(body) {
                Ok(text) => text.into(),
                Err(error) => {
                    output["body_encoding"] = "base64".into();
                    STANDARD.encode(error.as_bytes()).into()
                }
            },
        };
        match refused {
            None => Ok(output),
            Some(failed) => Err(AttemptFailure { output: Some(output), ..failed }),
        }
    }
}

#[async_trait]
impl Provider for Http {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        const KNOWN: &[(&str, Check, &str)] = &[
            ("method", is_method, "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"),
            ("path", is_path, "a path below the base URL, without .., \\, # or a host"),
            ("headers", is_headers, "an object of texts that are valid headers"),
            ("body", |_| true, "anything"),
        ];
        let mut violations = fields(input, KNOWN, &[]);
        for name in input.get("headers").and_then(Value::as_object).into_iter().flat_map(Map::keys)
        {
            if HOP_BY_HOP.contains(&name.to_ascii_lowercase().as_str()) {
                let field = format!("headers.{name}");
                violations.push(Violation::new(field, "is set by the connection itself"));
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        let progress = Progress::new(call.output.clone(), self.remote.redactor().await);
        let request = request(&call);
        let mut stop = call.stop.clone();
        let result = tokio::select! {
            biased;
            reason = stop.requested() => Err(dropped(reason)),
            result = self.run(&request, &progress) => result,
        };
        progress.finish().await;
        let result = result.map(|output| Success { output, usage: None });
        progress.redactor().result(result)
    }

    fn stop_grace(&self) -> Duration {
        DROP_GRACE
    }
}

fn request(call: &Call) -> Request {
    let text = |name: &str| call.input.get(name).and_then(Value::as_str);
    let body = call.input.get("body").filter(|body| !body.is_null());
    let default = if body.is_some() { Method::POST } else { Method::GET };
    let method = text("method").and_then(|method| method.parse().ok()).unwrap_or(default);
    let mut request = Request::new(method, text("path").unwrap_or_default())
        // For servers that know it: the same for an attempt and the one after its crash.
        .header("idempotency-key", &call.key.to_string());
    request = match body {
        None => request,
        Some(Value::String(text)) => request.text(text.clone()),
        Some(body) => request.json(body.clone()),
    };
    request = request.traced(call.traceparent.as_deref());
    let headers = call.input.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        request = request.header(name, value.as_str().unwrap_or_default());
    }
    request
}

/// Reads the body and passes its text on while it comes.
async fn passed_on(answer: Answer, progress: &Progress) -> Result<Vec<u8>, AttemptFailure> {
    let mut chunks = std::pin::pin!(answer.chunks());
    let (mut body, mut passed) = (Vec::new(), 0);
    while let Some(chunk) = chunks.try_next().await? {
        body.extend_from_slice(&chunk);
        let end = passed + whole_characters(&body[passed..]);
        progress.text(&String::from_utf8_lossy(&body[passed..end])).await;
        passed = end;
    }
    Ok(body)
}

/// The headers of an answer. Cookies are credentials and are left out.
fn headers_of(headers: &HeaderMap) -> Map<String, Value> {
    let mut shown = Map::new();
    for name in headers.keys().filter(|name| **name != SET_COOKIE) {
        let values = headers.get_all(name).iter();
        let values: Vec<_> =
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        shown.insert(name.as_str().to_owned(), values.join(", ").into());
    }
    shown
}

fn is_method(value: &Value) -> bool {
    value.as_str().is_some_and(|method| METHODS.contains(&method))
}

fn is_headers(value: &Value) -> bool {
    let valid = |(name, value): (&String, &Value)| {
        HeaderName::from_str(name).is_ok()
            && value.as_str().is_some_and(|value| HeaderValue::from_str(value).is_ok())
    };
    value.as_object().is_some_and(|headers| headers.iter().all(valid))
}

/// Whether a path stays below the base URL, however a URL's parser reads it.
fn is_path(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let (path, _query) = text.split_once('?').unwrap_or((text, ""));
    let climbs = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    };
    let odd = |char: char| char.is_control() || matches!(char, '\\' | '#' | ' ');
    !text.contains(odd) && !path.starts_with("//") && !path.split('/').any(climbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_base_url() {
        for good in ["", "/", "a/b", "/a/b?c=../d", "/a..b/...", "/a%2Fb", "/ä"] {
            assert!(is_path(&good.into()), "{good}");
        }
        let bad = [
            "/..",
            "../a",
            "/a/%2E%2e/b",
            "/a/.%2e",
            "\\..",
            "//host/a",
            "/a#b",
            "/a b",
            "/\n",
            "./a",
        ];
        for bad in bad {
            assert!(!is_path(&bad.into()), "{bad}");
        }
        assert!(!is_path(&Value::Null));
    }
}

//! `http`: one request to a path below the base URL.
//!
//! What must stay true: no input leads out of the base URL, to another host or above its path.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use reqwest::Method;
use reqwest::header::{HeaderMap, SET_COOKIE};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::output::whole_characters;
use super::remote::{
    Answer, Check, DROP_GRACE, METHODS, Progress, Redactor, Remote, RemoteConfig, Request, Scheme,
    connection_headers, dropped, fields, is_headers, is_method, is_path, without_mark,
};
use super::{AttemptFailure, Call, Provider, Success, Violation};
use crate::domain::Quota;

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

    /// Sends the request and reads its answer into `received`.
    async fn run(
        &self,
        request: &Request,
        progress: &Progress,
        received: &Mutex<Option<Received>>,
    ) -> Result<(), AttemptFailure> {
        let (_route, answer) = self.remote.first(request).await?;
        let streamed = answer.status().is_success() && STREAMED.iter().any(|kind| answer.is(kind));
        let refused = (!answer.status().is_success()).then(|| answer.verdict());
        *received.lock().await = Some(Received::head(&answer));
        let mut chunks = pin!(answer.chunks());
        let mut passed = 0;
        while let Some(chunk) = chunks.try_next().await? {
            let text = match &mut *received.lock().await {
                Some(received) => received.take(&chunk, &mut passed),
                None => continue,
            };
            if streamed {
                progress.text(&text).await;
            }
        }
        let Some(received) = &mut *received.lock().await else { return Ok(()) };
        received.is_whole = true;
        refused.map_or(Ok(()), |verdict| Err(verdict.of(&[], &received.body)))
    }
}

/// What has come of an answer.
#[derive(Debug)]
struct Received {
    status: u16,
    headers: Map<String, Value>,
    is_json: bool,
    body: Vec<u8>,
    is_whole: bool,
    quota: Option<Quota>,
}

impl Received {
    fn head(answer: &Answer) -> Self {
        let headers = headers_of(answer.headers());
        let is_json = answer.is_json();
        let status = answer.status().as_u16();
        let quota = answer.quota();
        Self { status, headers, is_json, body: Vec::new(), is_whole: false, quota }
    }

    /// Takes more of the body; returns the text that is whole with it beyond the `passed` bytes.
    fn take(&mut self, chunk: &[u8], passed: &mut usize) -> String {
        self.body.extend_from_slice(chunk);
        let end = *passed + whole_characters(&self.body[*passed..]);
        let text = String::from_utf8_lossy(&self.body[*passed..end]).into_owned();
        *passed = end;
        text
    }

    /// The result: JSON as such, other text as text, anything else in base64.
    fn output(mut self, redactor: &Redactor) -> Value {
        let mut output = json!({"status": self.status, "headers": self.headers});
        let json = self.is_json.then(|| serde_json::from_slice(without_mark(&self.body)).ok());
        output["body"] = match (json.flatten(), std::str::from_utf8(&self.body)) {
            (Some(value), _) => value,
            (None, Ok(text)) => text.into(),
            (None, Err(_)) => {
                // What stands in base64 is not found any more.
                redactor.bytes(&mut self.body);
                output["body_encoding"] = "base64".into();
                STANDARD.encode(&self.body).into()
            }
        };
        output
    }
}

#[async_trait]
impl Provider for Http {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        const KNOWN: &[(&str, Check, &str)] = &[
            ("method", is_method, METHODS),
            ("path", is_path, "a path below the base URL, without .., \\, # or a host"),
            ("headers", is_headers, "an object of texts that are valid headers"),
            ("body", |_| true, "anything"),
        ];
        let mut violations = fields(input, KNOWN, &[]);
        violations.extend(connection_headers(input));
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        let progress = Progress::new(call.output.clone(), self.remote.redactor());
        let request = request(&call);
        let mut stop = call.stop.clone();
        let received = Mutex::new(None);
        let result = tokio::select! {
            biased;
            reason = stop.requested() => Err(dropped(reason)),
            result = self.run(&request, &progress, &received) => result,
        };
        progress.finish(result.is_ok()).await;
        let received = received.into_inner();
        let is_whole = received.as_ref().is_none_or(|received| received.is_whole);
        let quota = received.as_ref().and_then(|received| received.quota);
        let output = received.map(|received| received.output(progress.redactor()));
        let result = match result {
            Ok(()) => Ok(Success { quota, ..Success::new(output.unwrap_or_default(), None) }),
            Err(mut failed) => {
                if !is_whole {
                    failed.add_detail("partial_output", true.into());
                }
                Err(AttemptFailure { output, quota, ..failed })
            }
        };
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
    let mut request = Request::new(method, text("path").unwrap_or_default().to_owned())
        // For servers that know it: the same for an attempt and the one after its crash.
        .header("idempotency-key", &call.key.to_string());
    request = match body {
        None => request,
        Some(Value::String(text)) => request.text(text.clone()),
        Some(body) => request.json(body.clone()),
    };
    request = request.traced(call.trace.as_ref());
    request.headers(call.input.get("headers"))
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

//! Every request to a provider is a span of its own, and goes out as part of the trace.
//!
//! What must stay true: of a URL neither what stands for a user nor its query is told, nothing of what
//! the redactor knows, and of a path only text of the program's own. What an input or an answer puts
//! into a path may be all that protects what is behind it.

use opentelemetry::KeyValue;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{Answer, Redactor, Request};
use crate::domain::TraceContext;
use crate::telemetry::{self, SPAN_TARGET, to_i64};

/// A path below the base URL, and what is told of it.
#[derive(Debug, Clone)]
pub(in crate::providers) struct Path {
    sent: String,
    /// The same, with a name in braces for each part that comes from elsewhere. That it is part of the
    /// program keeps everything else out of it.
    told: Option<&'static str>,
}

impl From<&'static str> for Path {
    /// It is always the same, and told as it is.
    fn from(path: &'static str) -> Self {
        Self { sent: path.to_owned(), told: Some(path) }
    }
}

impl From<String> for Path {
    /// It is put together, and nothing of it is told.
    fn from(sent: String) -> Self {
        Self { sent, told: None }
    }
}

impl Path {
    pub(super) fn told_as(self, template: &'static str) -> Self {
        Self { told: Some(template), ..self }
    }

    /// Where it leads from this base URL. Joined as text: a path that begins with a slash would replace
    /// the base's own.
    pub(super) fn below(&self, base: &Url) -> String {
        join(base.as_str(), &self.sent)
    }
}

fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// Adds the trace context to what is sent, in the place of one that is there.
pub(super) fn hand_on(trace: &TraceContext, headers: &mut HeaderMap) {
    let TraceContext { traceparent, tracestate } = trace;
    headers.remove("tracestate");
    for (name, value) in [("traceparent", Some(traceparent)), ("tracestate", tracestate.as_ref())] {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// The span of one request, up to the head of its answer. Whoever receives the request is told of it,
/// whether it is sampled or not. `resent` says how often the same was sent to others before.
pub(super) fn request(
    base: &Url,
    request: &Request,
    resent: usize,
    redactor: &Redactor,
    headers: &mut HeaderMap,
) -> Span {
    let method = request.method.as_str();
    let span = tracing::debug_span!(
        target: SPAN_TARGET,
        "http request",
        otel.kind = "client",
        otel.name = method,
        otel.status_code = Empty,
        http.response.status_code = Empty,
        error.r#type = Empty,
    );
    if let Some(trace) = telemetry::trace_of(&span) {
        hand_on(&trace, headers);
    }
    if telemetry::recorded(&span).is_some() {
        span.set_attribute("http.request.method", method.to_owned());
        for attribute in place(base, &request.path, redactor) {
            span.set_attribute(attribute.key, attribute.value);
        }
        if resent > 0 {
            span.set_attribute("http.request.resend_count", to_i64(resent));
        }
    }
    span
}

/// Notes what came of a request.
pub(super) fn answered(span: &Span, sent: &Result<Answer, reqwest::Error>) {
    if telemetry::recorded(span).is_none() {
        return;
    }
    match sent {
        Ok(answer) => {
            let status = answer.status();
            span.record("http.response.status_code", i64::from(status.as_u16()));
            if status.is_client_error() || status.is_server_error() {
                span.record("error.type", status.as_str());
                span.record("otel.status_code", "ERROR");
            }
        }
        Err(error) => {
            let what = match error {
                error if error.is_connect() => "connect",
                error if error.is_timeout() => "timeout",
                _ => "broken",
            };
            span.record("error.type", what);
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// Where a request goes.
fn place(base: &Url, path: &Path, redactor: &Redactor) -> Vec<KeyValue> {
    let mut base = base.clone();
    base.set_query(None);
    base.set_fragment(None);
    // It fails where there can be none.
    let _ = base.set_username("");
    let _ = base.set_password(None);
    let mut attributes = Vec::with_capacity(4);
    if let Some(host) = base.host_str() {
        attributes.push(KeyValue::new("server.address", host.to_owned()));
    }
    if let Some(port) = base.port_or_known_default() {
        attributes.push(KeyValue::new("server.port", i64::from(port)));
    }
    let clean = |mut text: String| {
        redactor.text(&mut text);
        text
    };
    let fixed = path.told.filter(|told| *told == path.sent);
    let full = fixed.map_or_else(|| base.to_string(), |path| join(base.as_str(), path));
    attributes.push(KeyValue::new("url.full", clean(full)));
    if let Some(told) = path.told {
        attributes.push(KeyValue::new("url.template", clean(join(base.path(), told))));
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    #[test]
    fn of_a_url_only_the_place_is_told() {
        let redactor = Redactor::default();
        redactor.hide(&Secret::new("a-long-secret-token"));
        let url = url("https://who:pass@api.example:8443/bota-long-secret-token/send?key=abc#part");
        let told = format!("{:?}", place(&url, &"chat".into(), &redactor));
        for hidden in ["who", "pass", "a-long-secret-token", "key=abc", "part"] {
            assert!(!told.contains(hidden), "{hidden} in {told}");
        }
        let attributes = place(&self::url("http://127.0.0.1:81/v1/"), &"/chat".into(), &redactor);
        assert_eq!(
            attributes,
            [
                KeyValue::new("server.address", "127.0.0.1"),
                KeyValue::new("server.port", 81),
                KeyValue::new("url.full", "http://127.0.0.1:81/v1/chat"),
                KeyValue::new("url.template", "/v1/chat"),
            ]
        );
    }

    #[test]
    fn of_a_path_that_is_put_together_only_the_base_and_its_form_are_told() {
        let (base, redactor) = (url("http://127.0.0.1:81/v1"), Redactor::default());
        let path = Path::from("threads/a-guess/state?of=it".to_owned());
        let of = |path: &Path| place(&base, path, &redactor).split_off(2);
        let full = KeyValue::new("url.full", "http://127.0.0.1:81/v1");
        assert_eq!(of(&path), std::slice::from_ref(&full));
        let path = path.told_as("threads/{thread_id}/state");
        let template = KeyValue::new("url.template", "/v1/threads/{thread_id}/state");
        assert_eq!(of(&path), [full, template]);
        assert_eq!(path.below(&base), "http://127.0.0.1:81/v1/threads/a-guess/state?of=it");
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_context_takes_the_place_of_an_earlier_one() {
        let trace = |parent: &str, state: Option<&str>| TraceContext {
            traceparent: parent.to_owned(),
            tracestate: state.map(str::to_owned),
        };
        let mut headers = HeaderMap::new();
        hand_on(&trace("00-1-1-01", Some("a=1")), &mut headers);
        assert_eq!(headers["tracestate"], "a=1");
        hand_on(&trace("00-1-2-01", None), &mut headers);
        assert_eq!(headers["traceparent"], "00-1-2-01");
        assert!(!headers.contains_key("tracestate"));
    }
}

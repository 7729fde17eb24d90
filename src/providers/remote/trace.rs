//! Every request to a provider is a span of its own, and goes out as part of the trace.
//!
//! What must stay true: of a URL neither what stands for a user nor its query is told, and nothing
//! of what the redactor knows.

use opentelemetry::KeyValue;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{Answer, Redactor};
use crate::domain::TraceContext;
use crate::telemetry::{self, SPAN_TARGET};

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
    method: &Method,
    url: &str,
    resent: usize,
    redactor: &Redactor,
    headers: &mut HeaderMap,
) -> Span {
    let span = tracing::debug_span!(
        target: SPAN_TARGET,
        "http request",
        otel.kind = "client",
        otel.name = method.as_str(),
        otel.status_code = Empty,
        http.response.status_code = Empty,
        error.r#type = Empty,
    );
    if let Some(trace) = telemetry::trace_of(&span) {
        hand_on(&trace, headers);
    }
    if telemetry::recorded(&span).is_some() {
        span.set_attribute("http.request.method", method.as_str().to_owned());
        for attribute in place(url, redactor) {
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
fn place(url: &str, redactor: &Redactor) -> Vec<KeyValue> {
    let Ok(mut url) = Url::parse(url) else { return Vec::new() };
    url.set_query(None);
    url.set_fragment(None);
    // It fails where there can be none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut attributes = Vec::with_capacity(3);
    if let Some(host) = url.host_str() {
        attributes.push(KeyValue::new("server.address", host.to_owned()));
    }
    if let Some(port) = url.port_or_known_default() {
        attributes.push(KeyValue::new("server.port", i64::from(port)));
    }
    let mut full = String::from(url);
    redactor.text(&mut full);
    attributes.push(KeyValue::new("url.full", full));
    attributes
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    #[test]
    fn of_a_url_only_the_place_is_told() {
        let redactor = Redactor::default();
        redactor.hide(&Secret::new("a-long-secret-token"));
        let url = "https://who:pass@api.example:8443/bota-long-secret-token/send?key=abc#part";
        let told = format!("{:?}", place(url, &redactor));
        for hidden in ["who", "pass", "a-long-secret-token", "key=abc", "part"] {
            assert!(!told.contains(hidden), "{hidden} in {told}");
        }
        let attributes = place("http://127.0.0.1:81/v1/chat", &redactor);
        assert_eq!(
            attributes,
            [
                KeyValue::new("server.address", "127.0.0.1"),
                KeyValue::new("server.port", 81),
                KeyValue::new("url.full", "http://127.0.0.1:81/v1/chat"),
            ]
        );
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

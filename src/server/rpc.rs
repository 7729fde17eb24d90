//! A span for every call, as the conventions of OpenTelemetry for RPC servers have it.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::api;
use crate::domain::TraceContext;
use crate::pb;
use crate::telemetry::{self, Entry, RPC_TARGET, UNTRACED_TARGET};

/// What is served here of others' services.
const OTHERS: &[&str] = &[
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Decides whether a call is traced, before anything is made of it. What is not sampled has no spans, and goes on in
/// its trace by its headers alone, as if nothing were traced here.
pub(super) fn decide(mut request: http::Request<Body>) -> http::Request<Body> {
    let Some(entry) = telemetry::entry(api::trace_context(request.headers()).as_ref()) else {
        return request;
    };
    if let Entry::Unsampled(TraceContext { traceparent, .. }) = &entry
        && let Ok(traceparent) = HeaderValue::from_str(traceparent)
    {
        request.headers_mut().insert("traceparent", traceparent);
    }
    request.extensions_mut().insert(entry);
    request
}

/// The span of one call, up to the end of its answer. Disabled, and nearly free, unless traces or
/// debug logs want it.
pub(super) fn span(request: &http::Request<Body>) -> Span {
    let entry = request.extensions().get();
    if let Some(Entry::Unsampled(_)) = entry {
        let (name, kind) = (method(request), "server");
        return tracing::debug_span!(
            target: UNTRACED_TARGET, "rpc", otel.name = name, otel.kind = kind
        );
    }
    let span = tracing::debug_span!(
        target: RPC_TARGET,
        "rpc",
        otel.name = method(request),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.response.status_code = Empty,
        error.r#type = Empty,
    );
    if span.is_disabled() || !telemetry::traces_are_on() {
        return span;
    }
    if let Some(caller) = api::trace_context(request.headers()) {
        // It was just made, so it can only fail where nothing is traced.
        let _ = span.set_parent(telemetry::remote_parent(&caller));
    } else if let Some(Entry::Sampled(trace)) = entry {
        telemetry::start_in(&span, *trace);
    }
    if telemetry::recorded(&span).is_some() {
        span.set_attribute("rpc.system.name", "grpc");
        span.set_attribute("rpc.method", method(request).to_owned());
    }
    span
}

/// Notes the status of a call that ended with its head.
pub(super) fn answered<B>(response: &http::Response<B>, _: Duration, span: &Span) {
    // Where there is none, it comes with the trailers.
    if response.headers().contains_key(Status::GRPC_STATUS) {
        note(response.headers(), span);
    }
}

/// Notes the status of a call in the trailers of its answer.
pub(super) fn ended(trailers: Option<&HeaderMap>, _: Duration, span: &Span) {
    if let Some(trailers) = trailers {
        note(trailers, span);
    }
}

fn note(headers: &HeaderMap, span: &Span) {
    if telemetry::recorded(span).is_none() {
        return;
    }
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    let (name, is_fault) = name(code.unwrap_or(Code::Unknown));
    span.record("rpc.response.status_code", name);
    if is_fault {
        span.record("error.type", name);
        span.record("otel.status_code", "ERROR");
    }
}

/// What a status is called, and whether it is a fault of the server's: a client's mistake is none.
pub(super) const fn name(code: Code) -> (&'static str, bool) {
    match code {
        Code::Ok => ("OK", false),
        Code::Cancelled => ("CANCELLED", false),
        Code::Unknown => ("UNKNOWN", true),
        Code::InvalidArgument => ("INVALID_ARGUMENT", false),
        Code::DeadlineExceeded => ("DEADLINE_EXCEEDED", true),
        Code::NotFound => ("NOT_FOUND", false),
        Code::AlreadyExists => ("ALREADY_EXISTS", false),
        Code::PermissionDenied => ("PERMISSION_DENIED", false),
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", false),
        Code::FailedPrecondition => ("FAILED_PRECONDITION", false),
        Code::Aborted => ("ABORTED", false),
        Code::OutOfRange => ("OUT_OF_RANGE", false),
        Code::Unimplemented => ("UNIMPLEMENTED", true),
        Code::Internal => ("INTERNAL", true),
        Code::Unavailable => ("UNAVAILABLE", true),
        Code::DataLoss => ("DATA_LOSS", true),
        Code::Unauthenticated => ("UNAUTHENTICATED", false),
    }
}

fn method(request: &http::Request<Body>) -> &str {
    known(request.uri().path().trim_start_matches('/'))
}

fn known(path: &str) -> &str {
    served(path).unwrap_or("_OTHER")
}

/// The method that a path names, unless it is none that is served: what callers make up names neither spans nor
/// series.
pub(super) fn served(path: &str) -> Option<&'static str> {
    static KNOWN: OnceLock<HashSet<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let own = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut known: HashSet<_> = OTHERS.iter().map(|&name| name.to_owned()).collect();
        for file in &own.file {
            for service in &file.service {
                let methods = service.method.iter().map(|method| {
                    format!("{}.{}/{}", file.package(), service.name(), method.name())
                });
                known.extend(methods);
            }
        }
        known
    });
    known.get(path.trim_start_matches('/')).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_is_not_served_names_no_span() {
        let submit = "flowgate.v1.ExecutionService/SubmitExecution";
        assert_eq!(known(submit), submit);
        assert_eq!(known("grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        assert_eq!(known("flowgate.v1.ExecutionService/DropTables"), "_OTHER");
        assert_eq!(known(""), "_OTHER");
    }

    #[test]
    fn a_clients_mistake_is_no_fault_of_the_servers() {
        assert_eq!(name(Code::InvalidArgument), ("INVALID_ARGUMENT", false));
        assert_eq!(name(Code::Internal), ("INTERNAL", true));
    }
}

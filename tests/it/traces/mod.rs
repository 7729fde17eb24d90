//! Traces, as a collector gets them: which spans there are, whose children they are, what they tell
//! and what they do not.

mod exported;
mod outside;
mod sampling;
mod secrets;
mod way;

use flowgate::pb::{Execution, SubmitExecutionRequest};
use tonic::metadata::MetadataMap;

use crate::support::TestServer;
use crate::support::collector::{Collector, Span};

/// The trace, the span and the sampling of a client that is traced.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// What such a client sends.
fn traced<T>(message: T, flags: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let traceparent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "rojo=1".parse().unwrap());
    request
}

/// Submits as a client whose trace is sampled, or not; returns the metadata of the answer too.
async fn submit_traced(
    server: &TestServer,
    message: SubmitExecutionRequest,
    flags: &str,
) -> (Execution, MetadataMap) {
    let answer = server.execution().submit_execution(traced(message, flags)).await.unwrap();
    let (metadata, answer, _) = answer.into_parts();
    (answer.execution.unwrap(), metadata)
}

/// A `traceparent` as a sampled span has it.
fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", span.trace, span.id)
}

/// The span of an attempt, when it is over.
async fn attempt(collector: &Collector, id: &str, number: u32) -> Span {
    let is_it = |span: &Span| span.is("execution.id", id) && span.is("attempt", number);
    collector.span("attempt", is_it).await
}

/// The span of this name below another.
async fn child(collector: &Collector, name: &str, parent: &Span) -> Span {
    collector.span(name, |span| span.parent == parent.id && span.trace == parent.trace).await
}

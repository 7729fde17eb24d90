//! Ids of spans: drawn by lot, but for a span that is told which it is to have.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

thread_local! {
    /// What the span has that is being started on this thread.
    static GIVEN: Cell<Option<(TraceId, Option<SpanId>)>> = const { Cell::new(None) };
}

/// Starts a span under this id, and where it has no parent in this trace. It must be a new one, that
/// nobody has entered yet.
pub fn start_as(span: &Span, trace: TraceId, id: SpanId) {
    start(span, (trace, Some(id)));
}

/// Starts a span that has no parent in this trace. It must be a new one, too.
pub fn start_in(span: &Span, trace: TraceId) {
    start(span, (trace, None));
}

fn start(span: &Span, given: (TraceId, Option<SpanId>)) {
    GIVEN.set(Some(given));
    // Asking for its place in the trace starts it, here and now.
    let _started = span.context();
    GIVEN.set(None);
}

/// Gives out ids.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        let given = GIVEN.get().and_then(|(_, id)| id);
        given.unwrap_or_else(|| self.0.new_span_id())
    }
}

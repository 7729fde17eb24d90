//! W3C trace context: from what came in or was stored to a parent, and from a span to what goes on.
//!
//! Baggage is neither read nor handed on: it may hold what is nobody's business but the caller's.

use std::borrow::Cow;
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::domain::TraceContext;

/// The place in a trace that was received or stored; an invalid one if it is malformed.
pub fn span_context(trace: &TraceContext) -> SpanContext {
    let read = || {
        let mut parts = trace.traceparent.split('-').skip(1);
        let mut next = |length| parts.next().filter(|part| part.len() == length);
        let trace_id = TraceId::from_hex(next(32)?).ok()?;
        let span_id = SpanId::from_hex(next(16)?).ok()?;
        let flags = TraceFlags::new(u8::from_str_radix(next(2)?, 16).ok()?);
        let state = trace.tracestate.as_deref().map(TraceState::from_str);
        let state = state.and_then(Result::ok).unwrap_or_default();
        Some(SpanContext::new(trace_id, span_id, flags, true, state))
    };
    read().unwrap_or(SpanContext::NONE)
}

/// The span that a received or stored context names, as a parent for others.
pub fn remote_parent(trace: &TraceContext) -> Context {
    Context::new().with_remote_span_context(span_context(trace))
}

/// The place of a span in its trace, if it has one: one that is not sampled has a place too, so that
/// the trace goes on in whoever is told of it.
pub fn trace_of(span: &Span) -> Option<TraceContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let place = span.span_context();
    place.is_valid().then(|| place_of(place, place.is_sampled()))
}

/// A place in a trace as it is handed on.
pub(super) fn place_of(place: &SpanContext, sampled: bool) -> TraceContext {
    let (trace, span, flags) = (place.trace_id(), place.span_id(), u8::from(sampled));
    TraceContext {
        traceparent: format!("00-{trace}-{span}-{flags:02x}"),
        tracestate: Some(place.trace_state().header()).filter(|state| !state.is_empty()),
    }
}

/// The span's place in its trace, if it is recorded: what is told of others is worth no work.
pub fn recorded(span: &Span) -> Option<SpanContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    span.is_recording().then(|| span.span_context().clone())
}

/// Gives a span another name, once it is known.
pub fn rename(span: &Span, name: impl Into<Cow<'static, str>>) {
    span.context().span().update_name(name);
}

/// A count as an attribute has it. Spans know no other whole numbers: whatever else they are given they
/// keep as text.
pub fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(traceparent: &str, tracestate: Option<&str>) -> TraceContext {
        let (traceparent, tracestate) = (traceparent.to_owned(), tracestate.map(str::to_owned));
        TraceContext { traceparent, tracestate }
    }

    #[test]
    fn a_stored_trace_context_becomes_a_parent() {
        let stored = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = remote_parent(&trace(stored, Some("rojo=1")));
        let span = parent.span().span_context().clone();
        let id = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("hexadecimal");
        assert_eq!(span.trace_id(), id);
        assert!(span.is_remote() && span.is_sampled());
        assert_eq!(span.trace_state().get("rojo"), Some("1"));
    }

    #[test]
    fn garbage_is_no_parent() {
        for garbage in ["", "00-zz", "00-aa-bb-01", "00-0af7651916cd43dd8448eb211c80319c"] {
            assert!(!span_context(&trace(garbage, Some("=="))).is_valid(), "{garbage}");
        }
    }

    #[test]
    fn a_span_that_is_not_traced_has_no_place_in_a_trace() {
        assert_eq!(trace_of(&Span::none()), None);
        assert_eq!(trace_of(&Span::current()), None);
        assert_eq!(recorded(&tracing::info_span!("unheard")), None);
    }
}

//! W3C trace context, as it comes in, is stored and goes on.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header of W3C trace context.
const TRACEPARENT: &str = "traceparent";

/// The span that a stored or received `traceparent` names, as a parent for others.
pub fn remote_parent(traceparent: &str) -> Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract(&carrier)
}

/// The `traceparent` of the current span, if it is traced.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceId;

    use super::*;

    #[test]
    fn a_stored_traceparent_becomes_a_parent() {
        let parent = remote_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let span = parent.span().span_context().clone();
        assert_eq!(
            span.trace_id(),
            TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("hexadecimal")
        );
        assert!(span.is_remote() && span.is_sampled());
    }

    #[test]
    fn garbage_for_a_traceparent_is_no_parent() {
        assert!(!remote_parent("00-zz").span().span_context().is_valid());
    }

    #[test]
    fn a_span_that_is_not_traced_has_no_traceparent() {
        assert_eq!(current_traceparent(), None);
    }
}

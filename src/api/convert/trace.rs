//! The W3C trace context of a call, in its metadata.

use http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::domain::TraceContext;

/// The caller's trace context, if it sent a well-formed one.
pub(crate) fn trace_context(headers: &HeaderMap) -> Option<TraceContext> {
    let traceparent = headers.get("traceparent")?.to_str().ok()?;
    let states = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok());
    // Said in several headers, it is one list.
    let tracestate = states.collect::<Vec<_>>().join(",");
    TraceContext::parse(traceparent, Some(&tracestate))
}

/// Tells a client which trace an execution belongs to.
pub(crate) fn tell_trace(context: Option<&TraceContext>, metadata: &mut MetadataMap) {
    let Some(TraceContext { traceparent, tracestate }) = context else { return };
    let headers = [("traceparent", Some(traceparent)), ("tracestate", tracestate.as_ref())];
    for (name, value) in headers {
        if let Some(Ok(value)) = value.map(|value| MetadataValue::try_from(value.as_str())) {
            metadata.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_context_is_read_from_metadata_and_told_in_it() {
        let mut metadata = MetadataMap::new();
        assert_eq!(trace_context(metadata.as_ref()), None);
        metadata.insert("traceparent", GOOD.parse().unwrap());
        metadata.append("tracestate", "a=1".parse().unwrap());
        metadata.append("tracestate", "b=2".parse().unwrap());
        let context = trace_context(metadata.as_ref());
        let tracestate = Some("a=1,b=2".to_owned());
        assert_eq!(context, Some(TraceContext { traceparent: GOOD.to_owned(), tracestate }));

        let mut told = MetadataMap::new();
        tell_trace(context.as_ref(), &mut told);
        assert_eq!(trace_context(told.as_ref()), context);
        tell_trace(None, &mut told);
        assert_eq!(trace_context(told.as_ref()), context);
    }

    #[test]
    fn a_malformed_trace_context_is_no_context() {
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", "00-zz".parse().unwrap());
        assert_eq!(trace_context(metadata.as_ref()), None);
    }
}

//! What is sampled, asked before a span is made: where a tenth of the traces is kept, the other nine cost next to
//! nothing.
//!
//! What must stay true: it is the sampler that the standard variables name which decides, and for one trace it decides
//! the same everywhere; a trace that is not sampled goes on all the same in whoever is told of it.

use std::sync::OnceLock;

use opentelemetry::trace::{SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample};

use super::context::{place_of, span_context};
use crate::domain::TraceContext;

/// Decides; set where there is a collector and the way of each execution is all that it is to see.
static SAMPLER: OnceLock<Box<dyn ShouldSample>> = OnceLock::new();

/// What a call that comes in is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Recorded; in this trace, if the caller has none.
    Sampled(TraceId),
    /// Without spans. This is its place in its trace.
    Unsampled(TraceContext),
}

/// Decides on a call. `None` where nothing is traced, or everything has to be made to know.
pub fn entry(caller: Option<&TraceContext>) -> Option<Entry> {
    Some(decide(SAMPLER.get()?.as_ref(), caller))
}

/// Whether what comes after this place in a trace is certain to be recorded nowhere.
pub fn leaves_no_span(trace: &TraceContext) -> bool {
    let place = span_context(trace);
    place.is_valid()
        && SAMPLER
            .get()
            .is_some_and(|sampler| !samples(sampler.as_ref(), Some(&place), place.trace_id()))
}

/// Asks this sampler from now on.
pub(super) fn ask(sampler: Box<dyn ShouldSample>) {
    // Only a second server of the same process finds one: it traces like the first.
    let _ = SAMPLER.set(sampler);
}

fn decide(sampler: &dyn ShouldSample, caller: Option<&TraceContext>) -> Entry {
    let ids = RandomIdGenerator::default();
    let parent = caller.map(span_context).filter(SpanContext::is_valid);
    let trace = parent.as_ref().map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
    if samples(sampler, parent.as_ref(), trace) {
        return Entry::Sampled(trace);
    }
    let place = parent.unwrap_or_else(|| {
        let (span, state) = (ids.new_span_id(), Default::default());
        SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, false, state)
    });
    Entry::Unsampled(place_of(&place, false))
}

fn samples(sampler: &dyn ShouldSample, parent: Option<&SpanContext>, trace: TraceId) -> bool {
    const NONE: &[KeyValue] = &[];
    let parent = parent.map(|parent| Context::new().with_remote_span_context(parent.clone()));
    let sampled = sampler.should_sample(parent.as_ref(), trace, "", &SpanKind::Server, NONE, &[]);
    match sampled.decision {
        SamplingDecision::Drop => false,
        SamplingDecision::RecordOnly | SamplingDecision::RecordAndSample => true,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::Sampler;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn caller(flags: &str) -> TraceContext {
        let traceparent = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
        TraceContext { traceparent, tracestate: Some("rojo=1".to_owned()) }
    }

    fn half() -> Sampler {
        Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.5)))
    }

    #[test]
    fn a_caller_that_does_not_sample_is_gone_on_with_as_it_is() {
        let unsampled = decide(&half(), Some(&caller("00")));
        assert_eq!(unsampled, Entry::Unsampled(caller("00")));
        let trace = TraceId::from_hex(TRACE).expect("hexadecimal");
        assert_eq!(decide(&half(), Some(&caller("01"))), Entry::Sampled(trace));
    }

    #[test]
    fn what_is_not_sampled_here_is_said_to_be_so() {
        let unsampled = decide(&Sampler::AlwaysOff, Some(&caller("01")));
        assert_eq!(unsampled, Entry::Unsampled(caller("00")));
        let trace = TraceId::from_hex(TRACE).expect("hexadecimal");
        assert_eq!(decide(&Sampler::AlwaysOn, Some(&caller("00"))), Entry::Sampled(trace));
    }

    #[test]
    fn who_brings_no_trace_gets_one_and_the_sampler_says_the_same_of_it_again() {
        let mut sampled = 0;
        for _ in 0..200 {
            match decide(&half(), None) {
                Entry::Sampled(trace) => {
                    sampled += 1;
                    assert!(samples(&half(), None, trace));
                }
                Entry::Unsampled(place) => {
                    let place = span_context(&place);
                    assert!(place.is_valid() && !place.is_sampled(), "{place:?}");
                    assert!(!samples(&half(), None, place.trace_id()));
                    assert!(!samples(&half(), Some(&place), place.trace_id()));
                }
            }
        }
        assert!((1..200).contains(&sampled), "{sampled} of 200");
    }
}

//! The way of an execution as traces tell of it: `submit`, `queue wait`, `claim`, `attempt`, and
//! within that `provider call` and `settle`.
//!
//! What must stay true: nothing is worked out for a span that nobody records, and none is traced where
//! the trace is not sampled; no attribute holds an input, a result or what a provider said.
//!
//! Attempts of one execution run on any replica, however far apart, and each links to the one
//! before. No store keeps ids of spans for that: the id of an attempt's span follows from the
//! execution and the number of the attempt, so whoever makes the next one knows it.

mod call;

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, Context, KeyValue, Value};
use sha2::{Digest, Sha256};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use super::{Draft, Submission, SubmitError};
use crate::domain::{
    Ending, ErrorCode, Execution, ExecutionId, ProviderName, Timestamp, TraceContext, WorkerId,
};
use crate::metrics;
use crate::store::{ClaimReport, Claimed};
use crate::telemetry::{self, SPAN_TARGET, UNTRACED_TARGET, to_i64};

pub(super) use call::CallSpan;

/// What a link is to.
const LINK: &str = "flowgate.link";

/// The span of submissions that are stored together. `earlier` are what they run again.
pub(super) fn submit(drafts: &[Draft], earlier: &[TraceContext]) -> Span {
    let span = tracing::debug_span!(
        target: SPAN_TARGET,
        "submit",
        otel.kind = "producer",
        otel.status_code = Empty,
        executions = to_i64(drafts.len()),
        execution.id = Empty,
        provider = Empty,
        replayed = Empty,
    );
    if telemetry::recorded(&span).is_some() {
        if let [draft] = drafts {
            span.record("provider", draft.provider.as_str());
        }
        for earlier in earlier {
            link(&span, telemetry::span_context(earlier), "retried execution");
        }
    }
    span
}

/// Notes what became of submissions.
pub(super) fn submitted(span: &Span, result: &Result<Vec<Submission>, SubmitError>) {
    if telemetry::recorded(span).is_none() {
        return;
    }
    match result {
        Ok(submissions) => {
            if let [one] = submissions.as_slice() {
                let spec = &one.view.execution.spec;
                span.record("execution.id", tracing::field::display(spec.id));
                if let Some(first) = spec.trace.as_ref().filter(|_| one.replayed) {
                    span.record("replayed", true);
                    link(span, telemetry::span_context(first), "first submission");
                }
            }
        }
        // Everything else is the caller's mistake, or the server's that goes away in order.
        Err(SubmitError::Store(_)) => {
            span.record("otel.status_code", "ERROR");
        }
        Err(_) => {}
    }
}

/// Records a claim that got something, and returns where attempts may link to. It belongs to no
/// execution's trace, since it is made for many of them at once.
pub(super) fn claim(
    report: &ClaimReport,
    worker: WorkerId,
    began: SystemTime,
) -> Option<SpanContext> {
    if report.claimed.is_empty() || !telemetry::traces_are_on() {
        return None;
    }
    let found = report.providers.iter().filter(|found| found.claimed > 0);
    let names = found.map(|found| found.provider.as_str().to_owned().into()).collect();
    let attributes = vec![
        KeyValue::new("worker.id", worker.to_string()),
        KeyValue::new("executions", to_i64(report.claimed.len())),
        KeyValue::new("providers", Value::Array(Array::String(names))),
    ];
    let times = (began, opentelemetry::time::now());
    telemetry::past_span("claim", SpanKind::Internal, None, times, attributes)
}

macro_rules! attempt_span {
    ($target:expr, $claimed:expr, $worker:expr) => {
        tracing::info_span!(
            target: $target,
            parent: None,
            "attempt",
            otel.kind = "consumer",
            otel.status_code = Empty,
            execution.id = %$claimed.lease.id,
            provider = %$claimed.spec.provider,
            attempt = i64::from($claimed.attempt),
            worker.id = %$worker,
            outcome = Empty,
            error.r#type = Empty,
            trace_id = Empty,
        )
    };
}

/// The span of an attempt, a child of the submission, and if it is recorded the wait before it.
pub(super) fn attempt(
    claimed: &Claimed,
    worker: WorkerId,
    claim: Option<&SpanContext>,
) -> (Span, Option<QueueWait>) {
    let trace = claimed.spec.trace.as_ref();
    if !telemetry::traces_are_on() || trace.is_some_and(telemetry::leaves_no_span) {
        let span = attempt_span!(UNTRACED_TARGET, claimed, worker);
        // The log says whose it is all the same.
        if let Some(trace) = trace {
            span.record("trace_id", trace.trace_id());
        }
        return (span, None);
    }
    let span = attempt_span!(module_path!(), claimed, worker);
    let id = claimed.lease.id;
    let parent = trace.map(telemetry::remote_parent);
    let parent = parent.filter(|parent| parent.span().span_context().is_valid());
    let trace = parent
        .as_ref()
        .map_or_else(|| trace_of_its_own(id), |parent| parent.span().span_context().trace_id());
    if let Some(parent) = &parent {
        // It was just made, so it can only fail where nothing is traced.
        let _ = span.set_parent(parent.clone());
    }
    telemetry::start_as(&span, trace, attempt_id(id, claimed.attempt));
    let Some(place) = telemetry::recorded(&span) else { return (span, None) };
    if let Some(claim) = claim {
        link(&span, claim.clone(), "claim");
    }
    if claimed.attempt > 1 {
        let before = attempt_id(id, claimed.attempt - 1);
        let flags = TraceFlags::SAMPLED;
        let before = SpanContext::new(trace, before, flags, true, TraceState::NONE);
        link(&span, before, "attempt before");
    }
    // Of an execution without a trace the attempt is the first that is known.
    let parent = parent.unwrap_or_else(|| Context::new().with_remote_span_context(place));
    (span, Some(QueueWait::before(claimed, parent)))
}

/// How long an execution was due before its attempt began, as a span of its own.
pub(super) struct QueueWait {
    parent: Context,
    pub(super) execution: ExecutionId,
    provider: ProviderName,
    attempt: u32,
    due: Timestamp,
    claimed: Timestamp,
}

impl QueueWait {
    fn before(claimed: &Claimed, parent: Context) -> Self {
        let waited = i64::try_from(claimed.waited.as_micros()).unwrap_or(i64::MAX);
        Self {
            parent,
            execution: claimed.lease.id,
            provider: claimed.spec.provider.clone(),
            attempt: claimed.attempt,
            due: Timestamp::from_micros(claimed.at.as_micros().saturating_sub(waited)),
            claimed: claimed.at,
        }
    }

    /// Whether more must be known of the execution. What a rate limit turned away keeps its place in
    /// the queue: it has been due since before its last attempt.
    pub(super) const fn is_of_a_retry(&self) -> bool {
        self.attempt > 1
    }

    /// When this attempt's predecessor ended, in the whole execution.
    pub(super) fn put_back(&self, execution: &Execution) -> Option<Timestamp> {
        let earlier = execution.attempts.iter().filter(|it| it.number < self.attempt);
        earlier.filter_map(|attempt| attempt.ended_at).max()
    }

    /// Records it, from when it was due and nobody ran it.
    pub(super) fn record(self, put_back: Option<Timestamp>) {
        let start = put_back.map_or(self.due, |put_back| put_back.max(self.due)).min(self.claimed);
        let attributes = vec![
            KeyValue::new("execution.id", self.execution.to_string()),
            KeyValue::new("provider", self.provider.as_str().to_owned()),
            KeyValue::new("attempt", i64::from(self.attempt)),
        ];
        let (kind, parent) = (SpanKind::Internal, Some(&self.parent));
        let times = (system_time(start), system_time(self.claimed));
        telemetry::past_span("queue wait", kind, parent, times, attributes);
    }
}

/// With which error an attempt ended: to be stopped on request is none.
pub(super) const fn error_of(ending: &Ending) -> Option<ErrorCode> {
    match ending {
        Ending::Succeeded { .. } | Ending::Released { .. } | Ending::Cancelled { .. } => None,
        Ending::Failed { failure, .. }
        | Ending::Retry { failure, .. }
        | Ending::Crashed { failure } => Some(failure.code),
    }
}

/// The span of writing down how an attempt ended.
pub(super) fn settle() -> Span {
    tracing::debug_span!(
        target: SPAN_TARGET,
        "settle",
        otel.status_code = Empty,
        outcome = Empty,
        error.r#type = Empty,
    )
}

/// Notes how an attempt ended, if that was written down, and with which error if it failed. Of one whose
/// lease was lost nothing is written down, whatever it came to.
pub(super) fn ended(
    attempt: &Span,
    settle: &Span,
    written: Option<(metrics::Outcome, Option<ErrorCode>)>,
) {
    let error = match written {
        Some((how, error)) => {
            attempt.record("outcome", how.label());
            settle.record("outcome", how.label());
            error
        }
        None => {
            settle.record("error.type", ErrorCode::Lost.name());
            settle.record("otel.status_code", "ERROR");
            Some(ErrorCode::Lost)
        }
    };
    if let Some(error) = error {
        attempt.record("error.type", error.name());
        attempt.record("otel.status_code", "ERROR");
    }
}

fn link(span: &Span, to: SpanContext, what: &'static str) {
    span.add_link_with_attributes(to, vec![KeyValue::new(LINK, what)]);
}

/// The id of the span of an attempt.
fn attempt_id(id: ExecutionId, attempt: u32) -> SpanId {
    let hash = hash(id, &attempt.to_be_bytes());
    let [a, b, c, d, e, f, g, h, ..] = hash;
    SpanId::from_bytes([a, b, c, d, e, f, g, h])
}

/// The trace of an execution that was submitted without one: all of its attempts are in it.
fn trace_of_its_own(id: ExecutionId) -> TraceId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash(id, b"trace")[..16]);
    TraceId::from_bytes(bytes)
}

/// Of all ones and zeros only no id may be made: that a hash begins so does not happen.
fn hash(id: ExecutionId, what: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(Uuid::from(id).as_bytes());
    hash.update(what);
    hash.finalize().into()
}

fn system_time(at: Timestamp) -> SystemTime {
    let micros = u64::try_from(at.as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_an_id_that_follows_from_its_number() {
        let (one, other) = (ExecutionId::new(), ExecutionId::new());
        assert_eq!(attempt_id(one, 1), attempt_id(one, 1));
        assert_ne!(attempt_id(one, 1), attempt_id(one, 2));
        assert_ne!(attempt_id(one, 1), attempt_id(other, 1));
        assert_ne!(trace_of_its_own(one), trace_of_its_own(other));
        assert_eq!(trace_of_its_own(one), trace_of_its_own(one));
    }
}

//! Traces, to the collector that is named.

use std::borrow::Cow;
use std::error::Error;
use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Tracer as _, TracerProvider};
use opentelemetry::{Context as OtelContext, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::trace::{Config, SdkTracer, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, Targets, dynamic_filter_fn, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::collector::{self, Signal};
use super::ids::Ids;
use super::{RPC_TARGET, SPAN_TARGET, STORE_TARGET, UNTRACED_TARGET, sampling};

/// How much is traced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TraceLevel {
    /// Calls, and the way of each execution.
    #[default]
    Info,
    /// The store's transactions and statements too.
    Debug,
}

/// What spans are made with that nobody was inside of; set where there is a collector.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Records a span that is over already; returns its place in its trace. It begins a trace of its own
/// without a parent. `None` if nothing is traced, or this is not sampled.
pub fn past_span(
    name: &'static str,
    kind: SpanKind,
    parent: Option<&OtelContext>,
    (start, end): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
) -> Option<SpanContext> {
    let tracer = TRACER.get()?;
    let builder = tracer.span_builder(Cow::Borrowed(name)).with_kind(kind);
    let builder = builder.with_start_time(start).with_attributes(attributes);
    let none = OtelContext::new();
    let mut span = builder.start_with_context(tracer, parent.unwrap_or(&none));
    let place = span.is_recording().then(|| span.span_context().clone());
    span.end_with_timestamp(end);
    place
}

/// Whether there is a collector.
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// The layer that turns spans of the crate into spans of a trace. What is logged within them stays
/// out: it goes with the logs.
pub(super) fn layer<S>(provider: &SdkTracerProvider, level: TraceLevel) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let targets = Targets::new()
        .with_target("flowgate", LevelFilter::INFO)
        .with_target(UNTRACED_TARGET, LevelFilter::OFF)
        .with_target(RPC_TARGET, LevelFilter::DEBUG)
        .with_target(SPAN_TARGET, LevelFilter::DEBUG);
    let targets = match level {
        TraceLevel::Info => targets,
        TraceLevel::Debug => targets.with_target(STORE_TARGET, LevelFilter::DEBUG),
    };
    // Of what is not sampled nothing is made: what lies within it would seem to be in no trace yet.
    let within = move |metadata: &Metadata<'_>| {
        level == TraceLevel::Info && metadata.target() == SPAN_TARGET
    };
    let is_inside = dynamic_filter_fn(move |metadata, context: &Context<'_, S>| {
        !within(metadata) || context.lookup_current().is_some()
    });
    let is_inside = is_inside.with_callsite_filter(move |metadata| {
        if within(metadata) { Interest::sometimes() } else { Interest::always() }
    });
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("flowgate"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // Whose child a span is, `tracing` knows.
        .with_context_activation(false)
        .with_filter(targets.and(filter_fn(is_span)).and(is_inside))
}

fn is_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
}

/// Exports to the collector that the standard variables name, if they name one. The sampler, the
/// batches and the resource follow those variables too.
pub(super) fn provider(
    level: TraceLevel,
) -> Result<Option<SdkTracerProvider>, Box<dyn Error + Send + Sync>> {
    if !collector::is_named(Signal::Traces) {
        return Ok(None);
    }
    let tls = collector::tls(Signal::Traces)?;
    let exporter = SpanExporter::builder().with_tonic().with_tls_config(tls).build()?;
    let sampler = Config::default().sampler;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler.clone())
        .with_id_generator(Ids::default())
        .with_resource(collector::resource())
        .build();
    // Only a second server of the same process finds it set: it traces like the first.
    let _ = TRACER.set(provider.tracer("flowgate"));
    match level {
        TraceLevel::Info => sampling::ask(sampler),
        // Statements tell where they belong, in all that is done: nothing of it is left out beforehand.
        TraceLevel::Debug => {}
    }
    Ok(Some(provider))
}

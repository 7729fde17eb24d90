//! Traces, to the collector that is named.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::RPC_TARGET;
use super::collector::{self, Signal};

/// The layer that turns spans of the crate into spans of a trace.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let targets = Targets::new()
        .with_target("flowgate", LevelFilter::INFO)
        .with_target(RPC_TARGET, LevelFilter::DEBUG);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("flowgate"))
        .with_location(false)
        .with_threads(false)
        .with_filter(targets)
}

/// Exports to the collector that the standard variables name, if they name one. The sampler, the
/// batches and the resource follow those variables too.
pub(super) fn provider() -> Result<Option<SdkTracerProvider>, ExporterBuildError> {
    if !collector::is_named(Signal::Traces) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(collector::resource())
        .build();
    Ok(Some(provider))
}

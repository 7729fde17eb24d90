//! Logs on stderr, and traces to an OpenTelemetry collector where one is named.
//!
//! What must stay true: without a collector nothing of OpenTelemetry is set up and its spans cost
//! next to nothing; no trouble with a collector keeps the server from starting or from ending.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The header of W3C trace context.
const TRACEPARENT: &str = "traceparent";

/// Spans of single calls: traced, but logged only on request.
pub const RPC_TARGET: &str = "flowgate::rpc";

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub struct LogSettings {
    /// Where not set, text for a terminal and JSON for everything else.
    pub format: Option<LogFormat>,
    /// What is logged.
    pub filter: LogFilter,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Which events are logged; well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self::of_level(Level::INFO)
    }
}

impl LogFilter {
    /// Of the crates below Flowgate only trouble is logged.
    fn of_level(level: Level) -> Self {
        let below = level.min(Level::WARN);
        Self(format!("{below},flowgate={level},tower_http={level}"))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// Takes a level, or directives as in `RUST_LOG`.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "must be error, warn, info, debug, trace or a filter as in RUST_LOG, not {text:?}"
            )
        };
        if let Ok(level) = text.parse() {
            return Ok(Self::of_level(level));
        }
        // A single word that is no level would pass as the name of a crate and log nothing.
        let directives = text.contains(['=', ',']) || text.parse::<LevelFilter>().is_ok();
        match EnvFilter::builder().parse(text) {
            Ok(_) if directives => Ok(Self(text.to_owned())),
            Ok(_) | Err(_) => Err(invalid()),
        }
    }
}

/// What is to be flushed at the end.
#[derive(Debug)]
pub struct Telemetry {
    tracing: Option<SdkTracerProvider>,
}

/// Sets up logs and, where a collector is named, traces, for the whole process.
pub fn start(settings: &LogSettings) -> Telemetry {
    let (tracing, trouble) = match tracer_provider() {
        Ok(provider) => (provider, None),
        Err(error) => (None, Some(error)),
    };
    let spans = tracing.as_ref().map(|provider| {
        let targets = Targets::new()
            .with_target("flowgate", LevelFilter::INFO)
            .with_target(RPC_TARGET, LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("flowgate"))
            .with_location(false)
            .with_threads(false)
            .with_filter(targets)
    });
    let subscriber = tracing_subscriber::registry().with(logs(settings)).with(spans);
    // Fails if the process has one already: then it belongs to whoever embeds the server.
    let _ = subscriber.try_init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let payload = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, panic = payload, "A thread panicked");
    }));
    if let Some(provider) = &tracing {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        opentelemetry::global::set_tracer_provider(provider.clone());
    }
    if let Some(error) = trouble {
        tracing::warn!(error = %error, "Traces are not exported");
    }
    Telemetry { tracing }
}

impl Telemetry {
    /// Sends what is still to be sent, for no longer than `within`.
    pub async fn shutdown(self, within: Duration) {
        let Some(provider) = self.tracing else { return };
        let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within));
        match tokio::time::timeout(within, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(error = %error, "The last traces may be lost"),
            Ok(Err(_)) | Err(_) => tracing::warn!("The last traces may be lost"),
        }
    }
}

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

fn logs<S>(settings: &LogSettings) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    let filter = EnvFilter::builder().parse_lossy(&settings.filter.0);
    // Complaining about a closed stderr on that same stderr would panic.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match settings.format.unwrap_or(default) {
        LogFormat::Text => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            layer.with_ansi(terminal && !no_color).with_filter(filter).boxed()
        }
        LogFormat::Json => {
            layer.json().flatten_event(true).with_span_list(false).with_filter(filter).boxed()
        }
    }
}

/// Exports to the collector that the standard variables name, if they name one. The sampler, the
/// batches and the resource follow those variables too.
fn tracer_provider() -> Result<Option<SdkTracerProvider>, opentelemetry_otlp::ExporterBuildError> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    if named.is_none() || disabled {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let mut resource = Resource::builder();
    let nameless = set("OTEL_SERVICE_NAME").is_none()
        && !set("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
    if nameless {
        resource = resource.with_service_name("flowgate");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    Ok(Some(provider))
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

    #[test]
    fn a_word_that_is_no_level_is_refused_as_a_log_filter() {
        assert!("verbose".parse::<LogFilter>().is_err());
        assert!("a=b=c".parse::<LogFilter>().is_err());
        assert!("debug".parse::<LogFilter>().is_ok());
        assert!("off".parse::<LogFilter>().is_ok());
        assert!("warn,flowgate=trace".parse::<LogFilter>().is_ok());
    }
}

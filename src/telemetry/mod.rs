//! Logs on stderr, and traces to an OpenTelemetry collector where one is named.
//!
//! What must stay true: without a collector nothing of OpenTelemetry is set up and its spans cost
//! next to nothing; no trouble with a collector keeps the server from starting or from ending.

mod collector;
mod context;
mod ids;
mod level;
mod line;
mod logs;
mod push;
mod quiet;
mod sampling;
mod stderr;
mod traces;

use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use collector::Signal;
use stderr::Stderr;

pub use context::{recorded, remote_parent, rename, span_context, to_i64, trace_of};
pub use ids::{start_as, start_in};
pub use level::{LevelChange, NotOurs, end_log_filter, set_log_filter};
pub use line::name_worker;
pub use logs::{LogFilter, LogFormat, LogSettings};
pub use push::{MetricPush, PushError};
pub use sampling::{Entry, entry, leaves_no_span};
pub use traces::{TraceLevel, are_on as traces_are_on, past_span};

/// Spans of single calls: traced, but logged only on request.
pub const RPC_TARGET: &str = "flowgate::rpc";

/// Spans on the way of an execution: traced, but logged only on request.
pub const SPAN_TARGET: &str = "flowgate::span";

/// Spans of the store's transactions and statements: traced, and logged, only on request.
pub const STORE_TARGET: &str = "flowgate::store";

/// Spans that stand where others are traced, in what is not sampled: they are for the log alone.
pub const UNTRACED_TARGET: &str = "flowgate::untraced";

/// How long the last lines get at least to be read: where somebody reads, that takes no time.
const LAST_LINES: Duration = Duration::from_millis(100);

/// What is to be flushed at the end. The log is also when it is dropped, as where a start fails.
#[derive(Debug)]
pub struct Telemetry {
    tracing: Option<SdkTracerProvider>,
    log: LastLines,
}

#[derive(Debug)]
struct LastLines(Stderr);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Sets up logs and, where a collector is named, traces, for the whole process.
pub fn start(settings: &LogSettings, level: TraceLevel) -> Telemetry {
    let (tracing, trouble) = match traces::provider(level) {
        Ok(provider) => (provider, None),
        Err(error) => (None, Some(error)),
    };
    let spans = tracing.as_ref().map(|provider| traces::layer(provider, level));
    let stderr = Stderr::start();
    let (logs, dial) = logs::layer(settings, stderr.clone());
    let subscriber = tracing_subscriber::registry().with(logs).with(spans);
    // Fails if the process has one already: then it belongs to whoever embeds the server.
    if subscriber.try_init().is_ok() {
        dial.install();
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let payload = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, panic = payload, "A thread panicked");
    }));
    if let Some(error) = trouble {
        tracing::warn!(error = %error, "Traces are not exported");
    }
    if let Some(sampler) = collector::unknown_sampler() {
        tracing::warn!(
            sampler,
            "OTEL_TRACES_SAMPLER names no sampler, so parentbased_always_on is used"
        );
    }
    if let Some(protocol) = collector::other_protocol(Signal::Traces) {
        tracing::warn!(protocol, "Traces are exported by gRPC: no other protocol is spoken");
    }
    Telemetry { tracing, log: LastLines(stderr) }
}

impl Telemetry {
    /// Sends and writes what is still to be, for no longer than `within`.
    pub async fn shutdown(self, within: Duration) {
        let Self { tracing, log } = self;
        let until = Instant::now() + within;
        if let Some(provider) = tracing {
            flush_traces(provider, within).await;
        }
        log.0.flush(until.saturating_duration_since(Instant::now()));
    }
}

async fn flush_traces(provider: SdkTracerProvider, within: Duration) {
    let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within));
    match tokio::time::timeout(within, flush).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(error = %error, "The last traces may be lost"),
        Ok(Err(_)) | Err(_) => tracing::warn!("The last traces may be lost"),
    }
}

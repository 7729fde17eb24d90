//! An OpenTelemetry collector in the test's own process: takes traces and metrics by OTLP over gRPC and
//! hands them out, traces as plain values.
//!
//! ```ignore
//! let collector = Collector::start().await;
//! let server = TestServer::start(collector.of(Config::new().simulated("sim", 1))).await;
//! let id = server.submit(submit("sim", json!({}))).await.id;
//! let attempt = collector.span("attempt", |span| span.is("execution.id", &id)).await;
//! assert_eq!(attempt.parent, collector.span("submit", |_| true).await.id);
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::Config;

/// How long a test waits for a span.
const DEADLINE: Duration = Duration::from_secs(30);

/// A span as it came in; ids are hexadecimal, and empty where there is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    /// The `service.name` of who sent it.
    pub(crate) service: String,
    pub(crate) name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub(crate) kind: &'static str,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    /// In nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) links: Vec<Link>,
    pub(crate) is_error: bool,
    /// How many events it has.
    pub(crate) events: usize,
}

/// A link of a span to another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// What it is to.
    pub(crate) what: String,
}

impl Span {
    /// Whether it has this attribute.
    pub(crate) fn is(&self, attribute: &str, value: impl Into<Value>) -> bool {
        self.attributes.get(attribute) == Some(&value.into())
    }

    /// An attribute, null if it has none of that name.
    pub(crate) fn get(&self, attribute: &str) -> Value {
        self.attributes.get(attribute).cloned().unwrap_or_default()
    }

    /// Whom it links to as this.
    pub(crate) fn link(&self, what: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.what == what)
    }
}

/// The collector. Dropping it closes its port.
pub(crate) struct Collector {
    addr: SocketAddr,
    scheme: &'static str,
    taken: Taken,
    serves: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Taken {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<(MetadataMap, ExportMetricsServiceRequest)>>>,
    more: Arc<Notify>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that is reached by https.
    pub(crate) async fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let addr = listener.local_addr().expect("it listens");
        let taken = Taken::default();
        let metrics = MetricsServiceServer::new(taken.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(64 * 1024 * 1024);
        let service = TraceServiceServer::new(taken.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(64 * 1024 * 1024);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = Server::builder();
        let mut server = match tls {
            Some(tls) => server.tls_config(tls).expect("the certificate is sound"),
            None => server,
        };
        let server = server.add_service(service).add_service(metrics);
        let serves = tokio::spawn(async move {
            // It ends with the test.
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Self { addr, scheme, taken, serves }
    }

    /// Where it listens, as exporters have it.
    pub(crate) fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.addr.port())
    }

    /// A server that sends its traces here, without much delay.
    pub(crate) fn of(&self, config: Config) -> Config {
        config
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &self.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .env("NO_PROXY", "localhost,127.0.0.1")
    }

    /// A server that sends its metrics here, often.
    pub(crate) fn of_metrics(&self, config: Config) -> Config {
        config
            .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &self.url())
            .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
            .env("NO_PROXY", "localhost,127.0.0.1")
    }

    /// What is found in one of the exports of metrics, with what was sent along, as soon as it is.
    pub(crate) async fn metrics<T>(
        &self,
        find: impl Fn(&MetadataMap, &ExportMetricsServiceRequest) -> Option<T>,
    ) -> Option<T> {
        let found = async {
            loop {
                let more = self.taken.more.notified();
                let came = std::mem::take(&mut *self.taken.metrics.lock().expect("sound"));
                if let Some(found) = came.iter().find_map(|(head, request)| find(head, request)) {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(DEADLINE, found).await.ok()
    }

    /// Everything that came in so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.taken.lock().clone()
    }

    /// The first span of this name of which this is so, once it has come.
    pub(crate) async fn span(&self, name: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let found =
            self.wait(|spans| spans.iter().find(|span| span.name == name && is_it(span)).cloned());
        found.await.unwrap_or_else(|| panic!("no such span {name} among {:#?}", self.spans()))
    }

    /// What is found among the spans, as soon as it is; `None` if nothing is in time.
    pub(crate) async fn wait<T>(&self, find: impl Fn(&[Span]) -> Option<T>) -> Option<T> {
        let found = async {
            loop {
                let more = self.taken.more.notified();
                if let Some(found) = find(&self.taken.lock()) {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(DEADLINE, found).await.ok()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

impl Taken {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Span>> {
        self.spans.lock().expect("nothing panics while it holds the lock")
    }
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for from in request.into_inner().resource_spans {
            let resource = from.resource.map(|it| attributes(it.attributes)).unwrap_or_default();
            let service = resource.get("service.name").and_then(Value::as_str).unwrap_or_default();
            let spans = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.lock().extend(spans.map(|span| plain(service, span)));
        }
        // One that is just about to wait finds it too: it looks before it does.
        self.more.notify_waiters();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Taken {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (head, _, metrics) = request.into_parts();
        self.metrics.lock().expect("sound").push((head, metrics));
        self.more.notify_waiters();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn plain(service: &str, span: otlp::Span) -> Span {
    let kind = match span.kind() {
        otlp::span::SpanKind::Server => "server",
        otlp::span::SpanKind::Client => "client",
        otlp::span::SpanKind::Producer => "producer",
        otlp::span::SpanKind::Consumer => "consumer",
        otlp::span::SpanKind::Internal | otlp::span::SpanKind::Unspecified => "internal",
    };
    let links = span.links.into_iter().map(|link| {
        let what = attributes(link.attributes).remove("flowgate.link").unwrap_or_default();
        let what = what.as_str().unwrap_or_default().to_owned();
        Link { trace: hex(&link.trace_id), id: hex(&link.span_id), what }
    });
    let error = otlp::status::StatusCode::Error;
    Span {
        service: service.to_owned(),
        name: span.name,
        kind,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        state: span.trace_state,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        links: links.collect(),
        is_error: span.status.is_some_and(|status| status.code() == error),
        events: span.events.len(),
    }
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, Value> {
    list.into_iter().map(|it| (it.key, it.value.map(value).unwrap_or_default())).collect()
}

fn value(value: AnyValue) -> Value {
    use any_value::Value as Any;
    match value.value {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::BoolValue(truth)) => json!(truth),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        Some(Any::ArrayValue(list)) => list.values.into_iter().map(self::value).collect(),
        other => json!(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Metrics, to the collector that is named: all instruments at once, every minute or as
//! `OTEL_METRIC_EXPORT_INTERVAL` says, and once more at the end.
//!
//! What must stay true: no trouble with the collector is trouble of the server's; what could not be sent is not
//! kept, since the next time tells all that it told.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::{self, Channel, Endpoint};

use super::collector::{self, Signal};
use crate::domain::Timestamp;
use crate::metrics::Instruments;

/// How long the last metrics may take, when the server ends.
const LAST: Duration = Duration::from_millis(500);

/// Why metrics are not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The endpoint is none.
    #[error("the collector's endpoint is invalid")]
    Endpoint(#[from] transport::Error),
    /// A certificate or key cannot be read.
    #[error(transparent)]
    Certificate(#[from] std::io::Error),
}

/// Sends metrics to a collector.
pub struct MetricPush {
    client: MetricsServiceClient<Channel>,
    headers: MetadataMap,
    timeout: Duration,
    every: Duration,
    resource: Resource,
}

impl MetricPush {
    /// To the collector that the standard variables name; `None` if they name none. It is connected to
    /// when there is something to send.
    pub fn from_env() -> Result<Option<Self>, PushError> {
        let Some(url) = collector::endpoint(Signal::Metrics) else { return Ok(None) };
        if let Some(protocol) = collector::other_protocol(Signal::Metrics) {
            tracing::warn!(protocol, "Metrics are exported by gRPC: no other protocol is spoken");
        }
        let timeout = collector::timeout(Signal::Metrics);
        let mut endpoint = Endpoint::from_shared(url.clone())?.timeout(timeout);
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(collector::tls(Signal::Metrics)?)?;
        }
        let mut client = MetricsServiceClient::new(endpoint.connect_lazy());
        if collector::is_compressed(Signal::Metrics) {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let attributes = ResourceAttributesWithSchema::from(&collector::resource()).attributes;
        Ok(Some(Self {
            client,
            headers: collector::headers(Signal::Metrics),
            timeout,
            every: collector::export_interval(),
            resource: Resource { attributes: attributes.0, ..Default::default() },
        }))
    }

    /// Sends until `stop`, and then once more. `look` is called before each time: it brings up to date what
    /// has to be, and tells the time.
    pub async fn run(
        self,
        instruments: Arc<Instruments>,
        look: impl Fn() -> Timestamp + Send + Sync,
        stop: CancellationToken,
    ) {
        let start = look();
        let mut ticks = tokio::time::interval_at(Instant::now() + self.every, self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (last, patience) = tokio::select! {
                _ = ticks.tick() => (false, self.timeout),
                () = stop.cancelled() => (true, LAST.min(self.timeout)),
            };
            let request = instruments.to_otlp(self.resource.clone(), start, look());
            let mut request = tonic::Request::new(request);
            *request.metadata_mut() = self.headers.clone();
            let mut client = self.client.clone();
            let sent = tokio::time::timeout(patience, client.export(request));
            let failed = tokio::select! {
                sent = sent => match sent {
                    Ok(Ok(_)) => None,
                    Ok(Err(status)) => Some(status.to_string()),
                    Err(_) => Some("it does not answer in time".to_owned()),
                },
                // The last ones are sent instead.
                () = stop.cancelled(), if !last => None,
            };
            if let Some(error) = failed.filter(|_| !last) {
                // As OpenTelemetry tells of traces, so that both are told of together.
                tracing::warn!(name: "MetricPush.Failed", target: "opentelemetry", error);
            }
            if last {
                return;
            }
        }
    }
}

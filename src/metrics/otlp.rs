//! The instruments as OpenTelemetry's protocol has them, exemplars included.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model as model};

use super::Instruments;
use crate::domain::Timestamp;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// What the conventions ask a metric to say beside its labels: one that never changes is no use to
/// Prometheus.
const ALWAYS: &[(&str, &str, &str)] = &[("rpc.server.call.duration", "rpc.system.name", "grpc")];

/// From when the counts are, and of when.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    now: u64,
}

impl Instruments {
    /// All of them as they stand `now`, counted since `start`.
    pub fn to_otlp(
        &self,
        resource: Resource,
        start: Timestamp,
        now: Timestamp,
    ) -> ExportMetricsServiceRequest {
        // A clock may have been set back.
        let span = Span { start: nanos(start.min(now)), now: nanos(now) };
        // It cannot fail: what is encoded is collected in memory.
        let families = prometheus_protobuf::encode(&self.registry).unwrap_or_default();
        let metrics = families.into_iter().filter_map(|family| self.metric(family, span)).collect();
        let scope = InstrumentationScope {
            name: "flowgate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let scope = ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() };
        let resource = ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![scope],
            schema_url: String::new(),
        };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    fn metric(&self, family: model::MetricFamily, span: Span) -> Option<Metric> {
        let kind = family.r#type();
        let name = family.name.trim_end_matches("_total");
        let name = name.strip_suffix(family.unit.as_str()).unwrap_or(name).trim_end_matches('_');
        let name = self.names.dotted(name).to_owned();
        let metrics = family.metric.into_iter();
        let data = match kind {
            model::MetricType::Counter => metric::Data::Sum(Sum {
                data_points: metrics.filter_map(|it| total(it, span)).collect(),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            model::MetricType::Gauge => metric::Data::Gauge(Gauge {
                data_points: metrics.filter_map(|it| level(it, span)).collect(),
            }),
            model::MetricType::Histogram => metric::Data::Histogram(Histogram {
                data_points: metrics.filter_map(|it| histogram(&name, it, span)).collect(),
                aggregation_temporality: CUMULATIVE,
            }),
            // None of ours are of these kinds.
            model::MetricType::Summary
            | model::MetricType::Untyped
            | model::MetricType::GaugeHistogram => return None,
        };
        let unit = match family.unit.as_str() {
            "seconds" => "s",
            "bytes" => "By",
            "ratio" => "1",
            other => other,
        };
        Some(Metric {
            name,
            description: family.help,
            unit: unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        })
    }
}

fn total(metric: model::Metric, span: Span) -> Option<NumberDataPoint> {
    let value = metric.counter?.value;
    Some(NumberDataPoint { start_time_unix_nano: span.start, ..number(metric.label, value, span) })
}

fn level(metric: model::Metric, span: Span) -> Option<NumberDataPoint> {
    let value = metric.gauge?.value;
    Some(number(metric.label, value, span))
}

fn number(labels: Vec<model::LabelPair>, value: f64, span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels.into_iter().map(attribute).collect(),
        time_unix_nano: span.now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..Default::default()
    }
}

fn histogram(name: &str, metric: model::Metric, span: Span) -> Option<HistogramDataPoint> {
    let of = metric.histogram?;
    let bounds = of.bucket.iter().map(|bucket| bucket.upper_bound);
    // The last is beyond all bounds.
    let explicit_bounds: Vec<_> = bounds.filter(|it| it.is_finite() && *it < f64::MAX).collect();
    let mut bucket_counts = Vec::with_capacity(explicit_bounds.len() + 1);
    let mut below = 0;
    for bucket in of.bucket.iter().take(explicit_bounds.len()) {
        bucket_counts.push(bucket.cumulative_count.saturating_sub(below));
        below = bucket.cumulative_count;
    }
    bucket_counts.push(of.sample_count.saturating_sub(below));
    let always = ALWAYS.iter().filter(|(of, ..)| *of == name);
    let always = always.map(|&(_, key, value)| text(key.to_owned(), value.to_owned()));
    Some(HistogramDataPoint {
        attributes: metric.label.into_iter().map(attribute).chain(always).collect(),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        count: of.sample_count,
        sum: Some(of.sample_sum),
        explicit_bounds,
        bucket_counts,
        exemplars: of.bucket.iter().filter_map(|it| it.exemplar.as_ref()).map(example).collect(),
        ..Default::default()
    })
}

fn example(of: &model::Exemplar) -> Exemplar {
    let trace_id = of.label.iter().find(|label| label.name == "trace_id");
    let at = of.timestamp.as_ref().and_then(|at| {
        let since = Duration::new(u64::try_from(at.seconds).ok()?, u32::try_from(at.nanos).ok()?);
        u64::try_from(since.as_nanos()).ok()
    });
    Exemplar {
        time_unix_nano: at.unwrap_or_default(),
        trace_id: trace_id.map(|label| bytes(&label.value)).unwrap_or_default(),
        value: Some(exemplar::Value::AsDouble(of.value)),
        ..Default::default()
    }
}

/// What hexadecimal digits say.
fn bytes(digits: &str) -> Vec<u8> {
    let pairs = (0..digits.len()).step_by(2).filter_map(|at| digits.get(at..at + 2));
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

fn attribute(label: model::LabelPair) -> KeyValue {
    // As the conventions have it; Prometheus has no dots.
    let key = match label.name.as_str() {
        "rpc_method" => "rpc.method".to_owned(),
        "rpc_response_status_code" => "rpc.response.status_code".to_owned(),
        _ => label.name,
    };
    text(key, label.value)
}

fn text(key: String, value: String) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value)) };
    KeyValue { key, value: Some(value), ..Default::default() }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(0).saturating_mul(1_000)
}

//! How instruments get their names: one for OpenTelemetry, dotted, and the one that Prometheus makes
//! of it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::timing::Timing;

/// A gauge that need not be whole.
pub(super) type FloatGauge = Gauge<f64, AtomicU64>;

/// A gauge that is not shown while nothing is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Retractable(Arc<Mutex<Option<i64>>>);

impl Retractable {
    pub(super) fn set(&self, value: i64) {
        *self.value() = Some(value);
    }

    pub(super) fn retract(&self) {
        *self.value() = None;
    }

    fn value(&self) -> MutexGuard<'_, Option<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for Retractable {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let value = *self.value();
        value.map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.value().is_none()
    }
}

/// The dotted names of OpenTelemetry, by those of the registry.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, &'static str>);

impl Names {
    /// Notes a dotted name; returns the registry's.
    pub(super) fn add(&mut self, dotted: &'static str) -> String {
        let name = dotted.replace('.', "_");
        self.0.insert(name.clone(), dotted);
        name
    }

    /// The dotted name of a family of the registry.
    pub(super) fn dotted<'a>(&self, name: &'a str) -> &'a str {
        self.0.get(name).copied().unwrap_or(name)
    }
}

/// A registry in the making.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    registry: Registry,
    names: Names,
}

impl Catalogue {
    /// Registers a metric under its dotted name.
    pub(super) fn add<M: Metric + Clone>(
        &mut self,
        dotted: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        metric: M,
    ) -> M {
        let name = self.names.add(dotted);
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric.clone()),
            None => self.registry.register(name, help, metric.clone()),
        }
        metric
    }

    pub(super) fn counter(&mut self, dotted: &'static str, help: &'static str) -> Counter {
        self.add(dotted, None, help, Counter::default())
    }

    pub(super) fn gauge(&mut self, dotted: &'static str, help: &'static str) -> Gauge {
        self.add(dotted, None, help, Gauge::default())
    }

    pub(super) fn retractable(&mut self, dotted: &'static str, help: &'static str) -> Retractable {
        self.add(dotted, None, help, Retractable::default())
    }

    pub(super) fn bytes(&mut self, dotted: &'static str, help: &'static str) -> Gauge {
        self.add(dotted, Some(Unit::Bytes), help, Gauge::default())
    }

    pub(super) fn float(&mut self, dotted: &'static str, help: &'static str) -> FloatGauge {
        self.add(dotted, None, help, FloatGauge::default())
    }

    pub(super) fn seconds(&mut self, dotted: &'static str, help: &'static str) -> FloatGauge {
        self.add(dotted, Some(Unit::Seconds), help, FloatGauge::default())
    }

    pub(super) fn ratio(&mut self, dotted: &'static str, help: &'static str) -> FloatGauge {
        // The library's own unit is in the plural, which Prometheus' conventions are not.
        self.add(dotted, Some(Unit::Other("ratio".to_owned())), help, FloatGauge::default())
    }

    pub(super) fn timing(
        &mut self,
        dotted: &'static str,
        help: &'static str,
        bounds: &'static [f64],
    ) -> Timing {
        self.add(dotted, Some(Unit::Seconds), help, Timing::new(bounds))
    }

    pub(super) fn timings<L>(
        &mut self,
        dotted: &'static str,
        help: &'static str,
        make: fn() -> Timing,
    ) -> Family<L, Timing, fn() -> Timing>
    where
        L: Clone + Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    {
        self.add(dotted, Some(Unit::Seconds), help, Family::new_with_constructor(make))
    }

    /// The registry, with what is only looked at when it is asked for.
    pub(super) fn finish(
        mut self,
        collector: impl prometheus_client::collector::Collector,
    ) -> (Registry, Names) {
        self.registry.register_collector(Box::new(collector));
        (self.registry, self.names)
    }
}

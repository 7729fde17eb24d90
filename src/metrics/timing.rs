//! How long something takes: a histogram with exemplars that can also be read back.
//!
//! The library's histogram cannot be read, only shown. What Flowgate itself goes by, means and the
//! figures of the last minute, is counted beside it, here and nowhere else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::domain::{Timestamp, TraceContext};

/// Bounds for what may take from a millisecond to an hour, in seconds.
pub(super) const WORK_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1_800.0, 3_600.0,
];

/// Bounds for what a server does by itself, in seconds. From 5 ms to 10 s those of the OpenTelemetry
/// conventions for rpcs.
pub(super) const QUICK_BOUNDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

/// An example of what fell into a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    trace_id: String,
    at: Timestamp,
}

impl Example {
    /// In this trace, which is kept somewhere.
    pub fn in_trace(trace_id: String, at: Timestamp) -> Self {
        Self { trace_id, at }
    }

    /// In this trace, if it is kept somewhere.
    pub fn of(trace: &TraceContext, at: Timestamp) -> Option<Self> {
        trace.is_sampled().then(|| Self::in_trace(trace.trace_id().to_owned(), at))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

/// A histogram of durations. Clones share it.
#[derive(Debug, Clone)]
pub struct Timing {
    shown: HistogramWithExemplars<TraceLabel>,
    seen: Arc<Seen>,
    bounds: &'static [f64],
}

#[derive(Debug)]
struct Seen {
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

/// What a [`Timing`] has seen; or two of them, added or subtracted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    /// How many fell between the bound before and this one, the last being beyond all bounds. Empty
    /// if there was none.
    pub counts: Vec<u64>,
    /// All of them together.
    pub sum: Duration,
}

impl Timing {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            shown: HistogramWithExemplars::new(bounds.iter().copied()),
            seen: Arc::new(Seen { counts, micros: AtomicU64::new(0) }),
            bounds,
        }
    }

    /// Counts one; `example` says in which trace.
    pub(super) fn observe(&self, took: Duration, example: Option<Example>) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.seen.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.seen.micros.fetch_add(micros, Ordering::Relaxed);
        let at = example.as_ref().and_then(|example| {
            let micros = u64::try_from(example.at.as_micros()).ok()?;
            UNIX_EPOCH.checked_add(Duration::from_micros(micros))
        });
        let label = example.map(|example| TraceLabel { trace_id: example.trace_id });
        self.shown.observe(seconds, label, at);
    }

    /// How many there were, and what they took in all.
    pub(super) fn totals(&self) -> (u64, Duration) {
        let count = self.seen.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (count, Duration::from_micros(self.seen.micros.load(Ordering::Relaxed)))
    }

    /// What it has seen so far.
    pub(super) fn distribution(&self) -> Distribution {
        Distribution {
            counts: self.seen.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_micros(self.seen.micros.load(Ordering::Relaxed)),
        }
    }
}

impl TypedMetric for Timing {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Timing {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.shown.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl Distribution {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they took on average.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.count()).unwrap_or(u32::MAX);
        self.sum.checked_div(count)
    }

    /// What this share of them took at most, 0 to 1, as far as the bounds tell: within a bucket all are
    /// taken to be evenly spread, and beyond the last bound it is that bound.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn quantile(&self, share: f64, bounds: &[f64]) -> Option<Duration> {
        let rank = share * self.count() as f64;
        let mut below = 0.0;
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= rank {
                let least = if index == 0 { 0.0 } else { bounds[index - 1] };
                let most = bounds.get(index).copied().unwrap_or(least);
                let seconds = least + (most - least) * ((rank - below) / count).clamp(0.0, 1.0);
                return Some(Duration::from_secs_f64(seconds));
            }
            below += count;
        }
        None
    }

    /// Both together.
    pub fn plus(mut self, other: &Self) -> Self {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
        self
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before);
        Self {
            counts: counts.map(|(now, then)| now.saturating_sub(then)).collect(),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn only_a_trace_that_is_kept_is_an_example() {
        let at = Timestamp::from_micros(7);
        let of = |flags: &str| {
            let trace = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
            Example::of(&TraceContext::parse(&trace, None)?, at).map(|example| example.trace_id)
        };
        assert_eq!(of("01").as_deref(), Some(TRACE));
        assert_eq!(of("00"), None);
    }

    #[test]
    fn what_was_seen_is_read_back_by_bucket() {
        let timing = Timing::new(&[0.1, 1.0]);
        for millis in [100, 101, 900, 2_000] {
            timing.observe(Duration::from_millis(millis), None);
        }
        let seen = timing.distribution();
        assert_eq!((seen.counts.as_slice(), seen.count()), (&[1, 2, 1][..], 4));
        assert_eq!(seen.mean(), Some(Duration::from_micros(775_250)));
        let before = Distribution { counts: vec![1, 1, 0], sum: Duration::from_millis(201) };
        assert_eq!(seen.since(&before).counts, [0, 1, 1]);
        assert_eq!(seen.since(&before).sum, Duration::from_millis(2_900));
        assert_eq!(Distribution::default().plus(&seen), seen);
    }

    #[test]
    fn quantiles_lie_within_the_bucket_of_their_rank() {
        let bounds = [0.1, 1.0, 2.0];
        let seen = Distribution { counts: vec![0, 10, 10, 0], sum: Duration::ZERO };
        let quantile = |share| seen.quantile(share, &bounds).map(|it| it.as_secs_f64());
        assert_eq!(quantile(0.5), Some(1.0));
        assert_eq!(quantile(0.75), Some(1.5));
        assert_eq!(quantile(1.0), Some(2.0));
        let beyond = Distribution { counts: vec![0, 0, 0, 3], sum: Duration::ZERO };
        assert_eq!(beyond.quantile(0.5, &bounds), Some(Duration::from_secs(2)));
        assert_eq!(Distribution::default().quantile(0.5, &bounds), None);
    }
}

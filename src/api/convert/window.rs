//! What a replica did within a time, as clients read it.

use std::time::Duration;

use super::scalar::{to_duration, to_i64, to_timestamp};
use crate::metrics::{Distribution, Window, work_bounds};
use crate::pb;

/// A window.
pub(super) fn window(window: &Window) -> pb::MetricsWindow {
    let counts = &window.counts;
    pb::MetricsWindow {
        start_time: Some(to_timestamp(window.start)),
        end_time: Some(to_timestamp(window.end)),
        submitted: to_i64(counts.submitted),
        started: to_i64(counts.waits.count()),
        ended: to_i64(counts.ended()),
        succeeded: to_i64(counts.succeeded),
        failed: to_i64(counts.failed),
        cancelled: to_i64(counts.cancelled),
        throughput: window.throughput(),
        error_rate: counts.error_ratio(),
        execution_time: summary(&counts.runs),
        wait_time: summary(&counts.waits),
        mean_queue_depth: window.queue_depth.mean,
        max_queue_depth: to_i64(window.queue_depth.max),
        mean_active: window.active.mean,
        mean_slots: window.slots.mean,
        utilisation: window.utilisation(),
    }
}

fn summary(of: &Distribution) -> Option<pb::DurationSummary> {
    let bounds = work_bounds();
    let quantile = |share| of.quantile(share, bounds).map(to_duration);
    let upper = bounds.iter().map(|bound| Some(to_duration(Duration::from_secs_f64(*bound))));
    let buckets = upper.chain([None]).zip(&of.counts);
    Some(pb::DurationSummary {
        count: to_i64(of.count()),
        mean: Some(to_duration(of.mean()?)),
        p50: quantile(0.5),
        p95: quantile(0.95),
        p99: quantile(0.99),
        buckets: buckets
            .map(|(upper_bound, count)| pb::DurationBucket { upper_bound, count: to_i64(*count) })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::metrics::{Counts, Level};

    #[test]
    fn a_window_tells_rates_and_how_long_things_took() {
        let counts = vec![0; work_bounds().len() + 1];
        let mut runs = Distribution { counts, sum: Duration::from_millis(300) };
        runs.counts[5] = 4;
        let counts = Counts { succeeded: 3, failed: 1, runs, ..Counts::default() };
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        let level = |mean| Level { mean, max: 7 };
        let (start, end, slots) = (at(100), at(102), level(4.0));
        let (queue_depth, active) = (level(2.5), level(1.0));
        let shown = window(&Window { start, end, counts, queue_depth, active, slots });
        assert_eq!((shown.ended, shown.throughput, shown.error_rate), (4, 2.0, 0.25));
        assert_eq!((shown.mean_queue_depth, shown.max_queue_depth), (2.5, 7));
        assert_eq!((shown.utilisation, shown.wait_time), (0.25, None));
        let took = shown.execution_time.expect("there were some");
        assert_eq!((took.count, took.mean), (4, Some(to_duration(Duration::from_millis(75)))));
        assert_eq!(took.p50, Some(to_duration(Duration::from_millis(75))));
        assert_eq!(took.buckets.len(), work_bounds().len() + 1);
        assert_eq!(took.buckets[5].upper_bound, Some(to_duration(Duration::from_millis(100))));
        assert_eq!(took.buckets.last().and_then(|last| last.upper_bound), None);
    }
}

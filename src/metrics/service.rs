//! What is counted and measured of the replica as a whole, and of the store as far as no provider is
//! concerned.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::{Catalogue, FloatGauge, Retractable};
use super::timing::{QUICK_BOUNDS, Timing};

/// All series that have no provider.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) stale_writes: Counter,
    pub(super) loop_restarts: Counter,
    pub(super) watchers: Gauge,
    pub(super) watch_lag: Timing,
    pub(super) watch_resyncs: Counter,
    pub(super) commits: Family<LaneLabel, Timing, fn() -> Timing>,
    pub(super) batches: Family<LaneLabel, Histogram, fn() -> Histogram>,
    pub(super) store_errors: Family<LaneLabel, Counter>,
    pub(super) revision: Retractable,
    pub(super) size: Gauge,
    pub(super) slots: Gauge,
    pub(super) active: Gauge,
    pub(super) utilisation: FloatGauge,
    pub(super) workers: Family<StatusLabel, Gauge>,
    pub(super) desired: Retractable,
    pub(super) scaling_pending: Retractable,
    pub(super) throughput: FloatGauge,
    pub(super) error_ratio: FloatGauge,
    pub(super) mean_run: FloatGauge,
    pub(super) mean_wait: FloatGauge,
    pub(super) ready: Gauge,
    pub(super) calls: Family<CallLabels, Timing, fn() -> Timing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LaneLabel {
    pub(super) lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StatusLabel {
    pub(super) status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) rpc_method: &'static str,
    pub(super) rpc_response_status_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: &'static str,
    pub(super) store: &'static str,
}

impl Service {
    pub(super) fn register(all: &mut Catalogue) -> Self {
        Self {
            stale_writes: all.counter(
                "flowgate.stale_writes_rejected",
                "Writes of this replica that were refused because the lease had passed to another worker",
            ),
            loop_restarts: all.counter(
                "flowgate.loop.restarts",
                "Control loops of this replica that panicked and were started again; always 0",
            ),
            watchers: all.gauge("flowgate.watchers", "Watches of executions that this replica serves now"),
            watch_lag: all.timing(
                "flowgate.watch.lag",
                "Time from the commit of a change to its delivery to a watch that was up to date",
                QUICK_BOUNDS,
            ),
            watch_resyncs: all.counter(
                "flowgate.watch.resyncs",
                "Times the watches of this replica fell behind the hints and read the log; none lost a change by it",
            ),
            commits: all.timings(
                "flowgate.store.commit.duration",
                "Time a transaction took, from begin to commit, by lane: leases, changes, claims, or all where there is one",
                || Timing::new(QUICK_BOUNDS),
            ),
            batches: all.add(
                "flowgate.store.batch.operations",
                None,
                "Operations, such as submissions, claims and settlements, that shared a transaction",
                Family::new_with_constructor(|| {
                    Histogram::new((0..10).map(|exponent| f64::from(1 << exponent)))
                }),
            ),
            store_errors: all.add(
                "flowgate.store.errors",
                None,
                "Transactions that failed for good, after they had been tried again where that may help",
                Family::default(),
            ),
            revision: all.retractable("flowgate.store.revision", "The newest revision of the store"),
            size: all.bytes("flowgate.store.size", "Size of the store on disk"),
            slots: all.gauge("flowgate.pool.slots", "Slots of this replica's pool"),
            active: all.gauge("flowgate.pool.active", "Attempts that this replica runs"),
            utilisation: all.ratio(
                "flowgate.pool.utilization",
                "Attempts that this replica runs divided by its slots; over 1 while attempts run beyond the pool",
            ),
            workers: all.add(
                "flowgate.workers",
                None,
                "Live replicas of the store, by what they do",
                Family::default(),
            ),
            desired: all.retractable(
                "flowgate.replicas.desired",
                "How many replicas could run what runs and could start now",
            ),
            scaling_pending: all.retractable(
                "flowgate.scaling.pending",
                "Executions that more replicas could start at once; what waits for a limit or a gate is not counted",
            ),
            throughput: all.float(
                "flowgate.executions.per_second",
                "Executions that ended on this replica a second, over the last 60 s",
            ),
            error_ratio: all.ratio(
                "flowgate.error",
                "Share of the executions that succeeded or failed on this replica over the last 60 s that failed",
            ),
            mean_run: all.seconds(
                "flowgate.attempt.duration.mean",
                "Time that attempts of this replica which ended within the last 60 s ran on average; 0 if there were none",
            ),
            mean_wait: all.seconds(
                "flowgate.queue.wait.mean",
                "Time that attempts which this replica started within the last 60 s had been due on average; 0 if there were none",
            ),
            ready: all.gauge("flowgate.ready", "1 while this replica takes requests and work, as /readyz says"),
            calls: all.timings(
                "rpc.server.call.duration",
                "Time an rpc took until its last message was sent",
                || Timing::new(QUICK_BOUNDS),
            ),
        }
    }
}

//! The state of the service and its workers, as clients read it.

use std::time::Duration;

use super::check::{Check, Violations};
use super::scalar::{duration, to_duration, to_i32, to_i64, to_timestamp};
use super::window::window;
use crate::engine::{
    Bottleneck, Figures, Scaling, ServedProvider, Status, Vitals, WorkerConfiguration, WorkerView,
};
use crate::metrics::Window;
use crate::pb;
use crate::store::{CommitStats, WorkerStatus};

/// Checks how far back the history is to go.
pub(crate) fn history(given: &pb::GetStatusRequest) -> Result<Duration, Violations> {
    let mut check = Check::default();
    let asked = check.optional("history_duration", given.history_duration, duration);
    check.finish(Some(asked.unwrap_or_default()))
}

/// The status of the whole service.
pub(crate) fn status(status: &Status, history: &[Window]) -> pb::GetStatusResponse {
    let totals = &status.totals;
    let serving_state =
        if status.serving { pb::ServingState::Serving } else { pb::ServingState::Draining };
    pb::GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: Some(pb::StoreStatus {
            kind: status.store_kind.to_owned(),
            epoch: status.head.epoch.clone(),
            revision: status.head.revision,
            size_bytes: to_i64(totals.size_bytes),
            commit_stats: Some(commit_stats(status.commits)),
        }),
        running_count: to_i64(totals.running),
        pending_count: to_i64(totals.pending),
        succeeded_count: to_i64(totals.succeeded),
        failed_count: to_i64(totals.failed),
        cancelled_count: to_i64(totals.cancelled),
        worker_id: status.worker.to_string(),
        start_time: Some(to_timestamp(status.started_at)),
        serving_state: serving_state.into(),
        metrics: Some(metrics(&status.figures)),
        slots: to_i32(status.slots),
        active_count: to_i32(status.figures.active),
        load: load(status.figures.active, status.slots),
        scaling: Some(scaling(&status.scaling)),
        last_minute: status.last_minute.as_ref().map(window),
        history: history.iter().map(window).collect(),
    }
}

fn scaling(scaling: &Scaling) -> pb::Scaling {
    let bottleneck = match scaling.bottleneck {
        Bottleneck::None => pb::ScalingBottleneck::None,
        Bottleneck::Slots => pb::ScalingBottleneck::Slots,
        Bottleneck::ProviderLimit => pb::ScalingBottleneck::ProviderLimit,
        Bottleneck::ProviderGate => pb::ScalingBottleneck::ProviderGate,
        Bottleneck::Rate => pb::ScalingBottleneck::Rate,
        Bottleneck::Machine => pb::ScalingBottleneck::Machine,
    };
    pb::Scaling {
        bottleneck: bottleneck.into(),
        pending_for_replicas: to_i64(scaling.pending_for_replicas),
        message: scaling.message.clone(),
        utilisation: scaling.utilisation,
        live_replicas: to_i32(scaling.live_replicas),
        desired_replicas: to_i32(scaling.desired_replicas),
        spare_slots: to_i64(scaling.spare_slots),
    }
}

/// A worker.
pub(crate) fn worker(view: WorkerView) -> pb::Worker {
    let status = worker_status(&view);
    let WorkerView { row, report, .. } = view;
    let figures = &report.figures;
    let pool = report.pool.unwrap_or_default();
    let spare = report.spare().unwrap_or_default();
    let by_provider = report.active_by_provider.iter();
    pb::Worker {
        id: row.id.to_string(),
        host: row.host,
        version: row.version,
        status: status.into(),
        start_time: Some(to_timestamp(row.started_at)),
        last_heartbeat_time: Some(to_timestamp(row.heartbeat_at)),
        slots: to_i32(report.slots),
        active_executions: report.active_executions.iter().map(ToString::to_string).collect(),
        started_count: to_i64(figures.started),
        succeeded_count: to_i64(figures.succeeded),
        failed_count: to_i64(figures.failed.saturating_add(figures.retried)),
        configuration: report.configuration.map(configuration),
        active_count: to_i32(figures.active),
        active_by_provider: by_provider.map(|(name, n)| (name.to_string(), to_i32(*n))).collect(),
        load: load(figures.active, report.slots),
        cancelled_count: to_i64(figures.cancelled),
        retried_count: to_i64(figures.retried),
        crashed_count: to_i64(figures.crashed),
        stale_writes_rejected: to_i64(figures.stale_writes_rejected),
        mean_execution_time: mean_time(figures.mean_execution_ms),
        mean_wait_time: mean_wait_time(figures),
        watchers: to_i64(figures.watchers),
        resources: report.vitals.as_ref().map(resources),
        process_id: i64::from(report.pid),
        min_slots: to_i32(pool.min),
        max_slots: to_i32(pool.max),
        spare_slots: to_i32(spare),
        held_by_machine: pool.hindered,
    }
}

fn configuration(known: WorkerConfiguration) -> pb::WorkerConfiguration {
    let provider = |served: ServedProvider| pb::WorkerProvider {
        name: served.name.to_string(),
        kind: served.kind,
        max_concurrent: to_i32(served.max_concurrent),
    };
    pb::WorkerConfiguration {
        providers: known.providers.into_iter().map(provider).collect(),
        lease: Some(to_duration(known.lease)),
        reclaim_grace: Some(to_duration(known.reclaim_grace)),
        heartbeat_interval: Some(to_duration(known.heartbeat_interval)),
        poll_interval: Some(to_duration(known.poll_interval)),
        drain_timeout: Some(to_duration(known.drain_timeout)),
        store_kind: known.store_kind,
    }
}

fn resources(vitals: &Vitals) -> pb::WorkerResources {
    pb::WorkerResources {
        cpu_share: vitals.cpu_share,
        cpu_cores: to_i32(vitals.cores),
        memory_bytes: to_i64(vitals.resident_bytes),
    }
}

/// The share of slots in use; 0 where there are none.
fn load(active: u64, slots: u32) -> f64 {
    if slots == 0 { 0.0 } else { f64::from(to_i32(active)) / f64::from(slots) }
}

fn worker_status(view: &WorkerView) -> pb::WorkerStatus {
    match view.row.status {
        _ if view.lost => pb::WorkerStatus::Lost,
        WorkerStatus::Serving => pb::WorkerStatus::Active,
        WorkerStatus::Stopping => pb::WorkerStatus::Draining,
        WorkerStatus::Stopped => pb::WorkerStatus::Stopped,
    }
}

fn commit_stats(stats: CommitStats) -> pb::CommitStats {
    let mean = u32::try_from(stats.commits).ok().filter(|commits| *commits > 0);
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    let operations = stats.operations as f64;
    pb::CommitStats {
        commits: to_i64(stats.commits),
        operations: to_i64(stats.operations),
        mean_batch_size: mean.map_or(0.0, |commits| operations / f64::from(commits)),
        mean_commit_duration: mean.map(|commits| to_duration(stats.busy / commits)),
    }
}

fn metrics(figures: &Figures) -> pb::Metrics {
    pb::Metrics {
        started: to_i64(figures.started),
        succeeded: to_i64(figures.succeeded),
        failed: to_i64(figures.failed),
        retried: to_i64(figures.retried),
        stale_writes_rejected: to_i64(figures.stale_writes_rejected),
        crashed: to_i64(figures.crashed),
        mean_execution_time: mean_time(figures.mean_execution_ms),
        mean_wait_time: mean_wait_time(figures),
        watchers: to_i64(figures.watchers),
        watch_resyncs: to_i64(figures.watch_resyncs),
        cancelled: to_i64(figures.cancelled),
    }
}

fn mean_wait_time(figures: &Figures) -> Option<prost_types::Duration> {
    mean_time(figures.mean_wait_ms).filter(|_| figures.started > 0)
}

/// `None` before there is anything to take the mean of.
fn mean_time(milliseconds: f64) -> Option<prost_types::Duration> {
    let seconds = Some(milliseconds / 1_000.0).filter(|seconds| *seconds > 0.0);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(to_duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Timestamp, WorkerId};
    use crate::engine::{PoolReport, WorkerReport};
    use crate::store::WorkerRow;
    use serde_json::json;

    fn view(figures: serde_json::Value, status: WorkerStatus, lost: bool) -> WorkerView {
        let row = WorkerRow {
            id: WorkerId::new(),
            host: "here".to_owned(),
            version: "0.1.0".to_owned(),
            status,
            started_at: Timestamp::default(),
            heartbeat_at: Timestamp::default(),
            figures,
        };
        WorkerView { report: WorkerReport::of(&row), row, lost }
    }

    #[test]
    fn a_worker_shows_what_it_told_of_itself() {
        let report = WorkerReport {
            figures: Figures {
                started: 7,
                failed: 1,
                retried: 2,
                active: 3,
                stale_writes_rejected: 4,
                mean_execution_ms: 1_500.0,
                ..Figures::default()
            },
            active_by_provider: [("sim".parse().expect("a name"), 3)].into(),
            slots: 4,
            pool: Some(PoolReport { min: 2, max: 9, spare: 5, hindered: true }),
            pid: 99,
            configuration: Some(WorkerConfiguration {
                lease: Duration::from_secs(30),
                store_kind: "sqlite".to_owned(),
                ..WorkerConfiguration::default()
            }),
            vitals: Some(Vitals { cpu_share: 0.5, cores: 2, resident_bytes: 1 << 20 }),
            ..WorkerReport::default()
        };
        let told = serde_json::to_value(&report).expect("a report is JSON");
        let shown = worker(view(told, WorkerStatus::Stopping, false));
        assert_eq!(shown.status(), pb::WorkerStatus::Draining);
        assert_eq!((shown.started_count, shown.failed_count, shown.retried_count), (7, 3, 2));
        assert_eq!((shown.slots, shown.active_count, shown.load), (4, 3, 0.75));
        assert_eq!((shown.min_slots, shown.max_slots, shown.spare_slots), (2, 9, 5));
        assert!(shown.held_by_machine);
        assert_eq!(shown.active_by_provider, [("sim".to_owned(), 3)].into());
        assert_eq!((shown.stale_writes_rejected, shown.process_id), (4, 99));
        assert_eq!(shown.mean_execution_time.map(|mean| mean.nanos), Some(500_000_000));
        let resources = shown.resources.expect("it told");
        assert_eq!((resources.cpu_share, resources.cpu_cores), (0.5, 2));
        let known = shown.configuration.expect("it told");
        assert_eq!(
            (known.lease.map(|lease| lease.seconds), &*known.store_kind),
            (Some(30), "sqlite")
        );
    }

    #[test]
    fn a_worker_of_another_version_is_shown_as_far_as_it_can_be_read() {
        let id = "0199c2f4-7c1e-7d3a-9b1f-2f6a8c5d4e3b";
        let told = json!({
            "figures": {"started": 7, "failed": 1, "of a newer version": 1},
            "active_executions": [id],
            "of a newer version": true,
        });
        let shown = worker(view(told, WorkerStatus::Serving, false));
        assert_eq!((shown.started_count, shown.failed_count, shown.slots), (7, 1, 0));
        assert_eq!(shown.active_executions, [id]);
        assert_eq!((shown.load, shown.configuration, shown.resources), (0.0, None, None));
        assert_eq!((shown.min_slots, shown.max_slots, shown.spare_slots), (0, 0, 0));
        let shown = worker(view(json!(null), WorkerStatus::Stopped, false));
        assert_eq!((shown.started_count, shown.status()), (0, pb::WorkerStatus::Stopped));
    }

    #[test]
    fn a_worker_that_fell_silent_is_lost_whatever_it_said_last() {
        let shown = worker(view(json!({}), WorkerStatus::Serving, true));
        assert_eq!(shown.status(), pb::WorkerStatus::Lost);
    }

    #[test]
    fn means_are_absent_before_the_first() {
        assert_eq!(commit_stats(CommitStats::default()).mean_commit_duration, None);
        assert_eq!(metrics(&Figures::default()).mean_execution_time, None);
        let stats = CommitStats { commits: 2, operations: 5, busy: Duration::from_millis(30) };
        let shown = commit_stats(stats);
        assert_eq!((shown.mean_batch_size * 10.0).round(), 25.0);
        assert_eq!(shown.mean_commit_duration.map(|mean| mean.nanos), Some(15_000_000));
    }
}

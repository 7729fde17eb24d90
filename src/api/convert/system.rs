//! The state of the service and its workers, as clients read it.

use std::time::Duration;

use serde::Deserialize;

use super::scalar::{to_duration, to_i32, to_i64, to_timestamp};
use crate::engine::{Figures, Status, WorkerView};
use crate::pb;
use crate::store::{CommitStats, WorkerStatus};

/// The status of the whole service.
pub(crate) fn status(status: &Status) -> pb::GetStatusResponse {
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
    }
}

/// A worker.
pub(crate) fn worker(view: WorkerView) -> pb::Worker {
    let status = worker_status(&view);
    let row = view.row;
    let told = Told::deserialize(&row.figures).unwrap_or_default();
    pb::Worker {
        id: row.id.to_string(),
        host: row.host,
        version: row.version,
        status: status.into(),
        start_time: Some(to_timestamp(row.started_at)),
        last_heartbeat_time: Some(to_timestamp(row.heartbeat_at)),
        slots: to_i32(told.slots),
        active_executions: told.active_executions,
        started_count: to_i64(told.figures.started),
        succeeded_count: to_i64(told.figures.succeeded),
        failed_count: to_i64(told.figures.failed.saturating_add(told.figures.retried)),
    }
}

/// What a worker tells of itself, as far as clients are shown it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    figures: Figures,
    active_executions: Vec<String>,
    slots: u32,
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
        mean_wait_time: mean_time(figures.mean_wait_ms).filter(|_| figures.started > 0),
        watchers: to_i64(figures.watchers),
        watch_resyncs: to_i64(figures.watch_resyncs),
    }
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
        WorkerView { row, lost }
    }

    #[test]
    fn a_worker_shows_what_it_told_of_itself() {
        let told = json!({
            "figures": {"started": 7, "failed": 1, "retried": 2},
            "active_executions": ["x"],
            "of a newer version": true,
        });
        let shown = worker(view(told, WorkerStatus::Stopping, false));
        assert_eq!((shown.started_count, shown.failed_count), (7, 3));
        assert_eq!(shown.active_executions, ["x"]);
        assert_eq!(shown.status(), pb::WorkerStatus::Draining);
    }

    #[test]
    fn a_worker_of_another_version_is_shown_as_far_as_it_can_be_read() {
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

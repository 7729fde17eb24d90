//! `flowgate status` and `flowgate workers`.

use std::process::ExitCode;

use super::names::short;
use super::output::{fields, table};
use super::time::{show_duration, show_time};
use super::{Context, json};
use crate::pb::{
    DurationSummary, GetStatusRequest, GetStatusResponse, ListWorkersRequest, MetricsWindow,
    Scaling, ScalingBottleneck, ServingState, Worker, WorkerStatus,
};

/// `flowgate status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Tell of each minute of this long, such as 1h; at most 24h are kept
    #[arg(long, value_name = "DURATION", value_parser = super::time::parse_duration)]
    history: Option<prost_types::Duration>,
}

pub(super) async fn status(context: &Context, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let mut client = context.server.system().await?;
    let request = GetStatusRequest { history_duration: args.history };
    let status = client.get_status(request).await?.into_inner();
    context.out.result(|| json::status(&status), || status_fields(&status))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn workers(context: &Context) -> anyhow::Result<ExitCode> {
    let mut client = context.server.system().await?;
    let workers = client.list_workers(ListWorkersRequest {}).await?.into_inner().workers;
    context.out.result(|| json::workers(&workers), || workers_table(&workers))?;
    Ok(ExitCode::SUCCESS)
}

fn status_fields(status: &GetStatusResponse) -> String {
    let store = status.store.clone().unwrap_or_default();
    let commits = store.commit_stats.unwrap_or_default();
    let metrics = status.metrics.unwrap_or_default();
    let general = fields([
        ("serving", Some(short::<ServingState>(status.serving_state))),
        ("version", Some(status.version.clone())),
        ("worker", Some(status.worker_id.clone())),
        ("started", status.start_time.as_ref().map(show_time)),
        ("store", Some(store.kind)),
        ("epoch", Some(store.epoch)),
        ("revision", Some(store.revision.to_string())),
        ("slots", Some(format!("{} of {} in use", status.active_count, status.slots))),
        ("size", (store.size_bytes > 0).then(|| format!("{} bytes", store.size_bytes))),
    ]);
    let executions = fields([
        ("running", Some(status.running_count.to_string())),
        ("pending", Some(status.pending_count.to_string())),
        ("succeeded", Some(status.succeeded_count.to_string())),
        ("failed", Some(status.failed_count.to_string())),
        ("cancelled", Some(status.cancelled_count.to_string())),
    ]);
    let scaling = scaling_fields(&status.scaling.clone().unwrap_or_default());
    let since_start = fields([
        ("attempts started", Some(metrics.started.to_string())),
        ("succeeded", Some(metrics.succeeded.to_string())),
        ("failed", Some(metrics.failed.to_string())),
        ("cancelled", Some(metrics.cancelled.to_string())),
        ("tried again", Some(metrics.retried.to_string())),
        ("crashed", Some(metrics.crashed.to_string())),
        ("stale writes rejected", Some(metrics.stale_writes_rejected.to_string())),
        ("mean execution time", metrics.mean_execution_time.as_ref().map(show_duration)),
        ("mean wait time", metrics.mean_wait_time.as_ref().map(show_duration)),
        ("watchers", Some(metrics.watchers.to_string())),
        ("watch resyncs", Some(metrics.watch_resyncs.to_string())),
        ("commits", Some(commits.commits.to_string())),
        ("operations per commit", Some(format!("{:.1}", commits.mean_batch_size))),
        ("mean commit duration", commits.mean_commit_duration.map(|time| time.to_string())),
    ]);
    let mut text = format!(
        "{general}\n\nexecutions\n{executions}\n\nscaling\n{scaling}\n\n\
         this replica since its start\n{since_start}"
    );
    if let Some(window) = &status.last_minute {
        text += &format!("\n\nthis replica in the last minute\n{}", window_fields(window));
    }
    if !status.history.is_empty() {
        text += &format!("\n\nthis replica by the minute\n{}", history_table(&status.history));
    }
    text
}

fn window_fields(window: &MetricsWindow) -> String {
    let running = window.execution_time.clone().unwrap_or_default();
    let waiting = window.wait_time.clone().unwrap_or_default();
    let all = |of: &DurationSummary| {
        let times = [&of.mean, &of.p50, &of.p95, &of.p99].map(Option::as_ref);
        let [mean, p50, p95, p99] = times.map(|time| time.map(show_duration));
        Some(format!("{} (half {}, 95 % {}, 99 % {})", mean?, p50?, p95?, p99?))
    };
    fields([
        ("submitted", Some(window.submitted.to_string())),
        ("ended", Some(format!("{} ({:.1} a second)", window.ended, window.throughput))),
        ("failed", Some(format!("{} ({})", window.failed, percent(window.error_rate)))),
        ("execution time", all(&running)),
        ("wait time", all(&waiting)),
        (
            "queue",
            Some(format!("{:.1}, at most {}", window.mean_queue_depth, window.max_queue_depth)),
        ),
        ("slots in use", Some(percent(window.utilisation))),
    ])
}

fn history_table(history: &[MetricsWindow]) -> String {
    let headings = [
        "UNTIL",
        "SUBMITTED",
        "SUCCEEDED",
        "FAILED",
        "CANCELLED",
        "PER SECOND",
        "MEAN TIME",
        "P99",
        "MEAN WAIT",
        "QUEUE",
        "SLOTS IN USE",
    ];
    let rows = history.iter().map(|window| {
        let running = window.execution_time.as_ref();
        let time =
            |time: Option<&prost_types::Duration>| time.map(show_duration).unwrap_or_default();
        [
            window.end_time.as_ref().map(show_time).unwrap_or_default(),
            window.submitted.to_string(),
            window.succeeded.to_string(),
            window.failed.to_string(),
            window.cancelled.to_string(),
            format!("{:.1}", window.throughput),
            time(running.and_then(|it| it.mean.as_ref())),
            time(running.and_then(|it| it.p99.as_ref())),
            time(window.wait_time.as_ref().and_then(|it| it.mean.as_ref())),
            format!("{:.1}", window.mean_queue_depth),
            percent(window.utilisation),
        ]
    });
    table(headings, rows)
}

fn scaling_fields(scaling: &Scaling) -> String {
    fields([
        ("bottleneck", Some(short::<ScalingBottleneck>(scaling.bottleneck))),
        ("meaning", Some(scaling.message.clone())),
        ("could start on more", Some(scaling.pending_for_replicas.to_string())),
        ("utilisation", Some(percent(scaling.utilisation))),
        ("spare slots", Some(scaling.spare_slots.to_string())),
        ("replicas", Some(scaling.live_replicas.to_string())),
        ("replicas wanted", Some(scaling.desired_replicas.to_string())),
    ])
}

fn workers_table(workers: &[Worker]) -> String {
    let headings = [
        "WORKER",
        "HOST",
        "VERSION",
        "STATUS",
        "STARTED",
        "LAST HEARTBEAT",
        "ACTIVE",
        "LOAD",
        "POOL",
        "CPU",
        "MEMORY",
        "SUCCEEDED",
        "FAILED",
        "MEAN TIME",
    ];
    let rows = workers.iter().map(|worker| {
        let resources = worker.resources.as_ref();
        [
            worker.id.clone(),
            worker.host.clone(),
            worker.version.clone(),
            short::<WorkerStatus>(worker.status),
            worker.start_time.as_ref().map(show_time).unwrap_or_default(),
            worker.last_heartbeat_time.as_ref().map(show_time).unwrap_or_default(),
            format!("{}/{}", worker.active_count, worker.slots),
            percent(worker.load),
            pool(worker),
            resources.map(|used| percent(used.cpu_share)).unwrap_or_default(),
            resources.map(|used| mebibytes(used.memory_bytes)).unwrap_or_default(),
            worker.succeeded_count.to_string(),
            worker.failed_count.to_string(),
            worker.mean_execution_time.as_ref().map(show_duration).unwrap_or_default(),
        ]
    });
    table(headings, rows)
}

/// The bounds of its pool; empty if it never told.
fn pool(worker: &Worker) -> String {
    match worker.max_slots {
        0 => String::new(),
        max => format!("{}..{max}", worker.min_slots),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes / (1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::WorkerResources;

    #[test]
    fn a_worker_is_a_row_and_what_it_never_told_is_left_out() {
        let told = Worker {
            id: "a".to_owned(),
            status: WorkerStatus::Active.into(),
            slots: 1_000,
            active_count: 250,
            load: 0.25,
            min_slots: 2,
            max_slots: 2_000,
            resources: Some(WorkerResources {
                cpu_share: 0.126,
                cpu_cores: 2,
                memory_bytes: 13 << 20,
            }),
            mean_execution_time: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            ..Worker::default()
        };
        let shown = workers_table(&[told, Worker { id: "old".to_owned(), ..Worker::default() }]);
        let words = |line: usize| {
            let line = shown.lines().nth(line).expect("a row each follows the headings");
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(1), "a ACTIVE 250/1000 25% 2..2000 13% 13 MiB 0 0 2s");
        assert_eq!(words(2), "old UNSPECIFIED 0/0 0% 0 0");
    }
}

//! `flowgate status` and `flowgate workers`.

use std::process::ExitCode;

use super::names::short;
use super::output::{fields, table};
use super::time::{show_duration, show_time};
use super::{Context, json};
use crate::pb::{
    GetStatusRequest, GetStatusResponse, ListWorkersRequest, ServingState, Worker, WorkerStatus,
};

pub(super) async fn status(context: &Context) -> anyhow::Result<ExitCode> {
    let mut client = context.server.system().await?;
    let status = client.get_status(GetStatusRequest {}).await?.into_inner();
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
        ("size", (store.size_bytes > 0).then(|| format!("{} bytes", store.size_bytes))),
    ]);
    let executions = fields([
        ("running", Some(status.running_count.to_string())),
        ("pending", Some(status.pending_count.to_string())),
        ("succeeded", Some(status.succeeded_count.to_string())),
        ("failed", Some(status.failed_count.to_string())),
        ("cancelled", Some(status.cancelled_count.to_string())),
    ]);
    let since_start = fields([
        ("attempts started", Some(metrics.started.to_string())),
        ("succeeded", Some(metrics.succeeded.to_string())),
        ("failed", Some(metrics.failed.to_string())),
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
    format!("{general}\n\nexecutions\n{executions}\n\nthis replica since its start\n{since_start}")
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
        "SLOTS",
        "SUCCEEDED",
        "FAILED",
    ];
    let rows = workers.iter().map(|worker| {
        [
            worker.id.clone(),
            worker.host.clone(),
            worker.version.clone(),
            short::<WorkerStatus>(worker.status),
            worker.start_time.as_ref().map(show_time).unwrap_or_default(),
            worker.last_heartbeat_time.as_ref().map(show_time).unwrap_or_default(),
            worker.active_executions.len().to_string(),
            worker.slots.to_string(),
            worker.succeeded_count.to_string(),
            worker.failed_count.to_string(),
        ]
    });
    table(headings, rows)
}

//! The service as a whole.

use serde_json::Value;

use super::Object;
use crate::pb;

/// GetStatusResponse.
pub(in crate::cli) fn status(status: &pb::GetStatusResponse) -> Value {
    let pb::GetStatusResponse {
        version,
        store,
        running_count,
        pending_count,
        succeeded_count,
        failed_count,
        cancelled_count,
        worker_id,
        start_time,
        serving_state,
        metrics,
        slots,
        active_count,
        load,
        scaling,
    } = status;
    Object::default()
        .text("version", version)
        .set("store", store.as_ref().map(store_json))
        .int64("runningCount", *running_count)
        .int64("pendingCount", *pending_count)
        .int64("succeededCount", *succeeded_count)
        .int64("failedCount", *failed_count)
        .int64("cancelledCount", *cancelled_count)
        .text("workerId", worker_id)
        .time("startTime", start_time.as_ref())
        .name::<pb::ServingState>("servingState", *serving_state)
        .set("metrics", metrics.as_ref().map(metrics_json))
        .int32("slots", *slots)
        .int32("activeCount", *active_count)
        .double("load", *load)
        .set("scaling", scaling.as_ref().map(scaling_json))
        .done()
}

fn scaling_json(scaling: &pb::Scaling) -> Value {
    let pb::Scaling {
        bottleneck,
        pending_for_replicas,
        message,
        utilisation,
        live_replicas,
        desired_replicas,
        spare_slots,
    } = scaling;
    Object::default()
        .name::<pb::ScalingBottleneck>("bottleneck", *bottleneck)
        .int64("pendingForReplicas", *pending_for_replicas)
        .text("message", message)
        .double("utilisation", *utilisation)
        .int32("liveReplicas", *live_replicas)
        .int32("desiredReplicas", *desired_replicas)
        .int64("spareSlots", *spare_slots)
        .done()
}

fn store_json(store: &pb::StoreStatus) -> Value {
    let pb::StoreStatus { kind, epoch, revision, size_bytes, commit_stats } = store;
    Object::default()
        .text("kind", kind)
        .text("epoch", epoch)
        .int64("revision", *revision)
        .int64("sizeBytes", *size_bytes)
        .set("commitStats", commit_stats.as_ref().map(commit_stats_json))
        .done()
}

fn commit_stats_json(stats: &pb::CommitStats) -> Value {
    let pb::CommitStats { commits, operations, mean_batch_size, mean_commit_duration } = stats;
    Object::default()
        .int64("commits", *commits)
        .int64("operations", *operations)
        .double("meanBatchSize", *mean_batch_size)
        .duration("meanCommitDuration", mean_commit_duration.as_ref())
        .done()
}

fn metrics_json(metrics: &pb::Metrics) -> Value {
    let pb::Metrics {
        started,
        succeeded,
        failed,
        retried,
        stale_writes_rejected,
        crashed,
        mean_execution_time,
        mean_wait_time,
        watchers,
        watch_resyncs,
        cancelled,
    } = metrics;
    Object::default()
        .int64("started", *started)
        .int64("succeeded", *succeeded)
        .int64("failed", *failed)
        .int64("retried", *retried)
        .int64("staleWritesRejected", *stale_writes_rejected)
        .int64("crashed", *crashed)
        .duration("meanExecutionTime", mean_execution_time.as_ref())
        .duration("meanWaitTime", mean_wait_time.as_ref())
        .int64("watchers", *watchers)
        .int64("watchResyncs", *watch_resyncs)
        .int64("cancelled", *cancelled)
        .done()
}

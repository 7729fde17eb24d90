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
        last_minute,
        history,
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
        .set("lastMinute", last_minute.as_ref().map(window_json))
        .list("history", history.iter().map(window_json))
        .done()
}

fn window_json(window: &pb::MetricsWindow) -> Value {
    let pb::MetricsWindow {
        start_time,
        end_time,
        submitted,
        started,
        ended,
        succeeded,
        failed,
        cancelled,
        throughput,
        error_rate,
        execution_time,
        wait_time,
        mean_queue_depth,
        max_queue_depth,
        mean_active,
        mean_slots,
        utilisation,
    } = window;
    Object::default()
        .time("startTime", start_time.as_ref())
        .time("endTime", end_time.as_ref())
        .int64("submitted", *submitted)
        .int64("started", *started)
        .int64("ended", *ended)
        .int64("succeeded", *succeeded)
        .int64("failed", *failed)
        .int64("cancelled", *cancelled)
        .double("throughput", *throughput)
        .double("errorRate", *error_rate)
        .set("executionTime", execution_time.as_ref().map(summary_json))
        .set("waitTime", wait_time.as_ref().map(summary_json))
        .double("meanQueueDepth", *mean_queue_depth)
        .int64("maxQueueDepth", *max_queue_depth)
        .double("meanActive", *mean_active)
        .double("meanSlots", *mean_slots)
        .double("utilisation", *utilisation)
        .done()
}

fn summary_json(summary: &pb::DurationSummary) -> Value {
    let pb::DurationSummary { count, mean, p50, p95, p99, buckets } = summary;
    let bucket = |pb::DurationBucket { upper_bound, count }: &pb::DurationBucket| {
        Object::default().duration("upperBound", upper_bound.as_ref()).int64("count", *count).done()
    };
    Object::default()
        .int64("count", *count)
        .duration("mean", mean.as_ref())
        .duration("p50", p50.as_ref())
        .duration("p95", p95.as_ref())
        .duration("p99", p99.as_ref())
        .list("buckets", buckets.iter().map(bucket))
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

//! Workers.

use serde_json::{Map, Value};

use super::Object;
use crate::pb;

/// ListWorkersResponse.
pub(in crate::cli) fn workers(workers: &[pb::Worker]) -> Value {
    Object::default().list("workers", workers.iter().map(worker)).done()
}

fn worker(worker: &pb::Worker) -> Value {
    let pb::Worker {
        id,
        host,
        version,
        status,
        start_time,
        last_heartbeat_time,
        slots,
        active_executions,
        started_count,
        succeeded_count,
        failed_count,
        configuration,
        active_count,
        active_by_provider,
        load,
        cancelled_count,
        retried_count,
        crashed_count,
        stale_writes_rejected,
        mean_execution_time,
        mean_wait_time,
        watchers,
        resources,
        process_id,
        min_slots,
        max_slots,
        spare_slots,
        held_by_machine,
    } = worker;
    let by_provider: Map<_, _> =
        active_by_provider.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
    Object::default()
        .text("id", id)
        .text("host", host)
        .text("version", version)
        .name::<pb::WorkerStatus>("status", *status)
        .time("startTime", start_time.as_ref())
        .time("lastHeartbeatTime", last_heartbeat_time.as_ref())
        .int32("slots", *slots)
        .list("activeExecutions", active_executions.iter().map(|id| id.as_str().into()))
        .int64("startedCount", *started_count)
        .int64("succeededCount", *succeeded_count)
        .int64("failedCount", *failed_count)
        .set("configuration", configuration.as_ref().map(configuration_json))
        .int32("activeCount", *active_count)
        .set("activeByProvider", (!by_provider.is_empty()).then(|| by_provider.into()))
        .double("load", *load)
        .int64("cancelledCount", *cancelled_count)
        .int64("retriedCount", *retried_count)
        .int64("crashedCount", *crashed_count)
        .int64("staleWritesRejected", *stale_writes_rejected)
        .duration("meanExecutionTime", mean_execution_time.as_ref())
        .duration("meanWaitTime", mean_wait_time.as_ref())
        .int64("watchers", *watchers)
        .set("resources", resources.as_ref().map(resources_json))
        .int64("processId", *process_id)
        .int32("minSlots", *min_slots)
        .int32("maxSlots", *max_slots)
        .int32("spareSlots", *spare_slots)
        .boolean("heldByMachine", *held_by_machine)
        .done()
}

fn configuration_json(configuration: &pb::WorkerConfiguration) -> Value {
    let pb::WorkerConfiguration {
        providers,
        lease,
        reclaim_grace,
        heartbeat_interval,
        poll_interval,
        drain_timeout,
        store_kind,
    } = configuration;
    Object::default()
        .list("providers", providers.iter().map(provider))
        .duration("lease", lease.as_ref())
        .duration("reclaimGrace", reclaim_grace.as_ref())
        .duration("heartbeatInterval", heartbeat_interval.as_ref())
        .duration("pollInterval", poll_interval.as_ref())
        .duration("drainTimeout", drain_timeout.as_ref())
        .text("storeKind", store_kind)
        .done()
}

fn provider(provider: &pb::WorkerProvider) -> Value {
    let pb::WorkerProvider { name, kind, max_concurrent } = provider;
    Object::default()
        .text("name", name)
        .text("kind", kind)
        .int32("maxConcurrent", *max_concurrent)
        .done()
}

fn resources_json(resources: &pb::WorkerResources) -> Value {
    let pb::WorkerResources { cpu_share, cpu_cores, memory_bytes } = resources;
    Object::default()
        .double("cpuShare", *cpu_share)
        .int32("cpuCores", *cpu_cores)
        .int64("memoryBytes", *memory_bytes)
        .done()
}

//! What this process costs, and how its runtimes fare: looked at when it is asked for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Unit;
use std::sync::atomic::AtomicU64;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::runtime::Handle;

/// The runtimes of this process, by name.
#[derive(Debug, Clone, Default)]
pub struct Runtimes(Arc<Mutex<Vec<(&'static str, Handle)>>>);

impl Runtimes {
    /// Tells of one more from now on.
    pub fn add(&self, name: &'static str, handle: Handle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, handle));
    }

    fn all(&self) -> Vec<(&'static str, Handle)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks at the process and its runtimes.
#[derive(Debug)]
pub(super) struct Collector {
    runtimes: Runtimes,
    /// `None` where the system does not tell.
    system: Mutex<Option<System>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuntimeLabel {
    runtime: &'static str,
}

impl Collector {
    pub(super) fn new(runtimes: Runtimes) -> Self {
        Self { runtimes, system: Mutex::new(System::new().ok()) }
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(system) = &mut *system else { return Ok(()) };
        let pid = Pid::from_u32(std::process::id());
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().with_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let Some(process) = system.process(pid) else { return Ok(()) };
        let used = Duration::from_millis(process.accumulated_cpu_time());
        show(
            encoder,
            "process_cpu",
            "Processor time used, of user and system",
            Some(&Unit::Seconds),
            &ConstCounter::new(used.as_secs_f64()),
        )?;
        let gauges = [
            ("process_resident_memory", "Memory held", Some(Unit::Bytes), Some(process.memory())),
            (
                "process_virtual_memory",
                "Address space",
                Some(Unit::Bytes),
                Some(process.virtual_memory()),
            ),
            (
                "process_start_time",
                "When the process started, since the Unix epoch",
                Some(Unit::Seconds),
                Some(process.start_time()),
            ),
            (
                "process_threads",
                "Threads",
                None,
                process.tasks().and_then(|tasks| u64::try_from(tasks.len()).ok()),
            ),
            ("process_open_fds", "File descriptors in use", None, open_files()),
            ("process_max_fds", "File descriptors that may be in use", None, max_files()),
        ];
        for (name, help, unit, value) in gauges {
            if let Some(value) = value {
                show(encoder, name, help, unit.as_ref(), &ConstGauge::new(super::to_i64(value)))?;
            }
        }
        Ok(())
    }

    fn runtimes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let workers = Family::<RuntimeLabel, Gauge>::default();
        let alive = Family::<RuntimeLabel, Gauge>::default();
        let queued = Family::<RuntimeLabel, Gauge>::default();
        let busy = Family::<RuntimeLabel, Counter<f64, AtomicU64>>::default();
        for (runtime, handle) in self.runtimes.all() {
            let label = RuntimeLabel { runtime };
            let metrics = handle.metrics();
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            workers.get_or_create(&label).set(count(metrics.num_workers()));
            alive.get_or_create(&label).set(count(metrics.num_alive_tasks()));
            queued.get_or_create(&label).set(count(metrics.global_queue_depth()));
            let all = (0..metrics.num_workers()).map(|it| metrics.worker_total_busy_duration(it));
            busy.get_or_create(&label).inc_by(all.sum::<Duration>().as_secs_f64());
        }
        show(encoder, "flowgate_runtime_workers", "Threads of the runtime", None, &workers)?;
        show(encoder, "flowgate_runtime_alive_tasks", "Tasks of the runtime", None, &alive)?;
        let help =
            "Tasks that wait for a thread of the runtime, as far as no thread has taken them";
        show(encoder, "flowgate_runtime_queued_tasks", help, None, &queued)?;
        let help = "Time that the threads of the runtime were busy, all together";
        show(encoder, "flowgate_runtime_busy", help, Some(&Unit::Seconds), &busy)
    }
}

impl collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.process(&mut encoder)?;
        self.runtimes(&mut encoder)
    }
}

fn show(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
    metric.encode(encoder)
}

/// Descriptors in use, where the system shows them as a folder.
fn open_files() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is that of the folder itself.
    u64::try_from(open).ok()?.checked_sub(1)
}

fn max_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

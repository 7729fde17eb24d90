//! What this process costs the machine, measured with each heartbeat.

use std::num::NonZero;
use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::Vitals;

/// Processor time is counted in hundredths of a second: over less than this it says little.
const SHORTEST: Duration = Duration::from_millis(100);

/// Looks at this process.
pub(super) struct Gauge {
    /// `None` where the system does not tell.
    system: Option<System>,
    pid: Pid,
    cores: u32,
    /// When processor time was last looked at, and what it was.
    used: Option<(Instant, Duration)>,
    cpu_share: f64,
    latest: Option<Vitals>,
}

impl Default for Gauge {
    fn default() -> Self {
        let system = System::new();
        if let Err(error) = &system {
            tracing::warn!(%error, "cannot tell the processor time and memory of this process");
        }
        // Knows of affinity and of the quota of a container, which the list of processors does not.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            system: system.ok(),
            pid: Pid::from_u32(std::process::id()),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            used: None,
            cpu_share: 0.0,
            latest: None,
        }
    }
}

impl Gauge {
    /// What was last measured.
    pub(super) fn latest(&self) -> Option<Vitals> {
        self.latest
    }

    /// Measures.
    pub(super) fn measure(&mut self) {
        let Some(system) = &mut self.system else { return };
        // Each thread would be read like a process of its own.
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), true, what);
        let Some(process) = system.process(self.pid) else { return };
        let used = Duration::from_millis(process.accumulated_cpu_time());
        let resident_bytes = process.memory();
        self.note(Instant::now(), used);
        let Self { cpu_share, cores, .. } = *self;
        self.latest = Some(Vitals { cpu_share, cores, resident_bytes });
    }

    /// Notes how much processor time was used up to now.
    fn note(&mut self, now: Instant, used: Duration) {
        let Some((then, before)) = self.used else {
            self.used = Some((now, used));
            return;
        };
        let passed = now.saturating_duration_since(then);
        if passed < SHORTEST {
            return;
        }
        let available = passed.as_secs_f64() * f64::from(self.cores);
        let share = used.saturating_sub(before).as_secs_f64() / available;
        self.cpu_share = share.clamp(0.0, 1.0);
        self.used = Some((now, used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_memory_and_may_use_processors() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.latest(), None);
        gauge.measure();
        let vitals = gauge.latest().expect("the system tells");
        assert!(vitals.resident_bytes > 100_000, "{vitals:?}");
        assert!(vitals.cores > 0 && vitals.cpu_share == 0.0, "{vitals:?}");
    }

    #[test]
    fn the_share_is_of_all_processors_and_of_the_time_since_the_last_look() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gauge = Gauge { cores: 4, ..Gauge::default() };
        gauge.note(at(0), Duration::from_secs(100));
        gauge.note(at(10), Duration::from_secs(110));
        assert_eq!(gauge.cpu_share, 0.25);
        gauge.note(at(10) + SHORTEST / 2, Duration::from_secs(120));
        assert_eq!(gauge.cpu_share, 0.25, "too soon to tell");
        gauge.note(at(20), Duration::from_secs(150));
        assert_eq!(gauge.cpu_share, 1.0);
    }
}

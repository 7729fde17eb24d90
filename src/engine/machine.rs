//! How busy the machine is that this worker runs on.
//!
//! What must stay true: what the system does not tell is `None`, never a guess.

use std::sync::{Mutex, PoisonError};

use sysinfo::{CGroupLimits, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::domain::MachineLoad;

/// Something that tells how busy the machine is.
pub trait Machine: Send + Sync + 'static {
    /// The load now. Processor use is that since the call before, so the first may not know it.
    fn load(&self) -> MachineLoad;
}

/// The machine that this process runs on, or the container if that may use less memory.
#[derive(Default)]
pub struct ThisMachine(Mutex<Option<Probe>>);

struct Probe {
    system: System,
    pid: Pid,
    /// Whether there is a look before, to count processor use from.
    looked: bool,
}

impl Machine for ThisMachine {
    fn load(&self) -> MachineLoad {
        let mut probe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if probe.is_none() {
            *probe = Probe::new();
        }
        probe.as_mut().map(Probe::look).unwrap_or_default()
    }
}

impl Probe {
    fn new() -> Option<Self> {
        match System::new() {
            Ok(system) => {
                let pid = Pid::from_u32(std::process::id());
                Some(Self { system, pid, looked: false })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell how busy this machine is");
                None
            }
        }
    }

    fn look(&mut self) -> MachineLoad {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let used = f64::from(self.system.global_cpu_usage());
        let looked = std::mem::replace(&mut self.looked, true);
        MachineLoad {
            cpu_percent: looked.then_some(used),
            memory_available_bytes: self.available_memory(),
        }
    }

    fn available_memory(&mut self) -> Option<u64> {
        // No machine that this runs on has none.
        let of_machine = Some(self.system.available_memory()).filter(|bytes| *bytes > 0);
        let itself = ProcessesToUpdate::Some(&[self.pid]);
        // Each thread would be read like a process of its own.
        let what = ProcessRefreshKind::nothing().without_tasks();
        self.system.refresh_processes_specifics(itself, false, what);
        // One knows the group of this process, the other what a container is shown as the whole.
        let of_process = self.system.process(self.pid).and_then(sysinfo::Process::cgroup_limits);
        let limits = [of_process, self.system.cgroup_limits()];
        let of_groups = limits.iter().flatten().map(left_of);
        of_machine.into_iter().chain(of_groups).min()
    }
}

/// What a control group may still take. Files that it has cached count as its use, and would make a
/// container that reads much look full for ever; the kernel drops them when memory is wanted.
fn left_of(limits: &CGroupLimits) -> u64 {
    limits.total_memory.saturating_sub(limits.rss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_needs_two_looks_for_its_processors() {
        let machine = ThisMachine::default();
        let first = machine.load();
        assert_eq!(first.cpu_percent, None);
        assert!(first.memory_available_bytes.is_some_and(|bytes| bytes > 1_000_000), "{first:?}");
        let percent = machine.load().cpu_percent.expect("the second look knows");
        assert!((0.0..=100.0).contains(&percent), "{percent}");
    }

    #[test]
    fn cached_files_count_as_memory_to_be_had() {
        let limits = CGroupLimits { total_memory: 1_000, free_memory: 10, free_swap: 0, rss: 400 };
        assert_eq!(left_of(&limits), 600);
    }
}

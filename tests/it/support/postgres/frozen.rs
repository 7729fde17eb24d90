//! A PostgreSQL that stands still: its processes are there, its port takes connections, and nobody answers.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use super::Cluster;

/// A cluster whose every process is stopped, until this is dropped.
pub(crate) struct Frozen {
    processes: Vec<Pid>,
}

impl Frozen {
    /// Stops them all.
    pub(crate) fn freeze(cluster: &Cluster) -> Self {
        let noted = cluster.dir().join("data/postmaster.pid");
        let noted = std::fs::read_to_string(noted).expect("it runs");
        let postmaster = noted.lines().next().and_then(|line| line.trim().parse().ok());
        let postmaster = postmaster.expect("its first line is the process id");
        let mut frozen = Self { processes: Vec::new() };
        // First of all, so that it starts no more of them.
        frozen.stop(postmaster);
        for child in children_of(postmaster) {
            frozen.stop(child);
        }
        frozen
    }

    fn stop(&mut self, process: i32) {
        let process = Pid::from_raw(process).expect("no process has the id 0");
        // One that has just ended needs no stopping.
        if kill_process(process, Signal::STOP).is_ok() {
            self.processes.push(process);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.processes {
            // It fails if somebody has killed it.
            let _ = kill_process(*process, Signal::CONT);
        }
    }
}

fn children_of(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("it tells of processes");
    let processes = processes.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    processes.filter(|process| parent_of(*process) == Some(parent)).collect()
}

fn parent_of(process: i32) -> Option<i32> {
    let status = PathBuf::from(format!("/proc/{process}/status"));
    let status = std::fs::read_to_string(status).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

//! The guard by itself, the test speaking its protocol as a server would, up to a point.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

struct ByHand {
    control: UnixStream,
    guard: Child,
    stdout: BufReader<ChildStdout>,
}

/// Milliseconds on the clock that the guard goes by.
fn now_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    u64::try_from(now.tv_sec * 1_000 + now.tv_nsec / 1_000_000).unwrap()
}

impl ByHand {
    fn start(script: &str, lease: Duration) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let mut guard = Command::new(env!("CARGO_BIN_EXE_flowgate"))
            .arg("__guard")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(guard.stdout.take().unwrap());
        let mut by_hand = Self { control, guard, stdout };
        by_hand.say(&json!({
            "type": "start", "program": "/bin/sh", "args": ["-c", script], "cwd": "/",
            "env": [["PATH", std::env::var("PATH").unwrap()]], "stdin_bytes": null,
            "deadline_ms": now_ms() + u64::try_from(lease.as_millis()).unwrap(),
        }));
        by_hand
    }

    fn say(&mut self, request: &Value) {
        writeln!(self.control, "{request}").unwrap();
    }

    fn reports(&self) -> Vec<Value> {
        let lines = BufReader::new(self.control.try_clone().unwrap()).lines();
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    fn numbers(&mut self, count: usize) -> Vec<i32> {
        let lines = self.stdout.by_ref().lines().take(count);
        lines.map(|line| line.unwrap().trim().parse().unwrap()).collect()
    }
}

#[cfg(target_os = "linux")]
#[test]
fn when_the_socket_closes_the_tree_ends_and_only_then_the_guard() {
    let mut by_hand = ByHand::start(STUBBORN_TREE, Duration::from_secs(600));
    let processes = by_hand.numbers(3);
    drop(by_hand.control);
    by_hand.guard.wait().unwrap();
    for process in processes {
        assert!(!exists(process));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn when_the_deadline_passes_the_tree_ends_though_the_socket_stays_open() {
    let mut by_hand = ByHand::start(STUBBORN_TREE, Duration::from_secs(1));
    let processes = by_hand.numbers(3);
    let reports = by_hand.reports();
    let used = &reports[1]["used"];
    assert!(used["peak_memory_bytes"].as_u64().unwrap() > 0, "{used}");
    let exited = json!({
        "type": "exited", "code": null, "signal": 9, "stopped": "killed", "used": used,
    });
    assert_eq!(reports[1], exited);
    for process in processes {
        assert!(!exists(process));
    }
    assert!(by_hand.guard.wait().unwrap().success());
}

#[test]
fn a_module_whose_lease_has_ended_is_not_started() {
    let mut by_hand = ByHand::start("echo 1", Duration::ZERO);
    assert_eq!(by_hand.reports()[0]["type"], "start_failed");
    assert!(by_hand.numbers(1).is_empty());
}

#[test]
fn a_server_that_makes_no_sense_counts_as_gone() {
    let mut by_hand = ByHand::start("echo $$; sleep 1000", Duration::from_secs(600));
    let processes = by_hand.numbers(1);
    by_hand.say(&json!("what?"));
    assert_eq!(by_hand.reports()[1]["stopped"], "killed");
    assert!(!exists(processes[0]));
}

//! What server and guard say to each other over the guard's standard input: one JSON object a
//! line, in both directions. After the line of [`Request::Start`] follow the `stdin_bytes` bytes
//! that the module is to read, as they are: escaping megabytes would cost both sides dearly.
//!
//! Points in time are milliseconds on [`super::os::now_ms`], the one clock both sides share. A
//! span would start anew whenever a frozen reader gets to it, and let a module outlive its lease.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// From the server to the guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Request {
    /// Start the module; the first request, and sent once.
    Start(Start),
    /// The module may run until this later time.
    Extend {
        /// That time.
        deadline_ms: u64,
    },
    /// Ask the module's process group to end, and kill it if it does not.
    Stop {
        /// How long it has to end by itself.
        grace_ms: u64,
    },
    /// Kill the module's tree now.
    Kill,
}

/// How to start a module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// The file to run, or an interpreter looked up on the `PATH` in `env`.
    pub(super) program: String,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// Its whole environment.
    pub(super) env: Vec<(String, String)>,
    /// Its working directory.
    pub(super) cwd: String,
    /// How many bytes of standard input follow; none at all where absent.
    pub(super) stdin_bytes: Option<u64>,
    /// By when the module must be over.
    pub(super) deadline_ms: u64,
}

/// From the guard to the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Report {
    /// The module runs, leading a process group of its own.
    Started {
        /// Its process id, which is the group's too.
        pid: u32,
    },
    /// The module could not be started; the last report.
    StartFailed {
        /// Why, in the system's words.
        message: String,
        /// Whether the reason may pass, such as a full process table.
        transient: bool,
    },
    /// Nothing is left of the module's tree; the last report.
    Exited {
        /// The exit status, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// What the guard had done to it before it ended.
        stopped: Stopped,
        /// What the tree used, where the system tells.
        used: Option<Used>,
    },
}

/// What a module's processes used of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Used {
    /// Processor time of all of them, in user and in system mode.
    pub(super) cpu_seconds: f64,
    /// The most memory that the largest of them held at a time.
    pub(super) peak_memory_bytes: u64,
}

/// What the guard did to a module before that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stopped {
    /// Nothing: the module ended by itself.
    No,
    /// Asked its process group to end.
    Asked,
    /// Killed it.
    Killed,
}

/// `message` as a line.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The message that `line` is.
pub(super) fn decode<M: DeserializeOwned>(line: &str) -> io::Result<M> {
    Ok(serde_json::from_str(line)?)
}

//! What a client is told of a module that ran, or did not.
//!
//! What must stay true: the output has the same fields however the module ended, and a module that
//! ended before the guard did anything to it is judged by how it ended, whatever was asked since.

use std::time::Duration;

use serde_json::{Map, Value};

use super::capture::Captured;
use super::guarded::Ending;
use super::protocol::{Stopped, Used};
use crate::domain::{ErrorCode, Failure, FailureKind};
use crate::providers::{AttemptFailure, StopReason, Success};

/// What is known of an attempt besides how it ended.
#[derive(Debug)]
pub(super) struct Outline {
    /// What the client calls the module.
    pub(super) module_id: String,
    /// The module.
    pub(super) module: String,
    /// What it printed.
    pub(super) stdout: Captured,
    /// What it complained of.
    pub(super) stderr: Captured,
    /// How long all took.
    pub(super) duration: Duration,
    /// What the module's processes used, if it ran and its guard could tell.
    pub(super) used: Option<Used>,
}

/// The times a message may name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The longest an attempt may take.
    pub(super) run_timeout: Duration,
    /// How long a module has to end by itself.
    pub(super) stop_grace: Duration,
}

/// A way to fail.
#[derive(Debug)]
pub(super) struct Fault {
    kind: FailureKind,
    code: ErrorCode,
    message: String,
    exit_code: i32,
    signal: Option<i32>,
}

impl Fault {
    /// The module could not run.
    pub(super) fn new(kind: FailureKind, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), exit_code: -1, signal: None }
    }

    /// The module was ended by `signal`, if by any.
    fn by(self, signal: Option<i32>) -> Self {
        Self { signal, ..self }
    }
}

/// The verdict on an ending.
pub(super) fn judge(
    ending: Ending,
    asked: Option<StopReason>,
    bounds: Bounds,
) -> Result<(), Fault> {
    use FailureKind::{Permanent, Transient};
    match (ending, asked) {
        (Ending::Ended { code: Some(0), stopped: Stopped::No, .. }, _) => Ok(()),
        (Ending::Ended { code: Some(code), stopped: Stopped::No, .. }, _) => {
            let message = format!("Module exited with status {code}");
            let fault = Fault::new(Permanent, ErrorCode::ModuleFailed, message);
            Err(Fault { exit_code: code, ..fault })
        }
        (Ending::Ended { signal, stopped: Stopped::No, .. }, _) => {
            let message = match signal {
                Some(signal) => format!("Module was ended by signal {signal}"),
                None => "Module ended in an unknown way".to_owned(),
            };
            Err(Fault::new(Permanent, ErrorCode::ModuleFailed, message).by(signal))
        }
        (Ending::Ended { signal, stopped, .. }, Some(reason)) => {
            Err(stopped_for(reason, &how(stopped, reason, bounds), bounds).by(signal))
        }
        (Ending::Ended { signal, .. }, None) => {
            let message = "the lease ran out, and the module's process group was killed";
            Err(Fault::new(Transient, ErrorCode::Crashed, message).by(signal))
        }
        (Ending::NotStarted { .. }, Some(reason)) => {
            Err(stopped_for(reason, "the module had not started", bounds))
        }
        (Ending::NotStarted { message, transient }, None) => {
            let kind = if transient { Transient } else { Permanent };
            let message = format!("Module could not be started: {message}");
            Err(Fault::new(kind, ErrorCode::ModuleStartFailed, message))
        }
        (Ending::Lost, Some(reason)) => {
            let how = "process group killed, its guard having gone or not answered";
            Err(stopped_for(reason, how, bounds))
        }
        (Ending::Lost, None) => {
            let message = "the module's guard was lost, and its process group was killed";
            Err(Fault::new(Transient, ErrorCode::Crashed, message))
        }
    }
}

/// The fault of a module that was stopped, `how` saying what was really done.
fn stopped_for(reason: StopReason, how: &str, bounds: Bounds) -> Fault {
    match reason {
        StopReason::TimedOut => {
            let after = seconds(bounds.run_timeout);
            let message = format!("Module execution timed out after {after}");
            Fault::new(FailureKind::Permanent, ErrorCode::Timeout, message)
        }
        StopReason::Cancelled => {
            let message = format!("cancelled: {how}");
            Fault::new(FailureKind::Cancelled, ErrorCode::Cancelled, message)
        }
        StopReason::ShuttingDown => {
            let message = format!("the worker is shutting down: {how}");
            Fault::new(FailureKind::Cancelled, ErrorCode::Cancelled, message)
        }
        StopReason::LeaseLost => {
            let message = format!("the lease was lost: {how}");
            Fault::new(FailureKind::Transient, ErrorCode::Crashed, message)
        }
    }
}

fn how(stopped: Stopped, reason: StopReason, bounds: Bounds) -> String {
    match stopped {
        Stopped::Killed if reason != StopReason::LeaseLost => {
            format!("process group killed after {} grace", seconds(bounds.stop_grace))
        }
        Stopped::Killed => "process group killed".to_owned(),
        Stopped::Asked | Stopped::No => "process group ended by SIGTERM".to_owned(),
    }
}

/// `300s`, `1.5s`.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

impl Outline {
    /// The attempt's result.
    pub(super) fn conclude(self, verdict: Result<(), Fault>) -> Result<Success, AttemptFailure> {
        match verdict {
            Ok(()) => Ok(Success::new(self.output(0, None, None), None)),
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// The attempt's result if it failed.
    pub(super) fn fail(self, fault: Fault) -> AttemptFailure {
        let Fault { kind, code, message, exit_code, signal } = fault;
        let output = Some(self.output(exit_code, signal, Some(message.clone())));
        let failure = Failure::new(code, kind == FailureKind::Transient, message);
        AttemptFailure { output, ..AttemptFailure::new(kind, failure) }
    }

    /// Field by field, since a macro would copy the texts. `stdout` and `stderr` hold U+FFFD for
    /// what is not UTF-8 and for control characters other than line breaks and tabs;
    /// `stdout_bytes` and `stderr_bytes` count what was printed. `cpu_seconds` is the processor time of
    /// all the module's processes, user and system, and `peak_memory_bytes` the most memory that the
    /// largest of them held at a time, for which that of the guard that started it may count; both are
    /// absent if it did not run, or its guard was lost.
    fn output(self, exit_code: i32, signal: Option<i32>, error: Option<String>) -> Value {
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let mut output = Map::new();
        let mut set = |name: &str, value: Value| output.insert(name.to_owned(), value);
        set("module_id", self.module_id.into());
        set("module", self.module.into());
        set("exit_code", exit_code.into());
        if let Some(signal) = signal {
            set("signal", signal.into());
        }
        set("success", error.is_none().into());
        set("error", error.into());
        set("stdout", self.stdout.text.into());
        set("stderr", self.stderr.text.into());
        set("stdout_truncated", self.stdout.truncated.into());
        set("stderr_truncated", self.stderr.truncated.into());
        set("stdout_bytes", self.stdout.total_bytes.into());
        set("stderr_bytes", self.stderr.total_bytes.into());
        set("duration_ms", duration_ms.into());
        if let Some(Used { cpu_seconds, peak_memory_bytes }) = self.used {
            set("cpu_seconds", cpu_seconds.into());
            set("peak_memory_bytes", peak_memory_bytes.into());
        }
        Value::Object(output)
    }
}

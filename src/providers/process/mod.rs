//! `process`: runs a module, a file below a directory the operator chose, as a process of its own.
//!
//! What must stay true: only files below that directory run, without a shell and with only what
//! the operator lets through of the server's environment; and a module's whole tree of processes
//! is over before its attempt is, and before its lease is, even if the server is killed or frozen.
//! For the latter a small guard ([`guard_main`]) stands between the server and each module.

mod capture;
mod guard;
mod guarded;
mod input;
mod module;
mod os;
mod protocol;
mod result;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AttemptFailure, Call, Provider, Success, Violation};
use crate::domain::{ErrorCode, Failure, FailureKind, Lack, OutputStream, ResourceGate};
use capture::Capture;
use guarded::{ANSWER_WAIT, Ending, Guarded};
use input::Input;
use module::{Launch, LocateError};
use protocol::{Start, Used};
use result::{Bounds, Fault, Outline};

pub use guard::guard_main;

/// The variable that names a module's execution: set for every module, and by no input.
const EXECUTION_ID: &str = "FLOWGATE_EXECUTION_ID";
/// What `execute` needs after the module's end to gather the last output.
const GATHER_WAIT: Duration = Duration::from_secs(3);

/// What an operator decides about modules.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where the modules are; without it submissions are refused.
    pub modules_dir: Option<PathBuf>,
    /// Variables of the server's environment that modules inherit.
    pub env_allow: Vec<String>,
    /// How long a module that was asked to end may take before it is killed.
    pub stop_grace: Duration,
    /// How much of stdout, and how much of stderr, a result holds.
    pub max_output_bytes: usize,
    /// What the machine must have left for a module to start.
    pub gate: Option<ResourceGate>,
    /// The program that calls [`guard_main`] when its first argument is `__guard`: the server's.
    pub guard_program: PathBuf,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        let env_allow = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];
        Self {
            modules_dir: None,
            env_allow: env_allow.map(str::to_owned).to_vec(),
            stop_grace: Duration::from_secs(5),
            max_output_bytes: 1_024 * 1_024,
            gate: None,
            guard_program: os::own_program(),
        }
    }
}

/// The provider.
#[derive(Debug, Clone)]
pub struct Process {
    config: ProcessConfig,
}

impl Process {
    /// A provider that does as `config` says.
    pub fn new(config: ProcessConfig) -> Self {
        Self { config }
    }

    /// How to start the module, the file looked up afresh.
    async fn launch(&self, module: &str) -> Result<Launch, Fault> {
        let start_failed = |why: String| {
            let message = format!("Module could not be started: {why}");
            Fault::new(FailureKind::Permanent, ErrorCode::ModuleStartFailed, message)
        };
        let Some(modules_dir) = self.config.modules_dir.clone() else {
            return Err(start_failed("no modules_dir is configured".to_owned()));
        };
        let name = module.to_owned();
        // Directories may lie on a file system that takes its time.
        let found = tokio::task::spawn_blocking(move || {
            module::locate(&modules_dir, &name).map(|file| module::launch(&file))
        });
        match found.await {
            Ok(Ok(Ok(launch))) => Ok(launch),
            Ok(Ok(Err(why))) => Err(start_failed(why)),
            Ok(Err(LocateError::Missing)) => {
                let message = format!("Script not found: {module}");
                Err(Fault::new(FailureKind::Permanent, ErrorCode::ModuleNotFound, message))
            }
            Ok(Err(error @ (LocateError::Outside | LocateError::Unreadable(_)))) => {
                Err(start_failed(format!("it {error}")))
            }
            Err(error) => Err(start_failed(error.to_string())),
        }
    }

    /// The module's whole environment.
    fn environment(&self, call: &Call, input: &Input) -> Vec<(String, String)> {
        let inherited = self.config.env_allow.iter().filter_map(|name| {
            // One that is not text cannot be passed on, nor shown in a result.
            std::env::var(name).ok().map(|value| (name.clone(), value))
        });
        let trace = call.trace.as_ref();
        let own = [
            (EXECUTION_ID, Some(call.execution.to_string())),
            ("FLOWGATE_ATTEMPT", Some(call.attempt.to_string())),
            ("TRACEPARENT", trace.map(|trace| trace.traceparent.clone())),
            ("TRACESTATE", trace.and_then(|trace| trace.tracestate.clone())),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        // A later one stands for an earlier of the same name.
        inherited.chain(own).chain(input.env.clone()).collect()
    }
}

#[async_trait]
impl Provider for Process {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        input::check(input)?;
        let name = input.get("module").and_then(Value::as_str);
        match (self.config.modules_dir.as_deref(), name) {
            (Some(modules_dir), Some(name)) => leads_out(modules_dir, name),
            _ => Ok(()),
        }
    }

    fn is_remote(&self) -> bool {
        false
    }

    async fn execute(&self, mut call: Call) -> Result<Success, AttemptFailure> {
        let began = Instant::now();
        let input = Input::read(std::mem::take(&mut call.input)).map_err(invalid)?;
        let [mut stdout, mut stderr] = self.captures();
        let mut used = None;
        let verdict = self.run(&mut call, &input, &mut stdout, &mut stderr, &mut used).await;
        let outline = Outline {
            module_id: input.module_id,
            module: input.module,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            duration: began.elapsed(),
            used,
        };
        outline.conclude(verdict)
    }

    fn gate(&self) -> Option<ResourceGate> {
        self.config.gate
    }

    fn transient_codes(&self) -> &'static [ErrorCode] {
        // Only where the machine is at fault for the moment.
        &[ErrorCode::ModuleStartFailed]
    }

    fn refuse(&self, input: Map<String, Value>, lack: Lack) -> AttemptFailure {
        let input = match Input::read(input) {
            Ok(input) => input,
            Err(violations) => return invalid(violations),
        };
        let [stdout, stderr] = self.captures();
        let outline = Outline {
            module_id: input.module_id,
            module: input.module,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            duration: Duration::ZERO,
            used: None,
        };
        outline.fail(Fault::new(FailureKind::Permanent, ErrorCode::Resource, lack.refusal()))
    }

    fn stop_grace(&self) -> Duration {
        self.config.stop_grace + ANSWER_WAIT + GATHER_WAIT
    }

    fn unavailable(&self) -> Option<String> {
        match self.config.modules_dir.as_deref() {
            None => Some("no modules_dir is configured".to_owned()),
            Some(dir) if !dir.is_dir() => {
                Some(format!("modules_dir {} is not a directory", dir.display()))
            }
            Some(_) => None,
        }
    }
}

impl Process {
    /// Room for what a module prints on either stream.
    fn captures(&self) -> [Capture; 2] {
        let kept = self.config.max_output_bytes;
        [OutputStream::Stdout, OutputStream::Stderr].map(|stream| Capture::new(stream, kept))
    }

    /// Runs the module under a guard, what it prints going to `stdout` and `stderr`, and what it
    /// used, if it ran, to `used`.
    async fn run(
        &self,
        call: &mut Call,
        input: &Input,
        stdout: &mut Capture,
        stderr: &mut Capture,
        used: &mut Option<Used>,
    ) -> Result<(), Fault> {
        let env = self.environment(call, input);
        let Launch { program, file, cwd } = self.launch(&input.module).await?;
        let start = Start {
            program,
            args: file.into_iter().chain(input.args.iter().cloned()).collect(),
            env,
            cwd,
            stdin_bytes: input.stdin.as_ref().map(|stdin| stdin.len() as u64),
            deadline_ms: 0,
        };
        let label = call.execution.to_string();
        let mark = format!("{EXECUTION_ID}={label}");
        let (mut guarded, out, err) =
            Guarded::spawn(&self.config.guard_program, &label).map_err(|error| {
                let message = format!("the module's guard could not be started: {error}");
                Fault::new(FailureKind::Transient, ErrorCode::ModuleStartFailed, message)
            })?;

        let grace = self.config.stop_grace;
        let stdin = input.stdin.as_deref().unwrap_or_default().as_bytes();
        let over = CancellationToken::new();
        let talk = async {
            let (stop, deadline) = (&mut call.stop, &mut call.lease_deadline);
            let ended = guarded.run(start, stdin, &mark, stop, deadline, grace).await;
            guarded.reap().await;
            over.cancel();
            ended
        };
        let ((ending, asked), (), ()) = tokio::join!(
            talk,
            stdout.read(out, &call.output, &over),
            stderr.read(err, &call.output, &over),
        );
        if let Ending::Ended { used: known, .. } = &ending {
            *used = *known;
        }
        result::judge(ending, asked, Bounds { run_timeout: call.run_timeout, stop_grace: grace })
    }
}

/// Refuses a module that exists elsewhere. One that does not exist may appear before it is run.
fn leads_out(modules_dir: &Path, name: &str) -> Result<(), Vec<Violation>> {
    match module::locate(modules_dir, name) {
        Err(error @ LocateError::Outside) => Err(vec![Violation::new("module", error.to_string())]),
        Ok(_) | Err(LocateError::Missing | LocateError::Unreadable(_)) => Ok(()),
    }
}

fn invalid(violations: Vec<Violation>) -> AttemptFailure {
    let wrong = violations.into_iter().map(|v| format!("input.{}: {}", v.field, v.description));
    let message = wrong.collect::<Vec<_>>().join("; ");
    let failure = Failure::new(ErrorCode::Permanent, false, message);
    AttemptFailure::new(FailureKind::Permanent, failure)
}

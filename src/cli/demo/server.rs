//! The server under demonstration: the same binary as a child process, killed if all else fails.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::cli::connect;

const START_DEADLINE: Duration = Duration::from_secs(20);
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// On top of the drain deadline, for a busy machine to end a process.
const EXIT_GRACE: Duration = Duration::from_secs(2);
const LOG_TAIL_LINES: usize = 30;

/// The child process. Dropping it kills it.
pub(super) struct Server {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    pub(super) grpc_url: String,
    pub(super) http_url: String,
}

impl Server {
    /// Starts `flowgate serve` on free ports with its files in `dir`, and waits until it serves.
    /// It logs to `log`, or to this process's stderr.
    pub(super) async fn start(dir: &Path, log: Option<&Path>) -> anyhow::Result<Self> {
        let mut child = command(dir, log)?.spawn().context("cannot start the server")?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let mut server = Self {
            child,
            stdout: BufReader::new(stdout).lines(),
            grpc_url: String::new(),
            http_url: String::new(),
        };
        timeout(START_DEADLINE, server.ready()).await.map_err(|_| {
            let deadline = humantime::format_duration(START_DEADLINE);
            anyhow!("the server was not ready within {deadline}")
        })??;
        Ok(server)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        while self.grpc_url.is_empty() || self.http_url.is_empty() {
            let Some(line) = self.stdout.next_line().await? else {
                bail!("the server ended at its start");
            };
            if let Some(address) = line.strip_prefix("gRPC listening on ") {
                self.grpc_url = format!("http://{}", address.trim());
            } else if let Some(address) = line.strip_prefix("HTTP listening on ") {
                self.http_url = format!("http://{}", address.trim());
            }
        }
        let mut health = connect::Server::new(self.grpc_url.clone()).health().await?;
        let mut states = health.watch(HealthCheckRequest::default()).await?.into_inner();
        while let Some(state) = states.message().await? {
            if state.status() == ServingStatus::Serving {
                return Ok(());
            }
        }
        bail!("the server ended before it was serving")
    }

    /// Returns when the server has ended. Reads what it prints meanwhile, so that a full pipe
    /// does not hold it up.
    pub(super) async fn ended(&mut self) {
        while let Ok(Some(_line)) = self.stdout.next_line().await {}
    }

    /// Asks it to end and says how long that took. Ending late or with an error is one.
    pub(super) async fn stop(mut self) -> anyhow::Result<Duration> {
        let asked = Instant::now();
        let id = self.child.id().context("the server has ended already")?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("cannot signal the server")?;
        let status =
            timeout(DRAIN_DEADLINE + EXIT_GRACE, self.child.wait()).await.map_err(|_| {
                let deadline = humantime::format_duration(DRAIN_DEADLINE);
                anyhow!("still there after its drain deadline of {deadline}")
            })??;
        ensure!(status.success(), "it ended with {status}");
        Ok(asked.elapsed())
    }
}

fn command(dir: &Path, log: Option<&Path>) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    // The demo is the same whatever the caller's own server is told.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOWGATE_") {
            command.env_remove(name);
        }
    }
    command
        .arg("serve")
        .arg("--store")
        .arg(format!("sqlite://{}", dir.join("flowgate.db").display()))
        .args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
        .arg("--config")
        .arg(dir.join("flowgate.toml"))
        .env("FLOWGATE_DRAIN_TIMEOUT", format!("{}s", DRAIN_DEADLINE.as_secs()))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if let Some(log) = log {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stderr(file);
    }
    Ok(command)
}

/// The last lines of a log, or why there are none.
pub(super) fn log_tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) if bytes.is_empty() => "(empty)".to_owned(),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(cannot be read: {error})"),
    }
}

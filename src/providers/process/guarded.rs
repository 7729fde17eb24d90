//! The server's side of a guard: starts it, hands it the module, renews its deadline, passes on
//! that the attempt is to stop, and hears how the module ended.
//!
//! What must stay true: dropping a [`Guarded`] at any point ends the module's tree, since the
//! socket closes with it; and nothing here waits without end for a guard that does not answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::os;
use super::protocol::{Report, Request, Start, Stopped, Used, decode, encode};
use crate::providers::{Stop, StopReason};

/// How long a guard may take beyond the module's grace to report the end of the tree.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// How long a guard may take to read a request, and to end after its last report.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// How often, and how far apart, nothing must be found of a module before it counts as over.
const QUIET_LOOKS: u32 = 3;
const MOST_LOOKS: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How a guarded module ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// It never ran.
    NotStarted {
        /// Why.
        message: String,
        /// Whether the reason may pass.
        transient: bool,
    },
    /// It ran, and nothing is left of its tree.
    Ended {
        /// The exit status, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// What the guard had done to it.
        stopped: Stopped,
        /// What its tree used, where that is known.
        used: Option<Used>,
    },
    /// Its guard is gone or does not answer; what was found of the module was killed.
    Lost,
}

/// A guard and its module. Kills the tree when dropped.
#[derive(Debug)]
pub(super) struct Guarded {
    guard: Child,
    requests: OwnedWriteHalf,
    reports: Lines<BufReader<OwnedReadHalf>>,
    /// The module's process group, as long as it may exist.
    group: Option<u32>,
}

impl Guarded {
    /// Starts a guard, `label` showing in process lists. The pipes are those the module will
    /// write to.
    pub(super) fn spawn(
        program: &Path,
        label: &str,
    ) -> io::Result<(Self, Option<ChildStdout>, Option<ChildStderr>)> {
        let (ours, theirs) = os::Socket::pair()?;
        ours.set_nonblocking(true)?;
        let (reports, requests) = UnixStream::from_std(ours)?.into_split();
        // The command holds the guard's end, and must be gone for us to see the guard go.
        let mut guard = {
            let mut command = Command::from(os::guard_command(program, theirs, label));
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn()?
        };
        let (stdout, stderr) = (guard.stdout.take(), guard.stderr.take());
        let reports = BufReader::new(reports).lines();
        Ok((Self { guard, requests, reports, group: None }, stdout, stderr))
    }

    /// Has the guard run a module to its end, and tells for what reason it was stopped, if it was.
    /// `mark` is a `NAME=value` that nothing but the module has in its environment.
    pub(super) async fn run(
        &mut self,
        mut start: Start,
        stdin: &[u8],
        mark: &str,
        stop: &mut Stop,
        lease_deadline: &mut watch::Receiver<Instant>,
        grace: Duration,
    ) -> (Ending, Option<StopReason>) {
        start.deadline_ms = on_shared_clock(*lease_deadline.borrow_and_update());
        tokio::select! {
            biased;
            reason = stop.requested() => {
                let message = "the attempt was stopped before the module started".to_owned();
                return (Ending::NotStarted { message, transient: true }, Some(reason));
            }
            // A guard that is gone shows in its reports.
            _ = self.begin(start, stdin) => {}
        }

        let mut asked = None;
        let mut answer_due = None;
        let ending = loop {
            tokio::select! {
                biased;
                line = self.reports.next_line() => {
                    let report = line.ok().flatten().and_then(|line| decode(&line).ok());
                    if let Some(ending) = self.hear(report) {
                        break ending;
                    }
                }
                reason = next_reason(stop, asked) => {
                    asked = Some(reason);
                    let (request, grace) = match reason {
                        StopReason::LeaseLost => (Request::Kill, Duration::ZERO),
                        StopReason::Cancelled
                        | StopReason::TimedOut
                        | StopReason::ShuttingDown => {
                            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                            (Request::Stop { grace_ms }, grace)
                        }
                    };
                    answer_due = Some(Instant::now() + grace + ANSWER_WAIT);
                    self.ask(&request).await;
                }
                Ok(()) = lease_deadline.changed() => {
                    let deadline_ms = on_shared_clock(*lease_deadline.borrow_and_update());
                    self.ask(&Request::Extend { deadline_ms }).await;
                }
                () = until(answer_due) => break Ending::Lost,
            }
        };
        if matches!(ending, Ending::Lost) {
            self.kill_what_is_left(mark).await;
        }
        (ending, asked)
    }

    /// Waits for the guard itself to end. One that takes too long is reaped by the runtime.
    pub(super) async fn reap(&mut self) {
        // How it ended says nothing that its reports did not.
        let _ = timeout(SHORT_WAIT, self.guard.wait()).await;
    }

    async fn begin(&mut self, start: Start, stdin: &[u8]) -> io::Result<()> {
        let line = encode(&Request::Start(start))?;
        self.requests.write_all(&line).await?;
        self.requests.write_all(stdin).await
    }

    async fn ask(&mut self, request: &Request) {
        if let Ok(line) = encode(request) {
            // A guard that is gone shows in its reports, one that is stuck in its not answering.
            let _ = timeout(SHORT_WAIT, self.requests.write_all(&line)).await;
        }
    }

    /// The ending that a report is, if it is one.
    fn hear(&mut self, report: Option<Report>) -> Option<Ending> {
        match report {
            Some(Report::Started { pid }) => {
                self.group = Some(pid);
                None
            }
            Some(Report::StartFailed { message, transient }) => {
                Some(Ending::NotStarted { message, transient })
            }
            Some(Report::Exited { code, signal, stopped, used }) => {
                self.group = None;
                Some(Ending::Ended { code, signal, stopped, used })
            }
            None => Some(Ending::Lost),
        }
    }

    /// Does for a lost guard what it would have done. The module may be known by its mark only: it
    /// may have been starting, or have left the group.
    async fn kill_what_is_left(&mut self, mark: &str) {
        self.kill_group();
        let mut quiet = 0;
        for _ in 0..MOST_LOOKS {
            let mark = mark.to_owned();
            let found = tokio::task::spawn_blocking(move || os::kill_marked(&mark)).await;
            quiet = if matches!(found, Ok(true)) { 0 } else { quiet + 1 };
            if quiet == QUIET_LOOKS {
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            os::kill_group(group);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The guard does this and more when the socket closes, unless it is stopped itself.
        self.kill_group();
        if let Some(guard) = self.guard.id() {
            os::resume(guard);
        }
    }
}

/// The next reason to stop that `seen` does not tell already.
async fn next_reason(stop: &mut Stop, seen: Option<StopReason>) -> StopReason {
    match seen {
        None => stop.requested().await,
        Some(reason) => stop.changed_from(reason).await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// `deadline` on the clock shared with the guard. Read in this order, so that a pause in between
/// makes it earlier rather than later.
fn on_shared_clock(deadline: Instant) -> u64 {
    let now_ms = os::now_ms();
    let left = deadline.saturating_duration_since(Instant::now());
    now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

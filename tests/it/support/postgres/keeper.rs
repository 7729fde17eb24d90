//! The process that makes, starts and stops a PostgreSQL cluster, and removes it when the test
//! process ends, be it by `kill -9`: then the system closes the pipe that it reads.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::super::tools;

const SCRIPT: &str = include_str!("keeper.sh");

/// A keeper and what it keeps. Dropping it removes the cluster.
pub(super) struct Keeper {
    process: Child,
    /// The only end of the pipe that is written to: it is closed on `exec`, so no other process
    /// that a test starts has it too.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Keeper {
    /// Starts a keeper of the folder `dir`, which belongs to it from here on; nothing is made yet.
    pub(super) fn start(dir: &Path) -> Result<Self, String> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "keeper"]).arg(tools::postgres_bin()?).arg(dir);
        // What is set for other clusters is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if rustix::process::geteuid().is_root() {
            // As root it refuses to run.
            let (uid, gid) = unprivileged()?;
            std::os::unix::fs::chown(dir, Some(uid), Some(gid))
                .map_err(|error| format!("cannot give {} away: {error}", dir.display()))?;
            command.uid(uid).gid(gid);
        }
        command.current_dir(dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(|error| format!("cannot run sh: {error}"))?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        Ok(Self { process, orders, answers, log: dir.join("log") })
    }

    /// Gives an order and waits until it is carried out.
    pub(super) fn order(&mut self, order: &str) -> Result<(), String> {
        let orders = self.orders.as_mut().expect("it is taken when the keeper is dropped");
        let mut answer = String::new();
        let answered =
            writeln!(orders, "{order}").and_then(|()| self.answers.read_line(&mut answer));
        if answered.is_ok() && answer.trim() == "0" {
            return Ok(());
        }
        let log = std::fs::read(&self.log).unwrap_or_default();
        Err(format!("PostgreSQL: {order} failed:\n{}", String::from_utf8_lossy(&log)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It fails only if it was waited for.
        let _ = self.process.wait();
    }
}

/// The user that PostgreSQL runs as where the tests run as root, and its group.
pub(crate) fn unprivileged() -> Result<(u32, u32), String> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.ok_or_else(|| "PostgreSQL does not run as root, and there is no user nobody".to_owned())
}

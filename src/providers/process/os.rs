//! Everything about processes that differs between systems, so that another one takes this file
//! only. Linux keeps the whole promise; on macOS a process that leaves the module's process group
//! escapes.
//!
//! What must stay true: a process id is signalled only while it cannot have been given to another
//! process. The module's main process is therefore reaped in [`Module::end_tree`] alone, after the
//! last signal to its group.

use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process, kill_process_group,
    wait, waitid,
};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::protocol::Used;

/// What server and guard talk over.
pub(super) type Socket = UnixStream;

/// What a guard is called in process lists. Not by the server's name, so that ending the server by
/// name leaves its guards to end the modules.
const GUARD_NAME: &str = "module-guard";
/// The longest pause between two looks at a tree that is slow to die.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Milliseconds on a clock that all processes of the machine share, and that on Linux and macOS
/// goes on while the machine is suspended: a lease does too.
pub(super) fn now_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// This very program: on Linux also after its file was replaced by another version, whose guard
/// might speak another protocol.
pub(super) fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_default()
}

/// The command that starts a guard, `control` being its end of the socket. It has a process group
/// of its own, so that Ctrl-C at a terminal reaches the server only, and an empty environment, in
/// which a module finds no keys.
pub(super) fn guard_command(program: &Path, control: Socket, label: &str) -> Command {
    let mut command = Command::new(program);
    command.arg0(GUARD_NAME).args(["__guard", label]).env_clear().process_group(0);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(control)));
    command
}

/// Kills a process group that the caller knows to exist still.
pub(super) fn kill_group(leader: u32) {
    if let Some(leader) = pid(leader) {
        // It may have ended by itself.
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

/// Kills every process that was started with `NAME=value` in its environment, and tells whether
/// there was one. For when a guard is lost, and with it the knowledge of what it guarded.
pub(super) fn kill_marked(variable: &str) -> bool {
    let mut found = false;
    for process in processes() {
        let environ = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes()) {
            found |= kill_process(process, Signal::KILL).is_ok();
        }
    }
    found
}

/// Lets a stopped process go on.
pub(super) fn resume(process: u32) {
    if let Some(process) = pid(process) {
        // It may have ended by itself.
        let _ = kill_process(process, Signal::CONT);
    }
}

fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}

/// Whether the file may be run directly.
pub(super) fn is_executable(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o111 != 0
}

/// The guard's end of the socket. The copy is closed when the module starts, and its standard
/// input takes the place of the original, so that the module gets neither.
pub(super) fn control_socket() -> io::Result<Socket> {
    Ok(Socket::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Makes this process a guard: deaf to requests to end, and parent of all that a module leaves.
pub(super) fn become_guard() -> io::Result<()> {
    // Handlers rather than "ignore", which the module would inherit.
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // A name is nice to have.
        let _ = std::fs::write("/proc/self/comm", GUARD_NAME);
    }
    Ok(())
}

/// The command that starts a module.
pub(super) fn module_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    command
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The exit status, if it exited.
    pub(super) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(super) signal: Option<i32>,
}

impl From<WaitStatus> for End {
    fn from(status: WaitStatus) -> Self {
        Self { code: status.exit_status(), signal: status.terminating_signal() }
    }
}

/// A started module as its guard sees it: leader of a process group, not reaped yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module(Pid);

impl Module {
    /// The one just started as `child`.
    pub(super) fn of(child: &Child) -> Self {
        Self(Pid::from_child(child))
    }

    /// Its process id.
    pub(super) fn id(self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether its main process has ended.
    pub(super) fn has_ended(self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(retry_on_intr(|| waitid(WaitId::Pid(self.0), options)), Ok(None))
    }

    /// Waits until its main process has ended.
    pub(super) fn wait(self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Fails only if it was reaped meanwhile: it has ended then.
        let _ = retry_on_intr(|| waitid(WaitId::Pid(self.0), options));
    }

    /// Asks its process group to end.
    pub(super) fn terminate(self) {
        // The group may be gone. A stopped process takes the request once it goes on.
        let _ = kill_process_group(self.0, Signal::TERM);
        let _ = kill_process_group(self.0, Signal::CONT);
    }

    /// Reaps the orphans that came to the guard and have ended, lest they pile up under a module
    /// that leaves many.
    pub(super) fn reap_orphans(self) {
        for child in children() {
            if child != self.0 {
                let _ = rustix::process::waitpid(Some(child), WaitOptions::NOHANG);
            }
        }
    }

    /// Kills whatever is left of its tree and returns when nothing is, with how the main process
    /// ended. To be called once.
    pub(super) fn end_tree(self) -> Option<End> {
        let _ = kill_process_group(self.0, Signal::KILL);
        // It may have moved to another group.
        let _ = kill_process(self.0, Signal::KILL);
        let mut end = None;
        let mut pause = Duration::from_millis(1);
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((child, status))) if child == self.0 => end = Some(End::from(status)),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => {
                    kill_rest(self.0);
                    thread::park_timeout(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                // No child is left, and every process of the tree is a child or has one above it.
                Err(_) => return end,
            }
        }
    }
}

/// What all children that this process has waited for used, and theirs.
pub(super) fn used_by_children() -> Option<Used> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    // Kilobytes, but for macOS.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1_024 };
    let cpu_micros = micros(usage.user_time()).saturating_add(micros(usage.system_time()));
    Some(Used {
        cpu_seconds: Duration::from_micros(cpu_micros).as_secs_f64(),
        peak_memory_bytes: u64::try_from(usage.max_rss()).ok()?.saturating_mul(unit),
    })
}

fn micros(time: TimeVal) -> u64 {
    u64::try_from(time.num_microseconds()).unwrap_or(0)
}

/// Kills every descendant of this process. One that starts others while this looks is found, or
/// they are, the next time.
#[cfg(target_os = "linux")]
fn kill_rest(_module: Pid) {
    let parents: Vec<_> =
        processes().into_iter().filter_map(|process| Some((process, parent(process)?))).collect();
    let mut known = vec![rustix::process::getpid()];
    let mut next = 0;
    while let Some(&above) = known.get(next) {
        known.extend(parents.iter().filter(|(_, of)| *of == above).map(|(process, _)| *process));
        next += 1;
    }
    for descendant in known.into_iter().skip(1) {
        let _ = kill_process(descendant, Signal::KILL);
    }
}

#[cfg(not(target_os = "linux"))]
fn kill_rest(module: Pid) {
    let _ = kill_process_group(module, Signal::KILL);
}

/// Every process of the machine, as far as this system lists them.
fn processes() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let number = |name: std::ffi::OsString| Pid::from_raw(name.to_str()?.parse().ok()?);
    entries.flatten().filter_map(|entry| number(entry.file_name())).collect()
}

#[cfg(target_os = "linux")]
fn parent(process: Pid) -> Option<Pid> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may hold anything; the state and the parent follow it.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}

/// The children of this process, as far as the kernel lists them cheaply.
#[cfg(target_os = "linux")]
fn children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|child| child.parse().ok().and_then(Pid::from_raw))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn children() -> Vec<Pid> {
    Vec::new()
}

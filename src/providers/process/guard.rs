//! The guard: a small process between the server and one module, so that the module ends with its
//! lease even when the server is killed or frozen.
//!
//! What must stay true: the tree is killed as soon as the socket closes or the deadline passes, by
//! nobody's leave; the guard never ends before the tree; it touches none of the module's output,
//! and no request waits behind the module's input.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::os::{self, Module, Socket};
use super::protocol::{Report, Request, Start, Stopped, decode, encode};

/// The longest the guard goes without looking at the clock, which a suspended machine moves on
/// without waking it.
const TICK: Duration = Duration::from_secs(1);

/// What the guard acts upon.
enum Event {
    /// The server asked for something.
    Request(Request),
    /// The server is gone, or no longer makes sense.
    ServerGone,
    /// The module's main process has ended.
    Ended,
}

/// Runs this process as the guard of one module, the server being at the other end of its standard
/// input. To be called before anything else, a runtime above all, has started in this process.
pub fn guard_main() -> ExitCode {
    match os::control_socket().and_then(guard) {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the server sees the socket close.
        Err(_) => ExitCode::FAILURE,
    }
}

fn guard(control: Socket) -> io::Result<()> {
    let mut reports = control.try_clone()?;
    let mut requests = BufReader::new(control);
    let (events, inbox) = mpsc::channel();
    let started = os::become_guard().and_then(|()| {
        let (start, stdin) = read_start(&mut requests)?;
        // Before the module, so that it cannot come to run without anybody listening.
        let heard = events.clone();
        thread::Builder::new().spawn(move || listen(requests, &heard))?;
        Ok((launch(&start)?, stdin, start.deadline_ms))
    });
    let (child, stdin, deadline_ms) = match started {
        Ok(started) => started,
        Err(error) => {
            let transient = may_pass(&error);
            return tell(&mut reports, &Report::StartFailed { message: reason(&error), transient });
        }
    };

    let module = Module::of(&child);
    // What fails from here on must not keep the guard from ending the tree.
    let told = tell(&mut reports, &Report::Started { pid: module.id() });
    let asked = told
        .and_then(|()| attend(child, module, stdin, events))
        .map_or(Stopped::No, |()| supervise(module, &inbox, deadline_ms));
    let stopped = if module.has_ended() { asked } else { Stopped::Killed };
    let end = module.end_tree();
    let (code, signal) = end.map_or((None, None), |end| (end.code, end.signal));
    // Nothing of the tree is left, so that it counts all of it.
    let used = os::used_by_children();
    tell(&mut reports, &Report::Exited { code, signal, stopped, used })
}

/// The first request, with the bytes that follow it.
fn read_start(requests: &mut BufReader<Socket>) -> io::Result<(Start, Vec<u8>)> {
    let mut line = String::new();
    requests.read_line(&mut line)?;
    let Request::Start(start) = decode(&line)? else {
        return Err(io::Error::other("the first request must be to start"));
    };
    let mut stdin = Vec::new();
    let expected = start.stdin_bytes.unwrap_or(0);
    let read = requests.take(expected).read_to_end(&mut stdin)?;
    if read as u64 != expected {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((start, stdin))
}

/// Passes requests on until the server is gone.
fn listen(requests: BufReader<Socket>, events: &Sender<Event>) {
    for line in requests.lines() {
        let Ok(request) = line.and_then(|line| decode(&line)) else { break };
        if events.send(Event::Request(request)).is_err() {
            return;
        }
    }
    // Nobody hears it only when the guard is about to end anyway.
    let _ = events.send(Event::ServerGone);
}

fn launch(start: &Start) -> io::Result<Child> {
    if os::now_ms() >= start.deadline_ms {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the lease had ended"));
    }
    os::module_command(&start.program)
        .args(&start.args)
        .env_clear()
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&start.cwd)
        .stdin(if start.stdin_bytes.is_some() { Stdio::piped() } else { Stdio::null() })
        .spawn()
}

/// Feeds the module and waits for its end, on threads of their own.
fn attend(
    mut child: Child,
    module: Module,
    stdin: Vec<u8>,
    events: Sender<Event>,
) -> io::Result<()> {
    if let Some(mut pipe) = child.stdin.take() {
        // A module need not read what it is given, nor all of it.
        thread::Builder::new().spawn(move || pipe.write_all(&stdin))?;
    }
    thread::Builder::new().spawn(move || {
        module.wait();
        events.send(Event::Ended)
    })?;
    Ok(())
}

/// Returns when the tree is to be killed, with what was done to the module until then.
fn supervise(module: Module, inbox: &Receiver<Event>, mut deadline_ms: u64) -> Stopped {
    let mut stopped = Stopped::No;
    let mut kill_at_ms = u64::MAX;
    loop {
        let left_ms = deadline_ms.min(kill_at_ms).saturating_sub(os::now_ms());
        if left_ms == 0 {
            return stopped;
        }
        match inbox.recv_timeout(Duration::from_millis(left_ms).min(TICK)) {
            Ok(Event::Request(Request::Extend { deadline_ms: later })) => {
                deadline_ms = deadline_ms.max(later);
            }
            Ok(Event::Request(Request::Stop { grace_ms })) => {
                if !module.has_ended() {
                    module.terminate();
                    stopped = Stopped::Asked;
                    kill_at_ms = kill_at_ms.min(os::now_ms().saturating_add(grace_ms));
                }
            }
            Ok(Event::Request(Request::Start(_) | Request::Kill) | Event::ServerGone) => {
                return stopped;
            }
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return stopped,
            Err(RecvTimeoutError::Timeout) => module.reap_orphans(),
        }
    }
}

fn tell(reports: &mut Socket, report: &Report) -> io::Result<()> {
    reports.write_all(&encode(report)?)
}

/// Whether what kept a module from starting may be gone the next time.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, OutOfMemory, TimedOut, WouldBlock};
    matches!(error.kind(), ExecutableFileBusy | OutOfMemory | TimedOut | WouldBlock)
}

/// The system's words without the number of the error.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

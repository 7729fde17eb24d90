//! The `process` provider through its public door, with the real program as the guard. It knows
//! nothing of stores; `modules` has it in a server on every database.

mod guard;
mod inputs;
mod runs;
#[cfg(target_os = "linux")]
mod stand_in;
mod stops;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowgate::providers::{AttemptFailure, Process, ProcessConfig, Provider, Success};
use flowgate::tasks::Tasks;
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{Reins, call};

type Outcome = Result<Success, AttemptFailure>;

/// A directory of modules.
struct Modules(TempDir);

impl Modules {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(name: &str, text: &str) -> Self {
        let modules = Self::new();
        modules.add(name, text);
        modules
    }

    fn dir(&self) -> PathBuf {
        fs::canonicalize(self.0.path()).unwrap()
    }

    fn add(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn provider(&self) -> Process {
        self.provider_with(|_| {})
    }

    fn provider_with(&self, change: impl FnOnce(&mut ProcessConfig)) -> Process {
        provider_of(self.dir(), change)
    }

    /// Runs `input` to its end.
    async fn run(&self, input: Value) -> Outcome {
        Attempt::start(self.provider(), input).end().await
    }
}

fn provider_of(dir: PathBuf, change: impl FnOnce(&mut ProcessConfig)) -> Process {
    let mut config = ProcessConfig {
        modules_dir: Some(dir),
        guard_program: env!("CARGO_BIN_EXE_flowgate").into(),
        ..ProcessConfig::default()
    };
    change(&mut config);
    Process::new(config)
}

/// An attempt under way.
struct Attempt {
    outcome: JoinHandle<Outcome>,
    reins: Reins,
    seen: String,
}

impl Attempt {
    fn start(provider: Process, input: Value) -> Self {
        let (call, reins) = call(input);
        let outcome = Tasks::default().spawn(async move { provider.execute(call).await });
        Self { outcome, reins, seen: String::new() }
    }

    /// Waits until the module has printed `count` numbers, and returns them.
    async fn numbers(&mut self, count: usize) -> Vec<i32> {
        while self.seen.lines().count() < count || !self.seen.ends_with('\n') {
            let chunk = self.reins.said.recv().await.expect("the module goes on printing");
            match chunk.content {
                flowgate::domain::ChunkContent::Text(text) => self.seen.push_str(&text),
                flowgate::domain::ChunkContent::Data(_) => panic!("a module prints text"),
            }
        }
        self.seen.lines().map(|line| line.trim().parse().unwrap()).collect()
    }

    /// Waits for the end; nobody reads what is printed from here on.
    async fn end(self) -> Outcome {
        drop(self.reins.said);
        self.outcome.await.unwrap()
    }

    async fn failure(self) -> AttemptFailure {
        self.end().await.expect_err("the attempt fails")
    }
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).unwrap()
}

/// Whether a process exists, if only to be reaped.
fn exists(process: i32) -> bool {
    test_kill_process(pid(process)).is_ok()
}

/// Whether a process runs. Where nothing reaps orphans, a dead one is still listed.
fn runs(process: i32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    let state = stat.ok().and_then(|stat| stat.rsplit(')').next()?.trim().chars().next());
    exists(process) && !matches!(state, Some('Z' | 'X'))
}

/// Waits until `holds`, for at most half a minute.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < give_up, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn all_end(processes: &[i32]) {
    eventually("every process has ended", || !processes.iter().copied().any(runs)).await;
}

fn text<'a>(output: &'a Value, field: &str) -> &'a str {
    output[field].as_str().unwrap()
}

/// A module that prints its own number, that of a child in its group and that of a grandchild in
/// a session of its own, none of which heeds SIGTERM.
#[cfg(target_os = "linux")]
const STUBBORN_TREE: &str = r#"
trap '' TERM
echo $$
sh -c 'echo $$; while :; do sleep 1; done' &
setsid sh -c 'echo $$; while :; do sleep 1; done' &
while :; do sleep 1; done
"#;

fn module(name: &str) -> Value {
    json!({ "module": name })
}

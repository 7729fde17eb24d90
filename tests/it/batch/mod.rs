//! `flowgate batch` as a user runs it: every line has its result once, whatever fails, dies or is
//! restarted on the way, and nothing is executed twice.

mod inputs;
mod interrupted;
mod outcomes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use flowgate::pb::{Execution, ListExecutionsRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::TestServer;

/// A batch takes seconds; a loaded machine gets more.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with a file of lines, and room for results.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn with(lines: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(dir.path().join("lines.jsonl"), lines).unwrap();
        Self { dir }
    }

    fn lines(&self) -> PathBuf {
        self.dir.path().join("lines.jsonl")
    }

    fn results(&self) -> PathBuf {
        self.dir.path().join("results.jsonl")
    }

    /// The command that submits the file's lines and writes their results beside it.
    fn batch(&self, server: &TestServer, options: &[&str]) -> Command {
        let mut command = batch(server.grpc_addr(), &self.lines(), options);
        command.arg("--output-file").arg(self.results());
        command
    }

    /// Every result in the file, by line. Panics if a line has two.
    fn by_line(&self) -> BTreeMap<u64, Value> {
        by_line(&std::fs::read_to_string(self.results()).unwrap())
    }
}

/// `flowgate batch`, as nothing in the environment says otherwise.
fn batch(server: &str, file: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOWGATE_") {
            command.env_remove(name);
        }
    }
    command.args(["batch", "--server", server]).args(options).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Output {
    ended(command.spawn().expect("cargo built the binary")).await
}

async fn ended(child: Child) -> Output {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    output.expect("the batch ends in time").unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

fn by_line(text: &str) -> BTreeMap<u64, Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last result is whole");
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let result: Value = serde_json::from_str(line).expect("a result is a JSON object");
        let number = result["line"].as_u64().expect("a result has its line's number");
        let other = found.insert(number, result);
        assert!(other.is_none(), "two results of line {number}");
    }
    found
}

/// Lines for the simulated provider `sim`.
fn simulated(inputs: impl IntoIterator<Item = Value>) -> String {
    let line = |input| json!({ "provider": "sim", "input": input }).to_string() + "\n";
    inputs.into_iter().map(line).collect()
}

/// Every execution there is.
async fn all(server: &TestServer) -> Vec<Execution> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListExecutionsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = server.execution().list_executions(request).await.unwrap().into_inner();
        found.extend(page.executions);
        if page.next_page_token.is_empty() {
            return found;
        }
        page_token = page.next_page_token;
    }
}

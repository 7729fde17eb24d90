//! Batches that are killed, interrupted, or lose their server on the way.

use std::path::Path;

use flowgate::pb::{CancelExecutionRequest, ExecutionState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Child;

use super::{Folder, all, assert_code, batch, ended, run, simulated, stderr};
use crate::support::{Config, Db, TestServer, eventually, is_terminal, on_both};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    five_thousand_lines_killed_half_way_and_run_again_have_one_result_each;
    #[tokio::test(flavor = "multi_thread")]
    a_batch_survives_the_restart_of_its_server;
}

const LINES: usize = 5_000;

async fn five_thousand_lines_killed_half_way_and_run_again_have_one_result_each(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 200)).await;
    let folder = Folder::with(&simulated((0..LINES).map(|n| json!({ "output": n }))));
    // Held back so that lines of every sort are left: ended, under way, not submitted.
    let mut first = folder.batch(&server, &["--chunk", "50", "--delay", "10ms"]).spawn().unwrap();
    written(&folder.results(), LINES / 3).await;
    first.start_kill().unwrap();
    ended(first).await;
    // As a kill in the middle of a write leaves it.
    let before = std::fs::read(folder.results()).unwrap();
    let torn = [before.as_slice(), b"{\"line\": 49"].concat();
    std::fs::write(folder.results(), torn).unwrap();
    let count = before.iter().filter(|byte| **byte == b'\n').count();
    assert!(count < LINES, "it was not killed half-way");

    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 0);
    let results = folder.by_line();
    assert_eq!(results.len(), LINES);
    for (line, result) in &results {
        assert_eq!(result["output"], json!(line - 1), "line {line}");
    }
    let text = std::fs::read(folder.results()).unwrap();
    assert!(text.starts_with(&before), "what was there is not written again");
    let said = stderr(&output);
    assert!(said.contains(&format!("{count} had their result before")), "{said}");

    let executions = all(&server).await;
    assert_eq!(executions.len(), LINES, "one execution for each line");
    for execution in &executions {
        assert_eq!(execution.state(), ExecutionState::Succeeded);
        assert_eq!(execution.attempts.len(), 1, "{} was executed again", execution.id);
    }
    crate::support::audit_is_clean(&server.store_url());
}

async fn a_batch_survives_the_restart_of_its_server(db: Db) {
    // A port of its own, so that the server comes back where it was.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = TestServer::start(Config::on(db).simulated("sim", 50)).await;
    let front = Front::listen(port, server.grpc_addr()).await;
    let folder =
        Folder::with(&simulated((0..600).map(|n| json!({ "output": n, "duration_ms": 5 }))));
    let address = format!("127.0.0.1:{port}");
    let mut command = batch(&address, &folder.lines(), &["--chunk", "20", "--delay", "20ms"]);
    command.arg("--output-file").arg(folder.results());
    let child = command.spawn().unwrap();
    for part in [100, 300] {
        written(&folder.results(), part).await;
        server.restart().await;
        front.lead_to(server.grpc_addr());
    }
    let output = ended(child).await;
    assert_code(&output, 0);
    let results = folder.by_line();
    assert_eq!(results.len(), 600);
    assert!(results.iter().all(|(line, result)| result["output"] == json!(line - 1)));
    assert_eq!(all(&server).await.len(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_how_to_go_on_and_leaves_the_executions_running() {
    let server = TestServer::start(Config::new().simulated("sim", 2)).await;
    let folder = Folder::with(&half_of_them_long());
    let child = folder.batch(&server, &[]).spawn().unwrap();
    written(&folder.results(), 2).await;
    interrupt(&child);
    let output = ended(child).await;
    assert_code(&output, 130);
    let said = stderr(&output);
    assert!(said.contains("interrupted; 2 executions go on"), "{said}");
    assert!(said.contains("To resume, run the same command again"), "{said}");
    let going_on: Vec<_> =
        all(&server).await.into_iter().filter(|execution| !is_terminal(execution)).collect();
    assert_eq!(going_on.len(), 2);

    for execution in going_on {
        let request = CancelExecutionRequest { id: execution.id, ..Default::default() };
        server.execution().cancel_execution(request).await.unwrap();
    }
    let output = run(folder.batch(&server, &["--min-success", "50%"])).await;
    assert_code(&output, 0);
    let states = states(&folder);
    assert_eq!(states, ["SUCCEEDED", "SUCCEEDED", "CANCELLED", "CANCELLED"]);
    assert_eq!(all(&server).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_what_was_submitted_if_asked_to() {
    let server = TestServer::start(Config::new().simulated("sim", 2)).await;
    let folder = Folder::with(&half_of_them_long());
    let child = folder.batch(&server, &["--cancel-on-interrupt"]).spawn().unwrap();
    written(&folder.results(), 2).await;
    interrupt(&child);
    let output = ended(child).await;
    assert_code(&output, 130);
    assert_eq!(states(&folder), ["SUCCEEDED", "SUCCEEDED", "CANCELLED", "CANCELLED"]);
    assert!(all(&server).await.iter().all(is_terminal));
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up_and_what_was_collected_stays() {
    let mut server = TestServer::start(Config::new().simulated("sim", 1)).await;
    let folder = Folder::with(&simulated((0..4).map(|n| json!({ "output": n }))));
    let options = ["--chunk", "2", "--delay", "3s", "--retry-for", "500ms"];
    let child = folder.batch(&server, &options).spawn().unwrap();
    written(&folder.results(), 2).await;
    server.kill9();
    let output = ended(child).await;
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("error: gave up after 500ms: "), "{said}");
    assert!(said.contains("2 succeeded, 0 failed, 0 cancelled, 2 without a result"), "{said}");
    assert!(said.contains("To resume, run the same command again"), "{said}");
    assert_eq!(folder.by_line().len(), 2);
}

#[tokio::test]
async fn a_file_of_results_takes_one_run_at_a_time() {
    let server = TestServer::start(Config::new().simulated("sim", 2)).await;
    let folder = Folder::with(&half_of_them_long());
    let mut first = folder.batch(&server, &[]).spawn().unwrap();
    written(&folder.results(), 2).await;
    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 1);
    assert!(stderr(&output).contains("another run is writing to it"), "{}", stderr(&output));
    first.start_kill().unwrap();
    ended(first).await;
}

fn half_of_them_long() -> String {
    simulated([0, 0, 600_000, 600_000].map(|ms| json!({ "duration_ms": ms })))
}

/// States of lines, without their prefix.
fn states(folder: &Folder) -> Vec<String> {
    let state =
        |result: Value| result["state"].as_str().unwrap()["EXECUTION_STATE_".len()..].to_owned();
    folder.by_line().into_values().map(state).collect()
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
}

/// Waits until a file holds so many lines.
async fn written(file: &Path, lines: usize) {
    eventually("results are written", async || {
        let text = std::fs::read(file).unwrap_or_default();
        (text.iter().filter(|byte| **byte == b'\n').count() >= lines).then_some(())
    })
    .await;
}

/// An address that stays, whatever port the server behind it takes.
struct Front {
    server: std::sync::Arc<std::sync::Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Front {
    async fn listen(port: u16, server: &str) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let server = std::sync::Arc::new(std::sync::Mutex::new(server.to_owned()));
        let leads_to = std::sync::Arc::clone(&server);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let address = leads_to.lock().unwrap().clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = tokio::net::TcpStream::connect(address).await {
                        // Ends with either side: that is what a broken connection is.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { server, task }
    }

    fn lead_to(&self, address: &str) {
        address.clone_into(&mut self.server.lock().unwrap());
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! What a batch takes as its lines, and what it refuses.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{Folder, all, assert_code, batch, by_line, run, simulated, stderr, stdout};
use crate::support::{Config, TestServer};

async fn server() -> TestServer {
    TestServer::start(Config::new().simulated("sim", 20)).await
}

#[tokio::test]
async fn a_malformed_line_is_named_and_nothing_is_submitted() {
    let server = server().await;
    let folder =
        Folder::with("{\"provider\": \"sim\"}\n\n{\"provider\": \"sim\", \"imput\": {}}\n[1]\n");
    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("lines.jsonl line 3: unknown field `imput`"), "{said}");
    assert!(said.contains("lines.jsonl line 4: is not a JSON object"), "{said}");
    assert!(said.contains("error: 2 lines of "), "{said}");
    assert_eq!(all(&server).await, []);
    assert!(!folder.results().exists(), "nothing was begun");
}

#[tokio::test]
async fn an_empty_file_is_a_batch_of_nothing() {
    let server = server().await;
    for lines in ["", "\n \n"] {
        let folder = Folder::with(lines);
        let output = run(folder.batch(&server, &[])).await;
        assert_code(&output, 0);
        assert!(stderr(&output).contains("0 lines in "), "{}", stderr(&output));
        assert!(folder.by_line().is_empty());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_said() {
    let server = server().await;
    let folder = Folder::with("");
    let missing = folder.dir.path().join("missing.jsonl");
    let output = run(batch(server.grpc_addr(), &missing, &[])).await;
    assert_code(&output, 1);
    assert!(stderr(&output).contains("missing.jsonl: No such file"), "{}", stderr(&output));

    let output = run(batch(server.grpc_addr(), folder.dir.path(), &[])).await;
    assert_code(&output, 1);
    assert!(stderr(&output).contains("it is a directory"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_line_that_no_message_could_hold_is_named() {
    let server = server().await;
    let huge = json!({ "provider": "sim", "input": { "output": "x".repeat(18 * 1024 * 1024) } });
    let folder = Folder::with(&format!("{{\"provider\": \"sim\"}}\n{huge}\n"));
    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("line 2: is longer than 17825792 bytes"), "{said}");
    assert_eq!(all(&server).await, []);
}

/// Between what a line may hold and what the server takes as an input: refused by the server.
#[tokio::test]
async fn an_input_above_16_mib_fails_and_the_other_lines_succeed() {
    let server = server().await;
    let large = |mib: usize| json!({ "output": "x".repeat(mib * 1024 * 1024 - 100) });
    let too_large = json!({ "output": "x".repeat(16 * 1024 * 1024 + 1) });
    let folder = Folder::with(&simulated([large(15), too_large, large(1), json!({})]));
    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 1);
    let results = folder.by_line();
    assert_eq!(results.len(), 4);
    for line in [1, 3, 4] {
        assert_eq!(results[&line]["state"], "EXECUTION_STATE_SUCCEEDED", "line {line}");
    }
    assert_eq!(results[&1]["output"].as_str().unwrap().len(), 15 * 1024 * 1024 - 100);
    assert_eq!(results[&2]["error"]["code"], "INVALID_ARGUMENT");
    assert!(results[&2]["error"]["message"].as_str().unwrap().contains("16 MiB"));
}

#[tokio::test]
async fn lines_come_from_stdin_and_results_go_to_stdout() {
    let server = server().await;
    let lines = simulated((0..3).map(|n| json!({ "output": n })));
    let mut names = Vec::new();
    for options in [vec![], vec!["--name", "mine"], vec!["--name", "mine"]] {
        let mut command = batch(server.grpc_addr(), "-".as_ref(), &options);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines.as_bytes()).await.unwrap();
        drop(stdin);
        let output = super::ended(child).await;
        assert_code(&output, 0);
        let results = by_line(&stdout(&output));
        assert_eq!(results.len(), 3);
        assert_eq!(results[&2]["output"], 1);
        names.push(results[&1]["batch"].as_str().unwrap().to_owned());
    }
    assert!(names[0].starts_with("stdin-"), "{names:?}");
    assert_eq!(names[1..], ["mine", "mine"]);
    assert_eq!(all(&server).await.len(), 6, "the same name again executes nothing again");
}

#[tokio::test]
async fn numbers_beyond_a_double_arrive_exactly() {
    let server = server().await;
    let line = "{\"provider\": \"sim\", \"input\": {\"output\": 9007199254740993}}\n";
    let folder = Folder::with(line);
    assert_code(&run(folder.batch(&server, &[])).await, 0);
    let id = folder.by_line()[&1]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&id).await.input_json, "{\"output\": 9007199254740993}");
}

#[tokio::test]
async fn one_request_id_on_two_lines_is_one_execution_if_they_ask_for_the_same() {
    let server = server().await;
    let line = |output: u64| {
        json!({ "provider": "sim", "input": { "output": output }, "request_id": "twice" })
            .to_string()
            + "\n"
    };
    let folder = Folder::with(&(line(1) + &line(1) + &line(2)));
    let output = run(folder.batch(&server, &["--chunk", "2"])).await;
    assert_code(&output, 1);
    let results = folder.by_line();
    assert_eq!(results[&1]["id"], results[&2]["id"]);
    assert_eq!(results[&1]["requestId"], "twice");
    assert_eq!(results[&3]["error"]["reason"], "REQUEST_ID_CONFLICT");
    assert_eq!(all(&server).await.len(), 1);
}

#[tokio::test]
async fn the_file_of_lines_is_not_the_file_of_results() {
    let server = server().await;
    let lines = simulated([json!({})]);
    let folder = Folder::with(&lines);
    let mut command = batch(server.grpc_addr(), &folder.lines(), &[]);
    command.arg("--output-file").arg(folder.lines());
    let output = run(command).await;
    assert_code(&output, 1);
    assert!(stderr(&output).contains("the lines come from there"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(folder.lines()).unwrap(), lines);
}

#[tokio::test]
async fn a_file_that_is_no_file_of_results_is_left_as_it_is() {
    let server = server().await;
    let folder = Folder::with("{\"provider\": \"sim\"}\n");
    for precious in ["{\"a\":1}", "x", "{\"lines\":"] {
        std::fs::write(folder.results(), precious).unwrap();
        let output = run(folder.batch(&server, &[])).await;
        assert_code(&output, 1);
        assert_eq!(std::fs::read_to_string(folder.results()).unwrap(), precious);
    }
    // A result that a run was stopped in is taken away, and made again.
    std::fs::write(folder.results(), "{\"line\":1,\"ba").unwrap();
    assert_code(&run(folder.batch(&server, &[])).await, 0);
    assert_eq!(folder.by_line().len(), 1);
}

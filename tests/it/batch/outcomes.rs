//! How a batch ends when lines fail, and what it says.

use serde_json::{Value, json};

use super::{Folder, all, assert_code, run, simulated, stderr, stdout};
use crate::support::{Config, TestServer};

/// Seven that succeed, two that fail, and one of an unknown provider.
fn mixed() -> String {
    let good = (0..7).map(|n| json!({ "output": n, "chunks": 1 }));
    let bad = (0..2).map(|_| json!({ "fail": "permanent" }));
    simulated(good.chain(bad)) + "{\"provider\": \"nobody\"}\n"
}

async fn server() -> TestServer {
    TestServer::start(Config::new().simulated("sim", 20)).await
}

#[tokio::test]
async fn every_line_has_its_result_whatever_fails() {
    let server = server().await;
    let folder = Folder::with(&mixed());
    let output = run(folder.batch(&server, &[])).await;
    assert_code(&output, 1);
    let results = folder.by_line();
    assert_eq!(results.keys().copied().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let good = &results[&3];
    assert_eq!(good["state"], "EXECUTION_STATE_SUCCEEDED");
    assert_eq!((&good["output"], &good["error"]), (&json!(2), &Value::Null));
    assert_eq!((&good["attempts"], &good["replayed"]), (&json!(1), &json!(false)));
    assert_eq!(good["usage"], json!({ "inputTokens": 0, "outputTokens": 1 }));
    let failed = &results[&8];
    assert_eq!(failed["state"], "EXECUTION_STATE_FAILED");
    assert_eq!(failed["error"]["code"], "ERROR_CODE_PERMANENT");
    assert!(failed["id"].is_string());
    let refused = &results[&10];
    assert_eq!((&refused["id"], &refused["state"]), (&Value::Null, &failed["state"]));
    assert_eq!(refused["error"]["reason"], "PROVIDER_NOT_FOUND");
    assert_eq!(all(&server).await.len(), 9);
}

#[tokio::test]
async fn it_says_when_it_begins_what_fails_and_how_it_ends_and_shows_no_bar_to_a_file() {
    let server = server().await;
    let folder = Folder::with(&mixed());
    let said = stderr(&run(folder.batch(&server, &["--name", "night"])).await);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("batch night: 10 lines from "), "{said}");
    assert!(said.contains("\nline 8: FAILED after 1 attempt: "), "{said}");
    assert!(said.contains("\nline 10: refused: PROVIDER_NOT_FOUND (NOT_FOUND): "), "{said}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("batch night: 10 lines in "), "{said}");
    assert!(last.contains(": 7 succeeded, 3 failed, 0 cancelled; 0 replayed, 0 had"), "{said}");
    assert_eq!(lines.len(), 5, "a start, three failures and a summary: {said}");
    assert!(!said.contains(['\u{1b}', '\r']), "{said:?}");
}

#[tokio::test]
async fn the_share_that_succeeds_decides_the_exit_code() {
    let server = server().await;
    let folder = Folder::with(&mixed());
    for (share, code) in [("70%", 0), ("70.01%", 1), ("100%", 1), ("0%", 0)] {
        let output = run(folder.batch(&server, &["--min-success", share])).await;
        assert_code(&output, code);
    }
    assert_eq!(all(&server).await.len(), 9);
}

#[tokio::test]
async fn the_summary_goes_to_stdout_in_the_format_asked_for() {
    let server = server().await;
    let folder = Folder::with(&mixed());
    let table = stdout(&run(folder.batch(&server, &["--name", "n"])).await);
    assert!(table.contains("succeeded  7\n"), "{table}");
    let json = stdout(&run(folder.batch(&server, &["--name", "n", "--output", "json"])).await);
    let mut summary: Value = serde_json::from_str(&json).unwrap();
    assert!(summary["seconds"].take().is_number(), "{json}");
    let expected = json!({
        "batch": "n", "total": 10, "succeeded": 7, "failed": 3, "cancelled": 0, "replayed": 0,
        "earlier": 9, "seconds": null,
    });
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn a_refused_line_is_tried_again_by_the_next_run() {
    let server = server().await;
    let folder = Folder::with(&mixed());
    run(folder.batch(&server, &[])).await;
    let first = folder.by_line();
    let said = stderr(&run(folder.batch(&server, &[])).await);
    assert!(said.contains("line 10: refused"), "{said}");
    assert!(!said.contains("line 8: "), "{said}");
    assert_eq!(folder.by_line(), first, "the others stay as they are");
}

#[tokio::test]
async fn an_edited_line_is_executed_anew_and_no_other() {
    let server = server().await;
    let folder = Folder::with(&simulated((0..5).map(|n| json!({ "output": n }))));
    assert_code(&run(folder.batch(&server, &[])).await, 0);
    let first = folder.by_line();
    let edited = std::fs::read_to_string(folder.lines()).unwrap();
    let edited = edited.replace("\"output\":3", "\"output\":33") + &simulated([json!({})]);
    std::fs::write(folder.lines(), edited).unwrap();
    assert_code(&run(folder.batch(&server, &[])).await, 0);
    let second = folder.by_line();
    assert_eq!(second.len(), 6);
    assert_eq!(second[&4]["output"], 33);
    for line in [1, 2, 3, 5] {
        assert_eq!(second[&line], first[&line]);
    }
    assert_eq!(all(&server).await.len(), 7);
}

#[tokio::test]
async fn results_of_another_batch_are_left_alone() {
    let server = server().await;
    let folder = Folder::with(&simulated([json!({})]));
    assert_code(&run(folder.batch(&server, &["--name", "one"])).await, 0);
    let before = std::fs::read(folder.results()).unwrap();
    let output = run(folder.batch(&server, &["--name", "two"])).await;
    assert_code(&output, 1);
    assert!(stderr(&output).contains("holds results of the batch one"), "{}", stderr(&output));
    assert_eq!(std::fs::read(folder.results()).unwrap(), before);
    std::fs::write(folder.results(), "my diary\n").unwrap();
    let output = run(folder.batch(&server, &["--name", "two"])).await;
    assert_code(&output, 1);
    assert_eq!(std::fs::read(folder.results()).unwrap(), b"my diary\n");
    assert_eq!(all(&server).await.len(), 1);
}

#[tokio::test]
async fn the_batch_reply_tells_what_was_replayed() {
    let server = server().await;
    let request = |id: &str| flowgate::pb::SubmitExecutionRequest {
        request_id: id.to_owned(),
        ..crate::support::submit("sim", json!({}))
    };
    for (ids, expected) in [(["a", "b"], [false, false]), (["c", "a"], [false, true])] {
        let requests = ids.map(request).to_vec();
        let request = flowgate::pb::BatchSubmitExecutionsRequest { requests };
        let reply = server.execution().batch_submit_executions(request).await.unwrap();
        assert_eq!(reply.into_inner().replayed, expected);
    }
}

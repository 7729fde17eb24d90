//! The log: every line says whose it is, none says what is nobody's business, and how much there is of it can be
//! changed while the server runs.
//!
//! The store has no part in this, so it is SQLite throughout.

use std::process::{Command, Output};
use std::time::Duration;

use flowgate::pb::{
    ExecutionState, SetLogLevelRequest, SetLogLevelResponse, SubmitExecutionRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::support::providers::{Replay, Reply};
use crate::support::{Config, TestServer, eventually, submit};

/// Where the client's own span is.
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// What no line of a log may hold.
const MARK: &str = "canary-5d1e77";

#[tokio::test]
async fn a_line_says_whose_it_is_also_where_nothing_is_traced() {
    let server = TestServer::start(config().env("FLOWGATE_LOG_LEVEL", "debug")).await;
    let id = traced(&server).await;
    let line = line_of(&server, &id, "attempt ended").await;
    assert_eq!((&line["provider"], &line["attempt"]), (&json!("sim"), &json!(1)), "{line}");
    assert_eq!((&line["trace_id"], line.get("span_id")), (&json!(TRACE_ID), None), "{line}");
    let worker = server.status().await.worker_id;
    for line in lines(&server) {
        assert_eq!(line["worker.id"], worker.as_str(), "{line}");
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name}: {line}");
        }
        let flat = line.as_object().expect("every line is an object");
        assert!(flat.values().all(|value| !value.is_object() && !value.is_array()), "{line}");
    }
}

#[tokio::test]
async fn a_line_says_where_in_its_trace_it_is() {
    // That nobody is there to take them makes no difference.
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let config = config().env(collector.0, collector.1);
    let server = TestServer::start(config.env("FLOWGATE_LOG_LEVEL", "debug")).await;
    let id = traced(&server).await;
    let line = line_of(&server, &id, "attempt ended").await;
    assert_eq!(line["trace_id"], TRACE_ID, "{line}");
    assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
}

#[tokio::test]
async fn a_line_says_whose_it_is_also_where_little_is_logged() {
    let config = config().env("FLOWGATE_LOG_LEVEL", "warn,flowgate::engine::attempt=debug");
    let server = TestServer::start(config).await;
    let id = traced(&server).await;
    let line = line_of(&server, &id, "attempt ended").await;
    assert_eq!(line["execution.id"], id.as_str());
    assert!(lines(&server).iter().all(|line| line["level"] != "INFO"));
}

#[tokio::test]
async fn people_read_the_same_in_text() {
    let config = config().env("FLOWGATE_LOG_FORMAT", "text").env("FLOWGATE_LOG_LEVEL", "debug");
    let server = TestServer::start(config).await;
    let id = traced(&server).await;
    let line = eventually("the end is logged", async || {
        let log = server.stderr_log();
        log.lines().find(|it| it.contains("attempt ended") && it.contains(&id)).map(str::to_owned)
    })
    .await;
    let worker = server.status().await.worker_id;
    assert!(line.contains(" DEBUG flowgate::engine::attempt: attempt ended "), "{line}");
    assert!(line.contains(&format!(" execution.id={id} provider=sim attempt=1 ")), "{line}");
    assert!(line.ends_with(&format!(" trace_id={TRACE_ID} worker.id={worker}")), "{line}");
    assert!(!line.contains('\u{1b}'), "a file is not painted: {line}");
}

#[tokio::test]
async fn neither_payloads_nor_keys_are_logged_however_talkative_the_log_is() {
    let replay = Replay::start().await;
    let echo = json!({ "answer": format!("{MARK}-http-output") });
    replay.always("POST /work", Reply::json(200, &echo));
    replay.always("POST /fails", Reply::json(400, &echo));
    let http = format!(
        "[providers.web]\nkind = 'http'\nbase_url = {:?}\napi_key_env = 'THE_KEY'\n\
         headers = {{ x-other = {{ env = 'THE_OTHER' }} }}",
        replay.url()
    );
    let config = config()
        .toml(&http)
        .module("echo", "#!/bin/sh\ncat\necho \"$1 $SECRET\"\necho \"$1\" >&2\nexit \"$2\"\n")
        .env("THE_KEY", &format!("{MARK}-key"))
        .env("THE_OTHER", &format!("{MARK}-header"))
        .env("FLOWGATE_LOG_LEVEL", "debug,flowgate=trace");
    let server = TestServer::start(config).await;
    let module = |code: &str| {
        let (args, stdin) = (json!([format!("{MARK}-argument"), code]), format!("{MARK}-stdin"));
        json!({ "module": "echo", "args": args, "stdin": stdin, "env": { "SECRET": MARK } })
    };
    let body = json!({ "question": format!("{MARK}-input") });
    let requests = [
        ("sim", json!({ "output": format!("{MARK}-output"), "chunks": 3 })),
        ("sim", json!({ "output": MARK, "fail": "permanent" })),
        ("process", module("0")),
        ("process", module("1")),
        ("web", json!({ "path": "/work", "method": "POST", "body": body })),
        ("web", json!({ "path": "/fails", "method": "POST", "body": body })),
    ];
    let mut states = Vec::new();
    for (provider, input) in requests {
        let labels = [("label".to_owned(), format!("{MARK}-label"))].into();
        let request = SubmitExecutionRequest { labels, ..submit(provider, input) };
        let id = server.submit(request).await.id;
        states.push(server.ended(&id).await.state());
        line_of(&server, &id, "attempt ended").await;
    }
    let (good, bad) = (ExecutionState::Succeeded, ExecutionState::Failed);
    assert_eq!(states, [good, bad, good, bad, good, bad]);
    // Neither is a request that is refused.
    let refused = submit("nobody", json!({ "input": MARK }));
    assert!(server.execution().submit_execution(refused).await.is_err());
    let log = server.stderr_log();
    let seen: Vec<_> = log.lines().filter(|line| line.contains(MARK)).collect();
    assert!(seen.is_empty(), "{}", seen.join("\n"));
    assert!(log.contains("\"DEBUG\""), "it was talkative: {log}");
}

#[tokio::test]
async fn the_level_is_changed_for_a_time_and_is_then_what_it_was() {
    let server = TestServer::start(config()).await;
    let quiet = traced(&server).await;
    let set = set(&server, "debug", Some(1_500)).await;
    assert_eq!((&*set.filter, &*set.previous_filter), ("debug", "info"));
    assert_eq!(set.worker_id, server.status().await.worker_id);
    assert!(set.expire_time.is_some());
    let loud = traced(&server).await;
    line_of(&server, &loud, "attempt ended").await;
    let over = "The log level changes from debug to info";
    eventually("it is over", async || server.stderr_log().contains(over).then_some(())).await;
    let quiet_again = traced(&server).await;
    for id in [quiet, quiet_again] {
        server.ended(&id).await;
        let said = lines(&server).into_iter().find(|line| line["execution.id"] == id.as_str());
        assert_eq!(said, None);
    }
}

#[tokio::test]
async fn a_level_that_was_changed_again_is_not_ended_by_the_change_before() {
    let server = TestServer::start(config()).await;
    set(&server, "trace", Some(200)).await;
    let second = set(&server, "off", None).await;
    assert_eq!((&*second.previous_filter, second.expire_time), ("trace", None));
    let third = set(&server, "debug", Some(300)).await;
    assert_eq!(third.previous_filter, "off");
    // Of the three, the last ends; that it does says that the time of the first is over, too.
    let over = "The log level changes from debug to info";
    eventually("it is over", async || server.stderr_log().contains(over).then_some(())).await;
    let log = server.stderr_log();
    assert_eq!(log.matches("The log level changes").count(), 4, "{log}");
    assert_eq!(set(&server, "", None).await.filter, "info");
}

#[tokio::test]
async fn levels_set_for_long_one_after_the_other_leave_nothing_behind() {
    let server = TestServer::start(config()).await;
    set(&server, "debug", Some(3_600_000)).await;
    let before = alive_tasks(&server).await;
    for _ in 0..100 {
        set(&server, "debug", Some(3_600_000)).await;
    }
    let after = alive_tasks(&server).await;
    assert!(after < before + 50, "{before} tasks before, {after} after");
}

#[tokio::test]
async fn a_level_that_is_none_and_another_replica_are_refused() {
    let server = TestServer::start(config()).await;
    let request = SetLogLevelRequest { filter: "loud".to_owned(), ..Default::default() };
    let refused = server.system().set_log_level(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = refused.get_details_bad_request().expect("it names the field").field_violations;
    assert_eq!(fields[0].field, "filter");

    let other = "5b0e7b9e-1f5d-4b8e-9a61-2a2b6a3c1d10".to_owned();
    let this = server.status().await.worker_id;
    let meant = SetLogLevelRequest { worker_id: other.clone(), ..Default::default() };
    let refused = server.system().set_log_level(meant).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let info = refused.get_details_error_info().expect("every error has one");
    assert_eq!((&*info.reason, &info.metadata["worker_id"]), ("OTHER_WORKER", &this));
    assert!(refused.message().contains(&other) && refused.message().contains(&this));
}

#[tokio::test]
async fn the_level_is_changed_on_the_command_line() {
    let server = TestServer::start(config()).await;
    let this = server.status().await.worker_id;
    let said = flowgate(&server, &["log-level", "debug", "--for", "10m"]).await;
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}");
    assert!(text.starts_with(&format!("worker {this} logs debug until ")), "{text}");
    let said =
        flowgate(&server, &["log-level", "--reset", "--worker", &this, "--output", "json"]).await;
    let said: Value = serde_json::from_slice(&said.stdout).expect("it is JSON");
    assert_eq!((&said["filter"], &said["previousFilter"]), (&json!("info"), &json!("debug")));
    assert!(!flowgate(&server, &["log-level", "loud"]).await.status.success());
}

#[tokio::test]
async fn a_hangup_is_survived_and_told_how_it_is_done() {
    let server = TestServer::start(config()).await;
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("it is told", async || {
        server.stderr_log().contains("SIGHUP is ignored").then_some(())
    })
    .await;
    let id = traced(&server).await;
    assert_eq!(server.ended(&id).await.state(), ExecutionState::Succeeded);
}

fn config() -> Config {
    Config::new().simulated("sim", 1)
}

/// An execution that has ended, of a client that traces.
async fn traced(server: &TestServer) -> String {
    let mut request = Request::new(submit("sim", json!({})));
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    let reply = server.execution().submit_execution(request).await.expect("submitted");
    let id = reply.into_inner().execution.expect("a reply holds an execution").id;
    server.ended(&id).await;
    id
}

async fn set(server: &TestServer, filter: &str, millis: Option<u64>) -> SetLogLevelResponse {
    let duration = millis.map(Duration::from_millis).map(|duration| duration.try_into().unwrap());
    let request = SetLogLevelRequest { filter: filter.to_owned(), duration, ..Default::default() };
    server.system().set_log_level(request).await.expect("set").into_inner()
}

/// Every complete line of the log; each must be JSON.
fn lines(server: &TestServer) -> Vec<Value> {
    let log = server.stderr_log();
    let complete = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    complete.map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The line that says this of an execution.
async fn line_of(server: &TestServer, id: &str, message: &str) -> Value {
    eventually(message, async || {
        let of = |line: &Value| line["execution.id"] == id && line["message"] == message;
        lines(server).into_iter().find(of)
    })
    .await
}

/// The tasks of the server, of all its runtimes.
async fn alive_tasks(server: &TestServer) -> usize {
    let (status, page) = server.http_get("/metrics").await;
    assert_eq!(status, 200);
    let alive = page.lines().filter(|line| line.starts_with("flowgate_runtime_alive_tasks{"));
    let counts = alive.map(|line| line.rsplit(' ').next().and_then(|count| count.parse().ok()));
    let counts: Option<Vec<usize>> = counts.collect();
    let counts = counts.filter(|counts| !counts.is_empty());
    counts.expect("every runtime tells how many it has").iter().sum()
}

async fn flowgate(server: &TestServer, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    command.args(args).args(["--server", server.grpc_addr()]);
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    ended.expect("it does not panic").expect("cargo built the binary")
}

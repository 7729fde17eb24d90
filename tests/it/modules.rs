//! Modules through the whole service (promises P4, P6, P10): many at once, of every sort, and
//! nothing of them left behind.
//!
//! `FLOWGATE_TEST_MODULE_BYTES` sets how much the loud ones print: 32 MiB unless set, but for the first
//! of them, which prints 1 GiB.

use std::collections::BTreeMap;

use flowgate::pb::{CancelExecutionRequest, ErrorCode, Execution, ExecutionState};
use prost_types::value::Kind;
use serde_json::json;

use crate::support::{Config, Db, TestServer, eventually, from_env, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    fifty_modules_at_once_all_come_back_and_leave_nothing;
    #[tokio::test(flavor = "multi_thread")]
    cancelling_a_running_module_ends_its_whole_tree_before_its_slot_is_free;
}

const LOUD: &str = "#!/bin/sh\nhead -c $1 /dev/zero | tr '\\0' x\n";
const HANGS: &str = "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\nsleep 1000\n";

async fn fifty_modules_at_once_all_come_back_and_leave_nothing(db: Db) {
    let bytes: u64 = from_env("FLOWGATE_TEST_MODULE_BYTES", 32 * 1024 * 1024);
    let config = Config::on(db)
        .module("works", "#!/bin/sh\ncat\n")
        .module("fails", "#!/bin/sh\necho no >&2\nexit 3\n")
        .module("hangs", HANGS)
        .module("loud", LOUD)
        .env("FLOWGATE_PROVIDERS__PROCESS__MAX_CONCURRENT", "50")
        .env("FLOWGATE_PROVIDERS__PROCESS__STOP_GRACE", "500ms");
    let server = TestServer::start(config).await;
    let mut sorts = BTreeMap::new();
    for n in 0..50 {
        let (sort, input) = match n % 5 {
            0 => ("works", json!({ "module": "works", "stdin": "hello" })),
            1 => ("fails", json!({ "module": "fails" })),
            2 => ("hangs", json!({ "module": "hangs" })),
            3 => {
                let bytes = if n == 3 { 1024 * 1024 * 1024 } else { bytes };
                ("loud", json!({ "module": "loud", "args": [bytes.to_string()] }))
            }
            _ => ("missing", json!({ "module": "missing" })),
        };
        let mut request = submit("process", input);
        if sort == "hangs" {
            request.run_timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
        }
        sorts.insert(server.submit(request).await.id, sort);
    }
    for (id, sort) in &sorts {
        let ended = server.ended(id).await;
        check(sort, &ended);
    }
    let peak = server.peak_bytes();
    println!("peak memory of the server: {} MiB", peak / 1024 / 1024);
    assert!(peak < 200 * 1024 * 1024, "the server held {peak} bytes");
    nothing_is_left(&server).await;
}

fn check(sort: &str, ended: &Execution) {
    let code = ended.error.as_ref().map(flowgate::pb::Error::code);
    let output = output(ended);
    match sort {
        "works" => {
            assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
            assert_eq!((&output["stdout"], &output["exit_code"]), (&json!("hello"), &json!(0)));
        }
        "fails" => {
            assert_eq!(code, Some(ErrorCode::ModuleFailed), "{ended:?}");
            assert_eq!((&output["stderr"], &output["exit_code"]), (&json!("no\n"), &json!(3)));
        }
        "hangs" => {
            assert_eq!(code, Some(ErrorCode::Timeout), "{ended:?}");
            let message = &ended.error.as_ref().unwrap().message;
            assert_eq!(message, "Module execution timed out after 2s");
        }
        "loud" => {
            assert_eq!(ended.state(), ExecutionState::Succeeded, "{:?}", ended.error);
            let asked = field(ended.input.as_ref().unwrap(), "args");
            assert_eq!(json!([output["stdout_bytes"].to_string()]), asked);
            assert_eq!(output["stdout_truncated"], json!(true));
            assert_eq!(output["stdout"].as_str().unwrap().len(), 1024 * 1024);
        }
        _ => {
            assert_eq!(code, Some(ErrorCode::ModuleNotFound), "{ended:?}");
            assert_eq!(ended.attempts.len(), 1, "a missing module is not tried again");
        }
    }
}

/// The result of a module.
fn output(execution: &Execution) -> serde_json::Value {
    execution.output.as_ref().map_or(serde_json::Value::Null, to_json)
}

fn field(object: &prost_types::Struct, name: &str) -> serde_json::Value {
    object.fields.get(name).map_or(serde_json::Value::Null, to_json)
}

/// Whole numbers come back as they went.
#[allow(clippy::cast_possible_truncation, reason = "a module's result holds whole numbers only")]
fn to_json(value: &prost_types::Value) -> serde_json::Value {
    match value.kind.as_ref() {
        Some(Kind::StructValue(object)) => {
            object.fields.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
        }
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(bool)) => json!(bool),
        Some(Kind::NumberValue(number)) => json!(*number as i64),
        Some(Kind::NullValue(_)) | None => serde_json::Value::Null,
    }
}

async fn cancelling_a_running_module_ends_its_whole_tree_before_its_slot_is_free(db: Db) {
    let config = Config::on(db)
        .module("hangs", HANGS)
        .module("works", "#!/bin/sh\ncat\n")
        .env("FLOWGATE_PROVIDERS__PROCESS__MAX_CONCURRENT", "1")
        .env("FLOWGATE_PROVIDERS__PROCESS__STOP_GRACE", "300ms");
    let server = TestServer::start(config).await;
    let id = server.submit(submit("process", json!({ "module": "hangs" }))).await.id;
    let next = server.submit(submit("process", json!({ "module": "works" }))).await.id;
    eventually("the module runs", async || (!processes(&server).is_empty()).then_some(())).await;
    let request = CancelExecutionRequest { id: id.clone(), reason: "enough".to_owned() };
    let reply = server.execution().cancel_execution(request).await.unwrap().into_inner();
    let asked = reply.execution.unwrap();
    assert!(asked.cancel_requested_time.is_some(), "{asked:?}");
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled, "{ended:?}");
    assert_eq!(ended.cancel_reason, "enough");
    assert_eq!(server.ended(&next).await.state(), ExecutionState::Succeeded);
    nothing_is_left(&server).await;
}

async fn nothing_is_left(server: &TestServer) {
    eventually("no module is alive", async || processes(server).is_empty().then_some(())).await;
}

/// Processes that were started for an execution of this server: their folder tells.
fn processes(server: &TestServer) -> Vec<u32> {
    let folder = server.dir().join("modules");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .collect()
}

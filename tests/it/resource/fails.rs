//! `when_short = "fail"`: work fails at once, and says why. The store has no part in it.

use flowgate::domain::{ResourceGate, WhenShort};
use flowgate::pb::{ErrorCode, Execution, ExecutionState, RetryPolicy};
use prost_types::value::Kind;

use super::{GATE, GIB, Served, Told, hello};
use crate::support::{Db, StoreHome};

const FAIL: ResourceGate = ResourceGate { when_short: WhenShort::Fail, ..GATE };

async fn failed_on(machine: std::sync::Arc<Told>, retry: Option<RetryPolicy>) -> Execution {
    let home = StoreHome::new(Db::Sqlite).await;
    let server = Served::start(&home, machine, FAIL, 10).await;
    let request = flowgate::pb::SubmitExecutionRequest { retry_policy: retry, ..hello("gated") };
    let id = server.submit(request).await;
    let ended = server.watch(&id).await.until_end().await.pop().unwrap();
    assert_eq!(ended.state(), ExecutionState::Failed, "{ended:?}");
    server.stop().await;
    ended
}

#[tokio::test]
async fn a_busy_machine_fails_the_work_with_a_result_of_its_kind() {
    let ended = failed_on(Told::busy(95.0, 16 * GIB), None).await;
    let error = ended.error.as_ref().unwrap();
    assert_eq!((error.code(), error.retryable), (ErrorCode::Resource, false));
    assert_eq!(error.message, "Insufficient system resources: CPU usage too high: 95%");
    assert_eq!(ended.attempt_count, 1, "it is not tried again");
    let Some(Kind::StructValue(output)) = ended.output.unwrap().kind else { panic!("an object") };
    let field = |name: &str| output.fields[name].kind.clone().unwrap();
    assert_eq!(field("exit_code"), Kind::NumberValue(-1.0));
    assert_eq!(field("success"), Kind::BoolValue(false));
    assert_eq!(field("error"), Kind::StringValue(error_text()));
    assert_eq!(field("stdout"), Kind::StringValue(String::new()));
    assert!(!output.fields.contains_key("cpu_seconds"), "nothing ran");
}

fn error_text() -> String {
    "Insufficient system resources: CPU usage too high: 95%".to_owned()
}

#[tokio::test]
async fn a_machine_short_of_memory_fails_the_work() {
    let ended = failed_on(Told::busy(5.0, GIB + GIB / 4), None).await;
    let message = &ended.error.as_ref().unwrap().message;
    assert_eq!(message, "Insufficient system resources: available memory too low: 1.2 GiB");
}

#[tokio::test]
async fn it_is_tried_again_if_the_policy_names_it() {
    let retry = RetryPolicy {
        max_attempts: Some(2),
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        retry_on: vec![ErrorCode::Resource.into()],
        ..Default::default()
    };
    let ended = failed_on(Told::busy(95.0, 16 * GIB), Some(retry)).await;
    assert_eq!(ended.attempt_count, 2);
}

#[tokio::test]
async fn a_machine_with_room_runs_the_work() {
    let home = StoreHome::new(Db::Sqlite).await;
    let server = Served::start(&home, Told::busy(80.0, 4 * GIB), FAIL, 10).await;
    let id = server.submit(hello("gated")).await;
    let ended = server.watch(&id).await.until_end().await.pop().unwrap();
    assert_eq!(ended.state(), ExecutionState::Succeeded, "{ended:?}");
    server.stop().await;
}

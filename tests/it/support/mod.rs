//! What the end-to-end tests share: a real server to test, and short ways to say what to submit
//! and what to wait for.
//!
//! ```ignore
//! let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
//! let execution = server.submit(submit("sim", json!({ "duration_ms": 20 }))).await;
//! assert_eq!(server.ended(&execution.id).await.state(), ExecutionState::Succeeded);
//! ```

mod call;
pub(crate) mod collector;
mod config;
mod db;
pub(crate) mod postgres;
mod process;
pub(crate) mod providers;
pub(crate) mod rotel;
mod server;
pub(crate) mod tools;

use std::time::{Duration, Instant};

use flowgate::pb::{Execution, ExecutionState, SubmitExecutionRequest};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

pub(crate) use call::{Reins, call};
pub(crate) use config::Config;
pub(crate) use db::{Db, StoreHome, on_both, on_postgres};
pub(crate) use server::TestServer;

/// How long [`eventually`] waits.
const EVENTUALLY_DEADLINE: Duration = Duration::from_secs(15);

/// A submission with nothing but a provider and an input.
pub(crate) fn submit(provider: &str, input: serde_json::Value) -> SubmitExecutionRequest {
    SubmitExecutionRequest {
        provider: provider.to_owned(),
        input: Some(struct_of(input)),
        ..Default::default()
    }
}

/// A JSON object as a protobuf struct.
pub(crate) fn struct_of(object: serde_json::Value) -> Struct {
    match value_of(object).kind {
        Some(Kind::StructValue(fields)) => fields,
        other => panic!("an object was expected, not {other:?}"),
    }
}

/// JSON as a protobuf value.
pub(crate) fn value_of(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(bool) => Kind::BoolValue(bool),
        Json::Number(number) => {
            Kind::NumberValue(number.as_f64().expect("a JSON number is finite"))
        }
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(value_of).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(key, value)| (key, value_of(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// Whether an execution has ended for good.
pub(crate) fn is_terminal(execution: &Execution) -> bool {
    matches!(
        execution.state(),
        ExecutionState::Succeeded | ExecutionState::Failed | ExecutionState::Cancelled
    )
}

/// Asks again until there is an answer, and returns it. For what no watch tells; panics with
/// `what` if nothing comes.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + EVENTUALLY_DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "not within {EVENTUALLY_DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs `flowgate audit` on a store, which must find nothing.
pub(crate) fn audit_is_clean(store_url: &str) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flowgate"))
        .args(["audit", "--store", store_url])
        .output()
        .expect("cargo built the binary");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the audit found a violation:\n{said}{complaint}");
}

/// A number from the environment, for the long form of a test; `otherwise` if it is not set.
pub(crate) fn from_env<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => otherwise,
    }
}

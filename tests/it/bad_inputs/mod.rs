//! What a client can get wrong, as a table: every row has its documented code, reason and field,
//! and none of them leaves a trace in the store.

mod batches;
mod executions;
mod inputs;
mod providers;
mod submissions;
mod wire;

use flowgate::pb::{
    BatchSubmitExecutionsRequest, Execution, ListExecutionsRequest, ListProvidersRequest, Provider,
    ProviderLimits, SetLimitsRequest, SubmitExecutionRequest,
};
use prost::bytes::Bytes;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{Config, Db, TestServer, audit_is_clean, on_both, submit, value_of};

on_both! {
    #[tokio::test]
    bad_inputs_get_their_documented_error_and_leave_the_store_untouched;
    #[tokio::test]
    what_lies_just_within_the_bounds_is_taken;
}

/// One bad request.
struct Row {
    rpc: &'static str,
    what: String,
    request: Bytes,
    expected: Expected,
}

/// How a bad request is answered.
#[derive(Debug, Clone)]
struct Expected {
    code: Code,
    reason: &'static str,
    /// The one field that `BadRequest` names; where it ends with `*`, how its path begins.
    field: Option<String>,
    /// What the message or a description says.
    mentions: String,
}

impl Expected {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, field: None, mentions: String::new() }
    }

    fn mentions(mut self, text: impl Into<String>) -> Self {
        self.mentions = text.into();
        self
    }
}

/// A field that is missing, malformed or out of range.
fn invalid(field: impl Into<String>) -> Expected {
    let expected = Expected::new(Code::InvalidArgument, "INVALID_FIELD");
    Expected { field: Some(field.into()), ..expected }
}

fn no_provider() -> Expected {
    Expected::new(Code::NotFound, "PROVIDER_NOT_FOUND")
}

fn no_execution() -> Expected {
    Expected::new(Code::NotFound, "EXECUTION_NOT_FOUND")
}

#[expect(clippy::needless_pass_by_value, reason = "rows read better without a `&`")]
fn row(
    rpc: &'static str,
    what: impl Into<String>,
    request: impl prost::Message,
    expected: Expected,
) -> Row {
    Row { rpc, what: what.into(), request: request.encode_to_vec().into(), expected }
}

/// What the rows refer to: all of it is there before the first of them.
struct Known {
    succeeded: Execution,
    /// Pending, for the next hundred years.
    scheduled: Execution,
    epoch: String,
    revision: i64,
    /// A page token for the list of all executions.
    page_token: String,
}

const REQUEST_ID: &str = "given before";
/// An id that nothing has.
const UNKNOWN_ID: &str = "0199c2f4-7c1e-7d3a-9b1f-2f6a8c5d4e3b";
/// The year 2099.
const FAR_AWAY: prost_types::Timestamp =
    prost_types::Timestamp { seconds: 4_070_908_800, nanos: 0 };

impl Known {
    async fn prepare(server: &TestServer) -> Self {
        let first = submit("sim", json!({ "output": "done" }));
        let first = SubmitExecutionRequest { request_id: REQUEST_ID.to_owned(), ..first };
        let succeeded = server.submit(first).await;
        let succeeded = server.ended(&succeeded.id).await;
        let scheduled = submit("sim", json!({}));
        let scheduled = SubmitExecutionRequest { schedule_time: Some(FAR_AWAY), ..scheduled };
        let scheduled = server.submit(scheduled).await;

        let max_concurrent = Some(4);
        let limit =
            ProviderLimits { provider: "sim".to_owned(), max_concurrent, ..Default::default() };
        let limits = SetLimitsRequest { limits: vec![limit], ..Default::default() };
        server.provider().set_limits(limits).await.expect("set");

        let page = ListExecutionsRequest { page_size: 1, ..Default::default() };
        let page = server.execution().list_executions(page).await.expect("listed").into_inner();
        let store = server.status().await.store.expect("a status tells of the store");
        let (epoch, revision) = (store.epoch, store.revision);
        Self { succeeded, scheduled, epoch, revision, page_token: page.next_page_token }
    }
}

async fn bad_inputs_get_their_documented_error_and_leave_the_store_untouched(db: Db) {
    let config = Config::on(db)
        .simulated("sim", 2)
        .module("hello", "#!/bin/sh\necho hello\n")
        .toml("[providers.bare]\nkind = \"process\"\n");
    let server = TestServer::start(config).await;
    std::os::unix::fs::symlink("/bin/sh", server.dir().join("modules/escape")).unwrap();
    let known = Known::prepare(&server).await;
    let before = Picture::take(&server).await;

    let rows: Vec<Row> = [
        submissions::rows(&known),
        inputs::rows(),
        batches::rows(&known),
        executions::rows(&known),
        providers::rows(),
        wire::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut mismatches = Vec::new();
    for row in rows {
        let answer = wire::send(&server, row.rpc, row.request).await;
        if let Err(mismatch) = check(answer, &row.expected) {
            mismatches.push(format!("{} with {}: {mismatch}", row.rpc, row.what));
        }
    }
    assert!(mismatches.is_empty(), "{}:\n{}", mismatches.len(), mismatches.join("\n"));

    assert_eq!(Picture::take(&server).await, before);
    let good = server.submit(submit("sim", json!({ "output": 1 }))).await;
    server.ended(&good.id).await;
    let log = server.stderr_log();
    assert!(!log.contains("panicked"), "{log}");
}

async fn what_lies_just_within_the_bounds_is_taken(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 100)).await;
    // Is in the input and in the output, which are sent together.
    let text = "x".repeat(9 * 1024 * 1024);
    let large = server.submit(submit("sim", json!({ "output": text }))).await;
    let ended = server.ended(&large.id).await;
    assert_eq!(ended.output, Some(value_of(json!(text))));

    // Together more than the store puts into one statement.
    let requests = vec![submit("sim", json!({ "output": "x".repeat(10_000) })); 1_000];
    let batch = BatchSubmitExecutionsRequest { requests };
    let reply = server.execution().batch_submit_executions(batch).await.expect("submitted");
    assert_eq!(reply.into_inner().executions.len(), 1_000);

    let label = (format!("k{}", "/".repeat(62)), "v".repeat(256));
    let edge = SubmitExecutionRequest {
        request_id: "é".repeat(128),
        priority: i32::MIN,
        labels: [label].into(),
        ..submit("sim", json!({ "output": [1.5, 9_007_199_254_740_992_i64, -1e300, null] }))
    };
    server.ended(&server.submit(edge).await.id).await;
    audit_is_clean(&server.store_url());
}

/// What is wrong with an answer, if anything is.
fn check(answer: Result<(), Status>, expected: &Expected) -> Result<(), String> {
    let Err(status) = answer else {
        return Err(format!("was accepted, expected {expected:?}"));
    };
    let details = status.get_error_details();
    let told = format!("{:?} {:?}; expected {expected:?}", status.code(), status.message());
    let Some(info) = details.error_info() else { return Err(format!("no ErrorInfo: {told}")) };
    let told = format!("{} {:?} {told}", info.reason, fields(&details));

    let said = status.message().to_owned() + &descriptions(&details);
    let field_is_right = match (&expected.field, fields(&details).as_slice()) {
        (None, []) => true,
        (Some(field), [found]) => match field.strip_suffix('*') {
            Some(start) => found.starts_with(start),
            None => found == field,
        },
        _ => false,
    };
    let right = status.code() == expected.code
        && info.reason == expected.reason
        && info.domain == "flowgate"
        && field_is_right
        && said.contains(&expected.mentions)
        && (status.code() == Code::NotFound) == details.resource_info().is_some();
    if right { Ok(()) } else { Err(told) }
}

fn fields(details: &ErrorDetails) -> Vec<String> {
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
    violations.unwrap_or_default().iter().map(|violation| violation.field.clone()).collect()
}

fn descriptions(details: &ErrorDetails) -> String {
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
    violations.unwrap_or_default().iter().map(|one| format!(" {}", one.description)).collect()
}

/// Everything a client can see of the store.
#[derive(Debug, PartialEq)]
struct Picture {
    revision: i64,
    counts: [i64; 5],
    executions: Vec<Execution>,
    providers: Vec<Provider>,
}

impl Picture {
    async fn take(server: &TestServer) -> Self {
        let status = server.status().await;
        let list = ListExecutionsRequest { page_size: 1_000, view: 2, ..Default::default() };
        let list = server.execution().list_executions(list).await.expect("listed").into_inner();
        let providers = server.provider().list_providers(ListProvidersRequest {}).await;
        let mut providers = providers.expect("listed").into_inner().providers;
        for provider in &mut providers {
            // They change by time alone.
            provider.rates = None;
            provider.oldest_pending_age = None;
        }
        Self {
            revision: status.store.expect("a status tells of the store").revision,
            counts: [
                status.pending_count,
                status.running_count,
                status.succeeded_count,
                status.failed_count,
                status.cancelled_count,
            ],
            executions: list.executions,
            providers,
        }
    }
}

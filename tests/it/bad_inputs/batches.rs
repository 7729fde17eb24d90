//! Requests that mean many executions: all or none, and the one at fault is named.

use flowgate::pb::{
    BatchCancelExecutionsRequest, BatchRetryExecutionsRequest, BatchSubmitExecutionsRequest,
    ExecutionFilter, SubmitExecutionRequest,
};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Code;

use super::{Expected, Known, REQUEST_ID, Row, invalid, no_provider, row};
use crate::support::submit;

pub(super) fn rows(known: &Known) -> Vec<Row> {
    let mut rows = batch_submits(known);
    for (what, filter, field) in bad_filters() {
        let filter = Some(filter);
        let cancel = BatchCancelExecutionsRequest { filter: filter.clone(), ..Default::default() };
        rows.push(row("ExecutionService/BatchCancelExecutions", what, cancel, invalid(field)));
        let retry = BatchRetryExecutionsRequest { filter, ..Default::default() };
        rows.push(row("ExecutionService/BatchRetryExecutions", what, retry, invalid(field)));
    }
    let everything = BatchCancelExecutionsRequest::default();
    rows.push(row(
        "ExecutionService/BatchCancelExecutions",
        "no filter",
        everything,
        invalid("filter"),
    ));
    let everything = BatchRetryExecutionsRequest::default();
    rows.push(row(
        "ExecutionService/BatchRetryExecutions",
        "no filter",
        everything,
        invalid("filter"),
    ));

    let filter = Some(ExecutionFilter { providers: vec!["sim".to_owned()], ..Default::default() });
    let reason = "x".repeat(257);
    let cancel = BatchCancelExecutionsRequest { filter, reason, validate_only: false };
    let what = "a reason of 257 characters";
    rows.push(row("ExecutionService/BatchCancelExecutions", what, cancel, invalid("reason")));
    rows
}

fn batch_submits(known: &Known) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what: &str, requests: Vec<SubmitExecutionRequest>, expected: Expected| {
        let batch = BatchSubmitExecutionsRequest { requests };
        rows.push(row("ExecutionService/BatchSubmitExecutions", what, batch, expected));
    };
    let good = || submit("sim", json!({}));
    let with_id = |id: &str, input| SubmitExecutionRequest {
        request_id: id.to_owned(),
        ..submit("sim", input)
    };

    add("nothing", vec![], invalid("requests"));
    add("1,001 submissions", vec![good(); 1_001], invalid("requests"));
    let mut eighth = vec![good(); 9];
    eighth[7] = SubmitExecutionRequest::default();
    add("an eighth without provider", eighth.clone(), invalid("requests[7].provider"));
    eighth[7] = submit("nobody", json!({}));
    add("an eighth for nobody", eighth.clone(), no_provider().mentions("requests[7].provider"));
    eighth[7] = submit("sim", json!({ "duration_ms": -1 }));
    add("an eighth of bad input", eighth, invalid("requests[7].input.duration_ms"));
    let unavailable = Expected::new(Code::FailedPrecondition, "PROVIDER_UNAVAILABLE");
    let bare = submit("bare", json!({ "module": "hello" }));
    add("a provider without modules", vec![good(), bare], unavailable.mentions("requests[1]"));

    let conflict = || Expected::new(Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    let first = &known.succeeded.id;
    add(
        "a request_id given before",
        vec![good(), with_id(REQUEST_ID, json!({}))],
        conflict().mentions(first),
    );
    add(
        "a request_id twice with other content",
        vec![with_id("twice", json!({})), with_id("twice", json!({ "chunks": 1 }))],
        conflict().mentions("requests[1]"),
    );
    rows
}

/// Filters that are malformed, and where.
pub(super) fn bad_filters() -> Vec<(&'static str, ExecutionFilter, &'static str)> {
    let absurd = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    vec![
        (
            "a malformed provider in the filter",
            ExecutionFilter {
                providers: vec!["sim".to_owned(), "No!".to_owned()],
                ..Default::default()
            },
            "filter.providers[1]",
        ),
        (
            "the state UNSPECIFIED in the filter",
            ExecutionFilter { states: vec![0], ..Default::default() },
            "filter.states[0]",
        ),
        (
            "a state that does not exist in the filter",
            ExecutionFilter { states: vec![1, 77], ..Default::default() },
            "filter.states[1]",
        ),
        (
            "a bad label key in the filter",
            ExecutionFilter { labels: label("a b", ""), ..Default::default() },
            "filter.labels[a b]",
        ),
        (
            "33 labels in the filter",
            ExecutionFilter {
                labels: (0..33).map(|n| (format!("k{n}"), String::new())).collect(),
                ..Default::default()
            },
            "filter.labels",
        ),
        (
            "an absurd created_after in the filter",
            ExecutionFilter { created_after: absurd, ..Default::default() },
            "filter.created_after",
        ),
        (
            "an absurd created_before in the filter",
            ExecutionFilter { created_before: absurd, ..Default::default() },
            "filter.created_before",
        ),
    ]
}

//! Reading, cancelling, retrying and watching executions.

use flowgate::pb::{
    CancelExecutionRequest, ExecutionFilter, GetExecutionRequest, ListExecutionsRequest,
    RetryExecutionRequest, WatchExecutionRequest, WatchExecutionsRequest,
};
use tonic::Code;

use super::batches::bad_filters;
use super::{Expected, Known, REQUEST_ID, Row, UNKNOWN_ID, invalid, no_execution, row};

const GET: &str = "ExecutionService/GetExecution";
const LIST: &str = "ExecutionService/ListExecutions";
const CANCEL: &str = "ExecutionService/CancelExecution";
const RETRY: &str = "ExecutionService/RetryExecution";
const WATCH: &str = "ExecutionService/WatchExecution";
const WATCH_MANY: &str = "ExecutionService/WatchExecutions";

pub(super) fn rows(known: &Known) -> Vec<Row> {
    let mut rows = ids();
    rows.extend(cancels_and_retries(known));
    rows.extend(lists(known));
    rows.extend(cursors(known));
    rows
}

/// Every rpc that takes an id, with one that is malformed or unknown.
fn ids() -> Vec<Row> {
    let without_hyphens = UNKNOWN_ID.replace('-', "");
    let braced = format!("{{{UNKNOWN_ID}}}");
    let too_long = "0".repeat(100_000);
    let malformed =
        ["", "7", "not-an-id", &without_hyphens, &braced, "' OR 1=1 --", "\0", &too_long];
    let with_id = |id: &str, expected: fn() -> Expected| {
        let what = format!("id {:.50?}", id);
        let id = || id.to_owned();
        [
            row(GET, &what, GetExecutionRequest { id: id(), ..Default::default() }, expected()),
            row(
                CANCEL,
                &what,
                CancelExecutionRequest { id: id(), ..Default::default() },
                expected(),
            ),
            row(RETRY, &what, RetryExecutionRequest { id: id(), ..Default::default() }, expected()),
            row(WATCH, &what, WatchExecutionRequest { id: id(), ..Default::default() }, expected()),
        ]
    };
    let mut rows: Vec<Row> =
        malformed.into_iter().flat_map(|id| with_id(id, || invalid("id"))).collect();
    rows.extend(with_id(UNKNOWN_ID, || no_execution().mentions(UNKNOWN_ID)));
    rows
}

fn cancels_and_retries(known: &Known) -> Vec<Row> {
    let id = known.succeeded.id.clone();
    let cancel = |reason: String| CancelExecutionRequest { id: id.clone(), reason };
    let retry = |id: &str, request_id: &str| RetryExecutionRequest {
        id: id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let not_retryable = || Expected::new(Code::FailedPrecondition, "EXECUTION_NOT_RETRYABLE");
    let view = GetExecutionRequest { id: id.clone(), view: 99 };
    vec![
        row(GET, "a view that does not exist", view, invalid("view")),
        row(CANCEL, "a reason of 257 characters", cancel("x".repeat(257)), invalid("reason")),
        row(CANCEL, "a reason with NUL", cancel("\0".to_owned()), invalid("reason")),
        row(RETRY, "a succeeded execution", retry(&id, ""), not_retryable()),
        row(RETRY, "a pending execution", retry(&known.scheduled.id, ""), not_retryable()),
        row(RETRY, "a bad request_id", retry(&id, "a\nb"), invalid("request_id")),
        row(
            RETRY,
            "a request_id of 129 characters",
            retry(&id, &"x".repeat(129)),
            invalid("request_id"),
        ),
        row(
            RETRY,
            "a succeeded one and a known request_id",
            retry(&id, REQUEST_ID),
            not_retryable(),
        ),
    ]
}

fn lists(known: &Known) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, filter, field) in bad_filters() {
        let filter = Some(filter);
        let list = ListExecutionsRequest { filter: filter.clone(), ..Default::default() };
        rows.push(row(LIST, what, list, invalid(field)));
        let watch = WatchExecutionsRequest { filter, ..Default::default() };
        rows.push(row(WATCH_MANY, what, watch, invalid(field)));
    }
    for page_size in [-1, i32::MIN] {
        let list = ListExecutionsRequest { page_size, ..Default::default() };
        rows.push(row(LIST, format!("page_size {page_size}"), list, invalid("page_size")));
    }
    let garbage = ["x", "AAAA", "0", "=====", "日本", &"A".repeat(100_000), &known.succeeded.id];
    for token in garbage {
        let list = ListExecutionsRequest { page_token: token.to_owned(), ..Default::default() };
        rows.push(row(LIST, format!("page_token {token:.50?}"), list, invalid("page_token")));
    }
    let sim = ExecutionFilter { providers: vec!["sim".to_owned()], ..Default::default() };
    let other = ListExecutionsRequest {
        page_token: known.page_token.clone(),
        filter: Some(sim),
        ..Default::default()
    };
    rows.push(row(LIST, "the page_token of another filter", other, invalid("page_token")));
    let view = ListExecutionsRequest { view: -1, ..Default::default() };
    rows.push(row(LIST, "a view that does not exist", view, invalid("view")));
    rows
}

/// Both watches, from where there is nothing.
fn cursors(known: &Known) -> Vec<Row> {
    let out_of_range = |reason| Expected::new(Code::OutOfRange, reason);
    let mut rows = Vec::new();
    let mut add = |what: &str, after: i64, epoch: &str, expected: Expected| {
        let (after_revision, store_epoch) = (Some(after), epoch.to_owned());
        let id = known.succeeded.id.clone();
        let one = WatchExecutionRequest {
            id,
            after_revision,
            store_epoch: store_epoch.clone(),
            ..Default::default()
        };
        rows.push(row(WATCH, what, one, expected.clone()));
        let many = WatchExecutionsRequest { after_revision, store_epoch, ..Default::default() };
        rows.push(row(WATCH_MANY, what, many, expected));
    };
    let (epoch, ahead) = (known.epoch.as_str(), known.revision + 1);
    for after in [-1, i64::MIN] {
        add("a revision below zero", after, epoch, invalid("after_revision"));
    }
    for after in [ahead, i64::MAX] {
        add("a revision ahead of the log", after, epoch, out_of_range("REVISION_AHEAD"));
        add("a revision ahead of any log", after, "", out_of_range("REVISION_AHEAD"));
    }
    for other in [UNKNOWN_ID, "nonsense"] {
        add("a revision of another store", 1, other, out_of_range("STORE_EPOCH_MISMATCH"));
        add(
            "a revision ahead in another store",
            ahead,
            other,
            out_of_range("STORE_EPOCH_MISMATCH"),
        );
    }
    let view = WatchExecutionsRequest { view: 3, ..Default::default() };
    rows.push(row(WATCH_MANY, "a view that does not exist", view, invalid("view")));
    rows
}

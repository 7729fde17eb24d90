//! Running finished executions again.

use flowgate::pb::{
    BatchCancelExecutionsRequest, BatchRetryExecutionsRequest, BatchSubmitExecutionsRequest,
    ExecutionFilter, RetryExecutionRequest,
};
use futures_util::future::join_all;
use serde_json::json;
use tonic::Code;

use crate::support::{Config, Db, TestServer, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    two_bulk_retries_at_the_same_moment_run_each_execution_again_once;
}

async fn two_bulk_retries_at_the_same_moment_run_each_execution_again_once(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let blocker = server.submit(submit("sim", json!({ "duration_ms": 600_000 }))).await;
    let mut request = submit("sim", json!({}));
    request.labels.insert("batch".to_owned(), "1".to_owned());
    let batch = BatchSubmitExecutionsRequest { requests: vec![request; 300] };
    server.execution().batch_submit_executions(batch).await.unwrap();
    let filter = Some(ExecutionFilter {
        labels: [("batch".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    });
    let cancel = BatchCancelExecutionsRequest { filter: filter.clone(), ..Default::default() };
    let cancelled = server.execution().batch_cancel_executions(cancel).await.unwrap().into_inner();
    assert_eq!((cancelled.matched_count, cancelled.cancelled_count), (300, 300));

    let retry = BatchRetryExecutionsRequest { filter, ..Default::default() };
    let calls = (0..4).map(|_| {
        let (mut client, retry) = (server.execution(), retry.clone());
        async move { client.batch_retry_executions(retry).await.unwrap().into_inner() }
    });
    let replies = join_all(calls).await;
    let created: usize = replies.iter().map(|reply| reply.execution_ids.len()).sum();
    assert_eq!(created, 300);
    assert_eq!(server.status().await.pending_count, 300);
    let of_one = server.get(replies.iter().find_map(|r| r.execution_ids.first()).unwrap()).await;
    let old = server.get(&of_one.retry_of).await;
    assert_eq!((old.input, old.labels), (of_one.input, of_one.labels));

    let retry = RetryExecutionRequest { id: blocker.id, ..Default::default() };
    let refused = server.execution().retry_execution(retry).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "it is not over");
}

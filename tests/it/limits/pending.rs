//! A provider that has as much to do as it may have takes no more, and says when to try again.

use flowgate::pb::{
    BatchSubmitExecutionsRequest, CancelExecutionRequest, PauseProviderRequest, ProviderLimits,
    SetLimitsRequest, SubmitExecutionRequest,
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::set::{of, set};
use crate::support::{Config, Db, TestServer, audit_is_clean, on_both, submit};

on_both! {
    #[tokio::test]
    a_provider_with_enough_pending_takes_no_more_until_one_is_gone;
    #[tokio::test]
    submissions_at_once_never_leave_more_pending_than_may_be;
}

/// A server whose provider may have three pending, and starts nothing.
async fn server(db: Db) -> TestServer {
    let toml = "[providers.sim]\nkind = 'simulated'\nmax_pending = 3";
    let server = TestServer::start(Config::on(db).toml(toml).simulated("other", 1)).await;
    let pause = PauseProviderRequest { provider: "sim".to_owned(), ..Default::default() };
    server.provider().pause_provider(pause).await.unwrap();
    server
}

fn named(request_id: &str) -> SubmitExecutionRequest {
    SubmitExecutionRequest { request_id: request_id.to_owned(), ..submit("sim", json!({})) }
}

fn is_refused(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has one");
    assert_eq!((&*info.reason, &*info.metadata["max_pending"]), ("TOO_MANY_PENDING", "3"));
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    assert!(retry.is_some_and(|delay| !delay.is_zero()), "{details:?}");
}

async fn a_provider_with_enough_pending_takes_no_more_until_one_is_gone(db: Db) {
    let server = server(db).await;
    let first = server.submit(named("first")).await;
    server.submit(named("second")).await;
    let batch = async |requests: Vec<_>| {
        let batch = BatchSubmitExecutionsRequest { requests };
        let reply = server.execution().batch_submit_executions(batch).await;
        reply.map(|reply| reply.into_inner().executions.len())
    };
    let other = submit("other", json!({}));
    let refused = batch(vec![other.clone(), named("a"), named("b")]).await.unwrap_err();
    is_refused(&refused);
    assert!(refused.message().starts_with("requests[2].provider"), "{refused:?}");
    let status = server.status().await;
    assert_eq!(status.pending_count + status.succeeded_count, 2, "all or none");

    // What is known already takes no room.
    assert_eq!(batch(vec![named("first"), named("second"), named("third")]).await.unwrap(), 3);
    is_refused(&server.execution().submit_execution(named("fourth")).await.unwrap_err());
    assert_eq!(server.submit(named("first")).await.id, first.id);
    server.submit(other).await;

    let request = CancelExecutionRequest { id: first.id.clone(), ..Default::default() };
    server.execution().cancel_execution(request).await.unwrap();
    server.submit(named("fourth")).await;
    is_refused(&server.execution().submit_execution(named("fifth")).await.unwrap_err());
    // An operator may let in more, and may take the bound away.
    let limits = vec![ProviderLimits { max_pending: Some(0), ..of("sim") }];
    set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    server.submit(named("fifth")).await;
    audit_is_clean(&server.store_url());
}

async fn submissions_at_once_never_leave_more_pending_than_may_be(db: Db) {
    let server = server(db).await;
    // What is never taken at once is not to be tried again as it is.
    let requests = vec![submit("sim", json!({})); 4];
    let batch = BatchSubmitExecutionsRequest { requests };
    let refused = server.execution().batch_submit_executions(batch).await.unwrap_err();
    assert!(refused.message().contains("submit fewer at once"), "{refused:?}");
    assert!(refused.get_error_details().retry_info().is_none());
    let one = async || server.execution().submit_execution(submit("sim", json!({}))).await;
    let answers = futures_util::future::join_all((0..40).map(|_| one())).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((stored.len(), server.status().await.pending_count), (3, 3));
    refused.iter().for_each(|answer| is_refused(answer.as_ref().unwrap_err()));
}

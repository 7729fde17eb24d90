//! The way of one execution, on either store.

use flowgate::pb::{
    BatchSubmitExecutionsRequest, CancelExecutionRequest, GetExecutionRequest,
    RetryExecutionRequest, RetryPolicy, SubmitExecutionRequest, WatchExecutionRequest,
};
use serde_json::json;

use super::{CALLER, TRACE, attempt, child, submit_traced, traced, traceparent};
use crate::support::collector::{Collector, Span};
use crate::support::{Config, Db, TestServer, eventually, on_both, on_postgres, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    an_execution_is_one_trace_from_the_call_to_the_settlement;
    #[tokio::test(flavor = "multi_thread")]
    an_attempt_links_to_the_one_before_it_also_after_a_restart;
}

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    an_attempt_whose_end_is_refused_tells_of_none;
}

async fn an_execution_is_one_trace_from_the_call_to_the_settlement(db: Db) {
    let collector = Collector::start().await;
    let config = Config::on(db).simulated("sim", 1).env("OTEL_SERVICE_NAME", "gate");
    let server = TestServer::start(collector.of(config)).await;
    let input = json!({ "duration_ms": 20 });
    let (execution, metadata) = submit_traced(&server, submit("sim", input), "01").await;
    server.ended(&execution.id).await;

    let rpc = collector
        .span("flowgate.v1.ExecutionService/SubmitExecution", |span| span.parent == CALLER)
        .await;
    assert_eq!((rpc.trace.as_str(), rpc.kind, rpc.is_error), (TRACE, "server", false));
    assert_eq!((rpc.service.as_str(), rpc.state.as_str()), ("gate", "rojo=1"));
    assert!(rpc.is("rpc.system.name", "grpc") && rpc.is("rpc.response.status_code", "OK"));
    assert!(rpc.is("rpc.method", "flowgate.v1.ExecutionService/SubmitExecution"), "{rpc:?}");

    let submitted = child(&collector, "submit", &rpc).await;
    assert_eq!((submitted.kind, submitted.is_error), ("producer", false));
    assert!(submitted.is("execution.id", execution.id.as_str()), "{submitted:?}");
    assert!(submitted.is("provider", "sim") && submitted.is("executions", 1), "{submitted:?}");

    let waited = child(&collector, "queue wait", &submitted).await;
    assert!(waited.is("execution.id", execution.id.as_str()) && waited.is("attempt", 1));
    let attempt = attempt(&collector, &execution.id, 1).await;
    assert_eq!((&attempt.parent, attempt.kind), (&submitted.id, "consumer"));
    assert!(attempt.is("outcome", "succeeded") && attempt.is("provider", "sim"), "{attempt:?}");
    assert!(waited.start <= waited.end && submitted.start <= attempt.start);
    let call = child(&collector, "call simulated", &attempt).await;
    let settled = child(&collector, "settle", &attempt).await;
    assert!(call.is("provider", "sim") && settled.is("outcome", "succeeded"));
    assert!(call.end - call.start >= 20_000_000 && settled.start >= call.end, "{call:?}");

    let link = attempt.link("claim").expect("an attempt links to its claim");
    let claim = collector.span("claim", |span| span.id == link.id).await;
    assert_eq!((&claim.trace, claim.parent.as_str()), (&link.trace, ""));
    assert_ne!(claim.trace, TRACE, "a claim is of many");
    assert!(claim.is("executions", 1) && claim.is("providers", json!(["sim"])), "{claim:?}");

    assert_eq!(execution.trace_id, TRACE);
    let told = traceparent(&submitted);
    assert_eq!(metadata.get("traceparent").unwrap(), told.as_str());
    let get = GetExecutionRequest { id: execution.id.clone(), ..Default::default() };
    let read = server.execution().get_execution(get).await.unwrap();
    let watch = WatchExecutionRequest { id: execution.id.clone(), ..Default::default() };
    let watched = server.execution().watch_execution(watch).await.unwrap();
    for metadata in [read.metadata(), watched.metadata()] {
        assert_eq!(metadata.get("traceparent").unwrap(), told.as_str());
        assert_eq!(metadata.get("tracestate").unwrap(), "rojo=1");
    }
    assert!(collector.spans().iter().all(|span| span.events == 0), "logs stay logs");
}

async fn an_attempt_links_to_the_one_before_it_also_after_a_restart(db: Db) {
    let collector = Collector::start().await;
    let config = collector.of(Config::on(db).simulated("sim", 1)).lease("1s");
    let mut server = TestServer::start(config).await;
    let input = json!({ "fail": "transient", "fail_attempts": 1, "duration_ms": 10 });
    let id = server.submit(submit("sim", input)).await.id;
    let failed = attempt(&collector, &id, 1).await;
    assert!(failed.is_error && failed.is("outcome", "retried"), "{failed:?}");
    assert!(failed.is("error.type", "TRANSIENT") && failed.link("attempt before").is_none());
    let call = child(&collector, "call simulated", &failed).await;
    assert!(call.is_error && call.is("error.type", "TRANSIENT"), "{call:?}");
    server.sigterm();
    server.wait_exit(std::time::Duration::from_secs(30)).await;
    server.restart().await;
    server.ended(&id).await;
    let second = attempt(&collector, &id, 2).await;
    assert_eq!((&second.trace, &second.parent), (&failed.trace, &failed.parent));
    let link = second.link("attempt before").expect("it links to the first");
    assert_eq!((&link.trace, &link.id), (&failed.trace, &failed.id));
    let waits = |number: u32| {
        let id = id.clone();
        move |span: &Span| span.is("execution.id", id.as_str()) && span.is("attempt", number)
    };
    let again = collector.span("queue wait", waits(2)).await;
    assert_eq!(again.parent, second.parent);
    assert!(again.start >= failed.end.saturating_sub(1_000_000), "from when it was put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_links_to_one_that_a_kill_kept_from_being_told() {
    let collector = Collector::start().await;
    let config = collector.of(Config::new().simulated("sim", 1));
    // What was running when the server is killed is sent by nobody.
    let mut server = TestServer::start(config.env("OTEL_BSP_SCHEDULE_DELAY", "3600000")).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 1_000 }))).await.id;
    eventually("it runs", async || server.get(&id).await.start_time).await;
    server.kill9();
    server.restart().await;
    server.ended(&id).await;
    server.sigterm();
    server.wait_exit(std::time::Duration::from_secs(30)).await;
    let resumed = attempt(&collector, &id, 2).await;
    let told = collector.spans();
    assert!(!told.iter().any(|span| span.is("attempt", 1)), "{told:#?}");
    let link = resumed.link("attempt before").expect("it links to the first");
    assert!(link.trace == resumed.trace && link.id != resumed.id && !link.id.is_empty());
    assert!(server.stderr_log().contains("Resuming interrupted execution"));
    assert_eq!(resumed.events, 0, "what is logged within a span goes with the logs");
}

async fn an_attempt_whose_end_is_refused_tells_of_none() {
    let collector = Collector::start().await;
    let config = || collector.of(Config::on(Db::Postgres).simulated("sim", 2)).lease("2s");
    let first = TestServer::start(config()).await;
    let id = first.submit(submit("sim", json!({ "duration_ms": 1_500 }))).await.id;
    eventually("it runs", async || first.get(&id).await.start_time).await;
    let second = first.start_beside(config()).await;
    first.sigstop();
    second.ended(&id).await;
    first.sigcont();
    let fenced = attempt(&collector, &id, 1).await;
    assert!(fenced.is_error && fenced.is("error.type", "LOST"), "{fenced:?}");
    assert!(fenced.get("outcome").is_null(), "{fenced:?}");
    let settled = child(&collector, "settle", &fenced).await;
    assert!(settled.is_error && settled.get("outcome").is_null(), "{settled:?}");
    let again = attempt(&collector, &id, 2).await;
    assert!(!again.is_error && again.is("outcome", "succeeded"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn to_be_cancelled_is_no_error_and_to_take_too_long_is_one() {
    let collector = Collector::start().await;
    let server = TestServer::start(collector.of(Config::new().simulated("sim", 1))).await;
    let endless = submit("sim", json!({ "duration_ms": 600_000 }));
    let cancelled = server.submit(endless.clone()).await.id;
    eventually("it runs", async || server.get(&cancelled).await.start_time).await;
    let request = CancelExecutionRequest { id: cancelled.clone(), ..Default::default() };
    server.execution().cancel_execution(request).await.unwrap();
    let timed_out = server
        .submit(SubmitExecutionRequest {
            run_timeout: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
            retry_policy: Some(RetryPolicy { max_attempts: Some(1), ..Default::default() }),
            ..endless
        })
        .await
        .id;
    for (id, outcome, error) in
        [(cancelled, "cancelled", "CANCELLED"), (timed_out, "failed", "TIMEOUT")]
    {
        server.ended(&id).await;
        let attempt = attempt(&collector, &id, 1).await;
        let call = child(&collector, "call simulated", &attempt).await;
        assert!(attempt.is("outcome", outcome) && call.is("error.type", error), "{call:?}");
        let is_error = error == "TIMEOUT";
        assert_eq!((attempt.is_error, call.is_error), (is_error, is_error), "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_turned_away_waits_from_when_it_was_put_back() {
    let collector = Collector::start().await;
    let server = TestServer::start(collector.of(Config::new().simulated("sim", 1))).await;
    let input = json!({
        "fail": "rate_limited", "fail_attempts": 1, "retry_after_ms": 50, "duration_ms": 200,
    });
    let id = server.submit(submit("sim", input)).await.id;
    server.ended(&id).await;
    let second = attempt(&collector, &id, 2).await;
    let first = attempt(&collector, &id, 1).await;
    let is_its = |span: &Span| span.is("attempt", 2) && span.parent == second.parent;
    let waited = collector.span("queue wait", is_its).await;
    // It has been due since before the first.
    assert!(waited.start > first.start + 200_000_000, "{waited:?} after {first:?}");
    assert!(waited.end <= second.start && waited.start <= waited.end, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_submit() {
    let collector = Collector::start().await;
    let server = TestServer::start(collector.of(Config::new().simulated("sim", 3))).await;
    let requests = vec![submit("sim", json!({})); 3];
    let batch = traced(BatchSubmitExecutionsRequest { requests }, "01");
    let stored = server.execution().batch_submit_executions(batch).await.unwrap().into_inner();
    let submitted = collector.span("submit", |span| span.trace == TRACE).await;
    assert!(submitted.is("executions", 3) && submitted.get("execution.id").is_null());
    for execution in stored.executions {
        assert_eq!(attempt(&collector, &execution.id, 1).await.parent, submitted.id);
    }
    let submits = collector.spans().iter().filter(|span| span.name == "submit").count();
    assert_eq!(submits, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_an_execution_again_or_repeats_it_links_to_the_first() {
    let collector = Collector::start().await;
    let server = TestServer::start(collector.of(Config::new().simulated("sim", 3))).await;
    let request = SubmitExecutionRequest {
        request_id: "once".to_owned(),
        ..submit("sim", json!({ "fail": "permanent" }))
    };
    let first = server.submit(request.clone()).await;
    server.ended(&first.id).await;
    let is_first = |span: &Span| span.trace == first.trace_id;
    let submitted = collector.span("submit", is_first).await;

    let (repeated, _) = submit_traced(&server, request, "01").await;
    assert_eq!((&repeated.id, &repeated.trace_id), (&first.id, &first.trace_id));
    let again = collector.span("submit", |span| span.trace == TRACE).await;
    assert!(again.is("replayed", true) && again.is("execution.id", first.id.as_str()));
    assert_eq!(again.link("first submission").unwrap().id, submitted.id);

    let request = RetryExecutionRequest { id: first.id.clone(), ..Default::default() };
    let retried = server.execution().retry_execution(request).await.unwrap().into_inner();
    let retried = retried.execution.unwrap();
    assert_ne!(retried.trace_id, first.trace_id);
    let submitted_again = collector.span("submit", |it| it.trace == retried.trace_id).await;
    let link = submitted_again.link("retried execution").unwrap();
    assert_eq!((&link.trace, &link.id), (&submitted.trace, &submitted.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_mistake_is_no_error_of_the_servers_span_and_names_none() {
    let collector = Collector::start().await;
    let server = TestServer::start(collector.of(Config::new())).await;
    let refused = traced(submit("nobody", json!({})), "01");
    server.execution().submit_execution(refused).await.unwrap_err();
    let rpc = collector.span("flowgate.v1.ExecutionService/SubmitExecution", |_| true).await;
    assert!(rpc.is("rpc.response.status_code", "NOT_FOUND") && !rpc.is_error, "{rpc:?}");
    let submitted = child(&collector, "submit", &rpc).await;
    assert!(!submitted.is_error, "{submitted:?}");

    let mut client = tonic::client::Grpc::new(server.channel());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = http::uri::PathAndQuery::from_static("/made.up/Name1234567890");
    client.unary(traced((), "01"), path, codec).await.unwrap_err();
    let other = collector.span("_OTHER", |_| true).await;
    assert!(other.is("rpc.response.status_code", "UNIMPLEMENTED") && other.is_error, "{other:?}");
}

//! Metrics of a real server: what is counted is what happened, whoever asks; one set of instruments answers
//! Prometheus, a collector and `GetStatus`.

use std::collections::BTreeMap;

use flowgate::pb::{
    CancelExecutionRequest, Execution, GetStatusRequest, GetStatusResponse, PauseProviderRequest,
    RetryExecutionRequest, RetryPolicy, SubmitExecutionRequest, WatchExecutionRequest,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value as Number};
use serde_json::json;
use tonic::{Code, Request};

use crate::support::collector::Collector;
use crate::support::providers::http;
use crate::support::{Config, Db, TestServer, eventually, submit};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn config(db: Db) -> Config {
    Config::on(db).simulated("sim", 2).simulated("still", 1).env("FLOWGATE_LOG_FORMAT", "json")
}

fn at_once(attempts: i32) -> Option<RetryPolicy> {
    let none = Some(prost_types::Duration::default());
    Some(RetryPolicy {
        max_attempts: Some(attempts),
        initial_backoff: none,
        max_backoff: none,
        ..RetryPolicy::default()
    })
}

/// Runs some of each sort to its end.
async fn all_sorts(server: &TestServer) -> Vec<Execution> {
    let mut ended = Vec::new();
    for input in [json!({}), json!({}), json!({ "fail": "permanent" })] {
        let one = server.submit(submit("sim", input)).await;
        ended.push(server.ended(&one.id).await);
    }
    let input = json!({ "fail": "transient", "fail_attempts": 1 });
    let retried = SubmitExecutionRequest { retry_policy: at_once(2), ..submit("sim", input) };
    let retried = server.submit(retried).await;
    ended.push(server.ended(&retried.id).await);
    let pause = PauseProviderRequest { provider: "still".to_owned(), ..Default::default() };
    server.provider().pause_provider(pause).await.unwrap();
    let waits = server.submit(submit("still", json!({}))).await;
    let cancel = CancelExecutionRequest { id: waits.id.clone(), ..Default::default() };
    server.execution().cancel_execution(cancel).await.unwrap();
    ended.push(server.ended(&waits.id).await);
    ended
}

/// The samples of `/metrics`, by name with labels.
async fn samples(server: &TestServer) -> BTreeMap<String, f64> {
    let (status, text) = server.http_get("/metrics").await;
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[track_caller]
fn assert_counts(samples: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(samples.get(*name), Some(value), "{name} of {samples:#?}");
    }
}

async fn status(server: &TestServer, history_seconds: i64) -> GetStatusResponse {
    let history = prost_types::Duration { seconds: history_seconds, nanos: 0 };
    let request = GetStatusRequest { history_duration: Some(history) };
    server.system().get_status(request).await.unwrap().into_inner()
}

async fn what_happened_is_counted_once(db: Db) {
    let server = TestServer::start(config(db)).await;
    all_sorts(&server).await;
    // The last attempt is counted right after its execution has ended.
    let samples = eventually("all attempts are counted", async || {
        let samples = samples(&server).await;
        let ended = samples["flowgate_attempt_duration_seconds_count{provider=\"sim\"}"];
        (ended >= 5.0).then_some(samples)
    })
    .await;
    assert_counts(
        &samples,
        &[
            ("flowgate_executions_submitted_total{provider=\"sim\"}", 4.0),
            ("flowgate_executions_submitted_total{provider=\"still\"}", 1.0),
            ("flowgate_executions_total{provider=\"sim\",state=\"succeeded\"}", 3.0),
            ("flowgate_executions_total{provider=\"sim\",state=\"failed\"}", 1.0),
            ("flowgate_executions_total{provider=\"still\",state=\"cancelled\"}", 1.0),
            ("flowgate_attempts_started_total{provider=\"sim\"}", 5.0),
            ("flowgate_attempts_total{provider=\"sim\",outcome=\"retried\"}", 1.0),
            ("flowgate_attempts_total{provider=\"sim\",outcome=\"failed\"}", 1.0),
            ("flowgate_queue_wait_seconds_count{provider=\"sim\"}", 5.0),
            ("flowgate_over_admitted_total{provider=\"sim\"}", 0.0),
            ("flowgate_ready", 1.0),
        ],
    );
    let calls = "rpc_server_call_duration_seconds_count{rpc_method=\"flowgate.v1.ExecutionService/\
                 SubmitExecution\",rpc_response_status_code=\"OK\"}";
    assert_counts(&samples, &[(calls, 5.0)]);

    let status = status(&server, 0).await;
    let metrics = status.metrics.unwrap();
    assert_eq!((metrics.started, metrics.succeeded, metrics.failed), (5, 3, 1));
    assert_eq!((metrics.retried, metrics.crashed, metrics.stale_writes_rejected), (1, 0, 0));
    assert_eq!((status.succeeded_count, status.failed_count, status.cancelled_count), (3, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_counted_once_sqlite() {
    what_happened_is_counted_once(Db::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_counted_once_postgres() {
    what_happened_is_counted_once(Db::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_count_each_their_own_and_see_the_same_store() {
    let replicas = TestServer::replicas(config(Db::Postgres), 2).await;
    let (a, b) = (&replicas[0], &replicas[1]);
    for _ in 0..6 {
        let one = a.submit(submit("sim", json!({}))).await;
        b.ended(&one.id).await;
    }
    let waits = a.submit(submit("sim", json!({ "duration_ms": 600_000 }))).await;
    eventually("both tell what happened, once", async || {
        let (a, b) = (samples(a).await, samples(b).await);
        let sum = |name: &str| a[name] + b[name];
        let seen = |samples: &BTreeMap<String, f64>| {
            samples.get("flowgate_executions_running{provider=\"sim\"}") == Some(&1.0)
                && samples.get("flowgate_workers{status=\"active\"}") == Some(&2.0)
        };
        let once = sum("flowgate_executions_submitted_total{provider=\"sim\"}") == 7.0
            && sum("flowgate_executions_total{provider=\"sim\",state=\"succeeded\"}") == 6.0
            && sum("flowgate_attempts_started_total{provider=\"sim\"}") == 7.0;
        (once && seen(&a) && seen(&b)).then_some(())
    })
    .await;
    let cancel = CancelExecutionRequest { id: waits.id, ..Default::default() };
    b.execution().cancel_execution(cancel).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_minute_is_told_by_the_second() {
    let server = TestServer::start(config(Db::Sqlite)).await;
    eventually("there is a second before it", async || {
        status(&server, 0).await.last_minute.map(drop)
    })
    .await;
    all_sorts(&server).await;
    let window = eventually("the last minute has it all", async || {
        status(&server, 0).await.last_minute.filter(|window| {
            window.ended == 5 && window.execution_time.as_ref().is_some_and(|it| it.count == 5)
        })
    })
    .await;
    assert_eq!((window.succeeded, window.failed, window.cancelled), (3, 1, 1));
    assert_eq!((window.submitted, window.started), (5, 5));
    assert_eq!(window.error_rate, 0.25);
    assert!(window.throughput > 0.0 && window.mean_slots >= 2.0, "{window:?}");
    let took = window.execution_time.unwrap();
    assert_eq!(took.buckets.iter().map(|bucket| bucket.count).sum::<i64>(), 5);
    assert!(took.mean.is_some() && took.p50.is_some() && took.p99.is_some());

    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let request = GetStatusRequest { history_duration: Some(negative) };
    let refused = server.system().get_status(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("history_duration"), "{}", refused.message());
    let longest = status(&server, 315_576_000_000).await;
    assert!(longest.history.len() <= 1_440);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_id_leads_from_the_client_to_the_log_the_execution_and_an_exemplar() {
    let config = config(Db::Sqlite).env("FLOWGATE_LOG_LEVEL", "debug");
    let server = TestServer::start(config).await;
    let mut request = Request::new(submit("sim", json!({})));
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let submitted = server.execution().submit_execution(request).await.unwrap().into_inner();
    let id = submitted.execution.unwrap().id;
    assert_eq!(server.ended(&id).await.trace_id, TRACE_ID);
    let watch = WatchExecutionRequest { id: id.clone(), ..Default::default() };
    let watch = server.execution().watch_execution(watch).await.unwrap();
    let told = watch.metadata().get("traceparent").unwrap().to_str().unwrap();
    assert!(told.contains(TRACE_ID), "{told}");

    eventually("the attempt is in the log, with its trace", async || {
        let log = server.stderr_log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let of_it = |line: &serde_json::Value| {
            line["execution.id"] == *id
                && line["trace_id"] == TRACE_ID
                && line["provider"] == "sim"
                && line["attempt"] == 1
                && line["worker.id"].is_string()
        };
        lines.into_iter().any(|line| of_it(&line)).then_some(())
    })
    .await;

    eventually("an exemplar names the trace", async || {
        let url = format!("http://{}/metrics", server.http_addr());
        let answer = http().get(url).header("accept", "application/openmetrics-text");
        let text = answer.send().await.unwrap().text().await.unwrap();
        let example = format!("# {{trace_id=\"{TRACE_ID}\"}}");
        let shown =
            |name: &str| text.lines().any(|line| line.starts_with(name) && line.contains(&example));
        let both = shown("flowgate_attempt_duration_seconds_bucket")
            && shown("flowgate_queue_wait_seconds_bucket");
        both.then_some(())
    })
    .await;
}

/// The values of a sum or gauge of an export, by the label that tells them apart.
fn numbers(request: &ExportMetricsServiceRequest, name: &str, label: &str) -> Vec<(String, f64)> {
    let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics).filter(|metric| metric.name == name);
    let points = metrics.flat_map(|metric| match &metric.data {
        Some(Data::Sum(sum)) => &sum.data_points[..],
        Some(Data::Gauge(gauge)) => &gauge.data_points[..],
        _ => &[],
    });
    let points = points.filter_map(|point| {
        let found = point.attributes.iter().find(|attribute| attribute.key == label)?;
        let Some(Any::StringValue(found)) = found.value.clone()?.value else { return None };
        let Some(Number::AsDouble(value)) = point.value else { return None };
        Some((found, value))
    });
    points.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_sent_what_prometheus_sees_and_all_of_it_at_the_end() {
    let collector = Collector::start().await;
    let config = collector
        .of_metrics(config(Db::Sqlite))
        .env("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-token=a%20secret, malformed")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=gate,deployment.environment.name=test");
    let mut server = TestServer::start(config).await;
    let told = collector.metrics(|head, request| {
        let resource = request.resource_metrics.first()?.resource.as_ref()?;
        let named = |key: &str, value: &str| {
            resource.attributes.iter().any(|it| {
                it.key == key
                    && it.value.as_ref().is_some_and(
                        |it| matches!(&it.value, Some(Any::StringValue(it)) if it == value),
                    )
            })
        };
        let limits = numbers(request, "flowgate.provider.limit", "provider");
        let found = limits.contains(&("sim".to_owned(), 2.0))
            && named("service.name", "gate")
            && named("deployment.environment.name", "test");
        found.then(|| head.get("x-token").map(|token| token.to_str().unwrap().to_owned()))
    });
    assert_eq!(told.await.flatten().as_deref(), Some("a secret"));

    for _ in 0..3 {
        let one = server.submit(submit("sim", json!({}))).await;
        server.ended(&one.id).await;
    }
    server.sigterm();
    server.wait_exit(std::time::Duration::from_secs(30)).await;
    let ended = collector.metrics(|_, request| {
        let ended = numbers(request, "flowgate.executions", "state");
        ended.contains(&("succeeded".to_owned(), 3.0)).then_some(())
    });
    assert!(ended.await.is_some(), "the last export has it all");
    assert!(!server.stderr_log().contains("a secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metrics_nothing_is_shown_and_the_counts_remain() {
    let server = TestServer::start(config(Db::Sqlite).env("FLOWGATE_METRICS", "off")).await;
    let ended = all_sorts(&server).await;
    assert_eq!(server.http_get("/metrics").await.0, 404);
    let status = status(&server, 3_600).await;
    assert_eq!((status.last_minute, status.history.len()), (None, 0));
    let metrics = status.metrics.unwrap();
    assert_eq!((metrics.started, metrics.succeeded), (5, 3));
    let retry = RetryExecutionRequest { id: ended[2].id.clone(), ..Default::default() };
    server.execution().retry_execution(retry).await.unwrap();
}

//! What is sampled, and what goes on all the same.

use flowgate::pb::ExecutionState;
use serde_json::json;

use super::{TRACE, submit_traced};
use crate::support::collector::{Collector, Span};
use crate::support::providers::{Replay, Reply};
use crate::support::{Config, Db, TestServer, submit};

fn ratio(config: Config, ratio: &str) -> Config {
    config
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", ratio)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_sample_leaves_no_span_but_its_trace_goes_on() {
    let (collector, replay) = (Collector::start().await, Replay::start().await);
    replay.always("POST /work", Reply::json(200, &json!({})));
    let http = format!("[providers.http]\nkind = 'http'\nbase_url = {:?}\n", replay.url());
    let here = TestServer::start(collector.of(Config::on(Db::Postgres).pool(1, 1)).toml(&http));
    let here = here.await;
    let there = here.start_beside(collector.of(Config::on(Db::Postgres)).toml(&http)).await;
    let input = json!({ "method": "POST", "path": "/work" });
    for round in 0..4 {
        let (execution, metadata) = submit_traced(&here, submit("http", input.clone()), "00").await;
        assert_eq!(there.ended(&execution.id).await.state(), ExecutionState::Succeeded);
        assert_eq!(execution.trace_id, TRACE);
        let told = metadata.get("traceparent").unwrap().to_str().unwrap().to_owned();
        let sent = replay.request(round).await.header("traceparent").unwrap().to_owned();
        for traceparent in [told, sent] {
            let parts: Vec<_> = traceparent.split('-').collect();
            assert_eq!((parts[1], parts[3]), (TRACE, "00"), "{traceparent}");
        }
        assert_eq!(replay.request(round).await.header("tracestate"), Some("rojo=1"));
    }
    // What is sampled comes after all of that, from both.
    for server in [&here, &there] {
        let last = server.submit(submit("http", input.clone())).await;
        here.ended(&last.id).await;
        collector.span("settle", |span| span.trace == last.trace_id).await;
    }
    let seen = collector.spans();
    assert!(seen.iter().all(|span| span.trace != TRACE), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ratio_decides_for_those_who_did_not() {
    let collector = Collector::start().await;
    let config = ratio(collector.of(Config::new().simulated("sim", 1)), "0");
    let server = TestServer::start(config).await;
    let unsampled = server.submit(submit("sim", json!({}))).await;
    server.ended(&unsampled.id).await;
    assert_eq!(unsampled.trace_id.len(), 32, "it has a trace all the same");
    let (sampled, _) = submit_traced(&server, submit("sim", json!({})), "01").await;
    server.ended(&sampled.id).await;
    collector.span("settle", |span| span.trace == TRACE).await;
    let seen = collector.spans();
    let all_of_it = |span: &Span| span.trace == TRACE;
    assert!(seen.iter().all(all_of_it), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ratio_of_one_samples_everything() {
    let collector = Collector::start().await;
    let config = ratio(collector.of(Config::new().simulated("sim", 1)), "1");
    let server = TestServer::start(config).await;
    let execution = server.submit(submit("sim", json!({}))).await;
    server.ended(&execution.id).await;
    let attempt = collector.span("attempt", |span| span.trace == execution.trace_id).await;
    assert!(attempt.link("claim").is_some());
}

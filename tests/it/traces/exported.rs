//! How spans are exported, and which of them: what the standard variables and `trace_level` say.

use std::time::Duration;

use serde_json::json;
use tonic::transport::{Identity, ServerTlsConfig};

use crate::support::collector::{Collector, Span};
use crate::support::{Config, Db, TestServer, eventually, on_both, submit, tools};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    statements_are_traced_only_where_they_are_asked_for;
}

async fn statements_are_traced_only_where_they_are_asked_for(db: Db) {
    for level in ["info", "debug"] {
        let collector = Collector::start().await;
        let config = Config::on(db).simulated("sim", 1).env("FLOWGATE_TRACE_LEVEL", level);
        let server = TestServer::start(collector.of(config)).await;
        let execution = server.submit(submit("sim", json!({}))).await;
        server.ended(&execution.id).await;
        let submitted = collector.span("submit", |_| true).await;
        collector.span("attempt", |_| true).await;
        if level == "info" {
            let of_store = |span: &Span| span.attributes.contains_key("db.system.name");
            assert!(!collector.spans().iter().any(of_store));
            continue;
        }
        let of_it = |span: &Span| span.links.iter().any(|link| link.id == submitted.id);
        let transaction = collector.span("transaction", of_it).await;
        let system = if db == Db::Sqlite { "sqlite" } else { "postgresql" };
        assert!(transaction.is("db.system.name", system), "{transaction:?}");
        assert!(transaction.get("operations").as_u64() >= Some(1), "{transaction:?}");
        for summary in ["insert executions", "commit"] {
            let is_below = |span: &Span| span.parent == transaction.id;
            let statement = collector.span(summary, is_below).await;
            assert_eq!(statement.kind, "client");
            assert!(statement.is("db.system.name", system), "{statement:?}");
            assert!(statement.is("db.query.summary", summary), "{statement:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_reached_by_https_compressed_and_under_an_authority_of_ones_own() {
    let file = |name: &str| tools::repository("tests/it/traces/tls").join(name);
    let pem = |name: &str| std::fs::read(file(name)).unwrap();
    let identity = Identity::from_pem(pem("localhost.crt"), pem("localhost.key"));
    let collector = Collector::start_with(Some(ServerTlsConfig::new().identity(identity))).await;
    let authority = file("authority.crt");
    let config = collector
        .of(Config::new().simulated("sim", 1))
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.to_str().unwrap())
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let server = TestServer::start(config).await;
    let execution = server.submit(submit("sim", json!({}))).await;
    server.ended(&execution.id).await;
    collector.span("attempt", |span| span.trace == execution.trace_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_a_collector_is_told_and_keeps_nobody_from_serving() {
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "no other protocol is spoken");
    let missing = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/at.all", "Traces are not exported");
    for (variable, value, told) in [protocol, missing] {
        let config = Config::new().simulated("sim", 1).env(variable, value);
        // Nobody listens there.
        let config = config.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        let mut server = TestServer::start(config).await;
        let execution = server.submit(submit("sim", json!({}))).await;
        server.ended(&execution.id).await;
        eventually(told, async || server.stderr_log().contains(told).then_some(())).await;
        server.sigterm();
        assert!(server.wait_exit(Duration::from_secs(20)).await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start().await;
    let config = collector.of(Config::new().simulated("sim", 1));
    // So late that only the end can be the reason.
    let mut server = TestServer::start(config.env("OTEL_BSP_SCHEDULE_DELAY", "3600000")).await;
    let execution = server.submit(submit("sim", json!({}))).await;
    server.ended(&execution.id).await;
    server.sigterm();
    server.wait_exit(Duration::from_secs(20)).await;
    let seen = collector.spans();
    assert!(seen.iter().any(|span| span.name == "settle"), "{seen:#?}");
}

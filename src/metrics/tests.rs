use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn provider(name: &str) -> ProviderName {
    name.parse().expect("a valid name")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn with_providers(names: &[&str]) -> Instruments {
    let instruments = Instruments::default();
    instruments.serve(names.iter().map(|name| provider(name)));
    instruments
}

fn text(instruments: &Instruments) -> String {
    instruments.expose(Format::Text)
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|it| it == line), "no line {line:?} in\n{text}");
}

#[test]
fn series_of_configured_providers_begin_at_zero() {
    let text = text(&with_providers(&["demo"]));
    assert_line(&text, "flowgate_executions_total{provider=\"demo\",state=\"failed\"} 0");
    assert_line(&text, "flowgate_attempts_total{provider=\"demo\",outcome=\"crashed\"} 0");
    assert_line(&text, "flowgate_over_admitted_total{provider=\"demo\"} 0");
    assert_line(&text, "flowgate_attempt_duration_seconds_count{provider=\"demo\"} 0");
}

#[test]
fn providers_that_are_not_configured_share_one_series() {
    let instruments = with_providers(&["demo"]);
    for name in ["gone", "another", "demo"] {
        instruments.of(&provider(name)).submitted();
    }
    let text = text(&instruments);
    assert_line(&text, "flowgate_executions_submitted_total{provider=\"_OTHER\"} 2");
    assert_line(&text, "flowgate_executions_submitted_total{provider=\"demo\"} 1");
    assert!(!text.contains("gone"));
}

#[test]
fn an_attempt_is_shown_with_the_trace_it_is_in() {
    let instruments = with_providers(&["demo"]);
    let example = Example::in_trace(TRACE.to_owned(), at(1_700_000_000));
    let (name, ran) = (provider("demo"), Duration::from_millis(70));
    instruments.attempt_ended(&name, Outcome::Succeeded, ran, Some(example));
    let shown = instruments.expose(Format::OpenMetrics);
    let line = "flowgate_attempt_duration_seconds_bucket{le=\"0.1\",provider=\"demo\"} 1 \
                # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.07 1700000000.0";
    assert_line(&shown, line);
    assert!(shown.ends_with("# EOF\n"));
    let older = text(&instruments);
    assert_line(&older, "flowgate_attempt_duration_seconds_bucket{le=\"0.1\",provider=\"demo\"} 1");
    assert!(!older.contains("EOF") && !older.contains(TRACE));
}

#[test]
fn what_was_handed_back_is_counted_and_not_timed() {
    let instruments = with_providers(&["demo"]);
    let name = provider("demo");
    for outcome in [Outcome::Released, Outcome::Crashed] {
        instruments.started(&name, Duration::from_secs(1), None);
        instruments.attempt_ended(&name, outcome, Duration::from_secs(3), None);
    }
    assert_eq!((instruments.tally().started, instruments.tally().ended), (2, 1));
    assert_eq!(instruments.attempts(Outcome::Released), 1);
    assert_eq!(instruments.counts().runs.mean(), Some(Duration::from_secs(3)));
}

#[test]
fn what_the_store_said_is_shown_until_it_cannot_be_read() {
    let instruments = with_providers(&["demo"]);
    let figures = ProviderFigures {
        pending: 9,
        running: 3,
        queue_depth: 5,
        oldest_age: Duration::from_millis(1_500),
        limit: 3,
        gate: GateLabel::Paused,
    };
    instruments.store_is(Some(&StoreFigures {
        providers: vec![(provider("demo"), figures)],
        active_workers: 2,
        draining_workers: 1,
        desired_replicas: 4,
        scaling_pending: 7,
        revision: 77,
    }));
    let shown = text(&instruments);
    for line in [
        "flowgate_queue_depth{provider=\"demo\"} 5",
        "flowgate_queue_oldest_age_seconds{provider=\"demo\"} 1.5",
        "flowgate_provider_gate{provider=\"demo\",state=\"paused\"} 1",
        "flowgate_provider_gate{provider=\"demo\",state=\"open\"} 0",
        "flowgate_workers{status=\"draining\"} 1",
        "flowgate_scaling_pending 7",
        "flowgate_store_revision 77",
    ] {
        assert_line(&shown, line);
    }
    instruments.store_is(None);
    let shown = text(&instruments);
    for name in ["queue_depth", "workers", "scaling_pending", "replicas_desired", "store_revision"]
    {
        let name = format!("flowgate_{name}");
        assert!(!shown.lines().any(|line| line.starts_with(&name)), "{name} in {shown}");
    }
    assert_line(&shown, "flowgate_over_admitted_total{provider=\"demo\"} 0");
}

#[test]
fn a_collector_gets_the_same_under_dotted_names() {
    let instruments = with_providers(&["demo"]);
    let (name, example) = (provider("demo"), Example::in_trace(TRACE.to_owned(), at(50)));
    instruments.of(&name).execution_ended(Ended::Failed);
    instruments.attempt_ended(&name, Outcome::Failed, Duration::from_secs(7_200), Some(example));
    let request = instruments.to_otlp(Resource::default(), at(10), at(60));
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let find = |name: &str| -> &Metric {
        metrics.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("no {name}"))
    };

    let Some(Data::Sum(sum)) = &find("flowgate.executions").data else { panic!("no sum") };
    assert!(sum.is_monotonic);
    let failed = sum.data_points.iter().filter(|it| it.value == Some(Value::AsDouble(1.0)));
    assert_eq!(failed.clone().count(), 1);
    assert!(failed.clone().all(|it| it.start_time_unix_nano == 10_000_000_000));
    assert!(failed.clone().all(|it| it.time_unix_nano == 60_000_000_000));

    let runs = find("flowgate.attempt.duration");
    assert_eq!(runs.unit, "s");
    let Some(Data::Histogram(runs)) = &runs.data else { panic!("no histogram") };
    let point = runs.data_points.iter().find(|it| it.count == 1).expect("it was timed");
    assert_eq!(point.explicit_bounds, work_bounds());
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.last(), Some(&1), "it took longer than the last bound");
    let example = &point.exemplars[0];
    assert_eq!((example.trace_id[0], example.trace_id[15]), (0x0a, 0x9c));
    assert_eq!(example.time_unix_nano, 50_000_000_000);

    assert_eq!(find("flowgate.store.size").unit, "By");
    assert_eq!(find("flowgate.error").unit, "1");
    for metric in metrics {
        assert!(!metric.name.ends_with("_total") && !metric.description.is_empty(), "{metric:?}");
    }
}

#[test]
fn methods_that_are_not_of_the_contract_share_one_series() {
    let instruments = Instruments::default();
    instruments.called(Some("a.B/C"), "OK", Duration::from_millis(2), None);
    instruments.called(None, "UNIMPLEMENTED", Duration::from_millis(2), None);
    let shown = text(&instruments);
    let count = |labels: &str| format!("rpc_server_call_duration_seconds_count{{{labels}}} 1");
    assert_line(&shown, &count("rpc_method=\"a.B/C\",rpc_response_status_code=\"OK\""));
    assert_line(&shown, &count("rpc_method=\"_OTHER\",rpc_response_status_code=\"UNIMPLEMENTED\""));
}

#[test]
fn a_collector_is_told_of_calls_what_the_conventions_ask_for() {
    let instruments = Instruments::default();
    instruments.called(Some("a.B/C"), "OK", Duration::from_millis(2), None);
    let request = instruments.to_otlp(Resource::default(), at(10), at(60));
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let calls = metrics.iter().find(|it| it.name == "rpc.server.call.duration");
    let Some(Data::Histogram(calls)) = calls.and_then(|it| it.data.as_ref()) else {
        panic!("no histogram")
    };
    let attributes = calls.data_points[0].attributes.iter().map(|it| {
        let value = it.value.clone().and_then(|it| it.value);
        let Some(any_value::Value::StringValue(value)) = value else { panic!("no text") };
        (it.key.as_str(), value)
    });
    let attributes: Vec<_> = attributes.collect();
    let told = |key: &str, value: &str| attributes.contains(&(key, value.to_owned()));
    assert!(told("rpc.system.name", "grpc"), "{attributes:?}");
    assert!(told("rpc.method", "a.B/C") && told("rpc.response.status_code", "OK"));
    assert_eq!(attributes.len(), 3);
    assert!(!text(&instruments).contains("grpc"), "it is no label");
    for other in metrics.iter().filter(|it| it.name != "rpc.server.call.duration") {
        assert!(!format!("{other:?}").contains("rpc.system.name"), "{other:?}");
    }
}

#[test]
fn the_rates_are_those_of_the_last_minute() {
    let instruments = with_providers(&["demo"]);
    instruments.sample(at(100), 0, 4);
    for _ in 0..30 {
        instruments.of(&provider("demo")).execution_ended(Ended::Succeeded);
    }
    instruments.of(&provider("demo")).execution_ended(Ended::Failed);
    instruments.attempt_ended(
        &provider("demo"),
        Outcome::Succeeded,
        Duration::from_millis(250),
        None,
    );
    instruments.sample(at(110), 2, 4);
    let shown = text(&instruments);
    assert_line(&shown, "flowgate_executions_per_second 3.1");
    assert_line(&shown, "flowgate_error_ratio 0.03225806451612903");
    assert_line(&shown, "flowgate_attempt_duration_mean_seconds 0.25");
    assert_line(&shown, "flowgate_pool_utilization_ratio 0.5");
    let window = instruments.last_minute().expect("there are two samples");
    assert_eq!((window.counts.ended(), window.utilisation()), (31, 0.5));
}

#[test]
fn this_process_is_told_of() {
    let shown = text(&Instruments::default());
    for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes "] {
        let line = shown.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split(' ').next_back()?.parse::<f64>().ok());
        assert!(value.is_some_and(|value| value >= 0.0), "{name} in\n{shown}");
    }
}

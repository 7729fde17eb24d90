//! `SubmitExecution`: everything about a submission but what its provider makes of the input.

use std::collections::BTreeMap;

use flowgate::pb::{ErrorCode, RetryPolicy, SubmitExecutionRequest};
use prost_types::{Duration, Timestamp};
use serde_json::json;
use tonic::Code;

use super::{Expected, Known, REQUEST_ID, Row, invalid, no_provider, row};
use crate::support::submit;

pub(super) fn rows(known: &Known) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what: &str, request: SubmitExecutionRequest, expected: Expected| {
        rows.push(row("ExecutionService/SubmitExecution", what, request, expected));
    };
    let good = || submit("sim", json!({}));

    add("nothing", SubmitExecutionRequest::default(), invalid("provider"));
    for name in ["Sim", "1sim", "sim ", "s/im", "../sim", "sïm", &"s".repeat(64)] {
        add(&format!("provider {name:?}"), submit(name, json!({})), invalid("provider"));
    }
    add("an unknown provider", submit("nobody", json!({})), no_provider().mentions("sim"));
    let unavailable = Expected::new(Code::FailedPrecondition, "PROVIDER_UNAVAILABLE");
    let bare = submit("bare", json!({ "module": "hello" }));
    add("a process provider without modules", bare, unavailable.mentions("modules_dir"));

    let input_json =
        |text: &str| SubmitExecutionRequest { input: None, input_json: text.to_owned(), ..good() };
    add(
        "input and input_json",
        SubmitExecutionRequest { input_json: "{}".to_owned(), ..good() },
        invalid("input_json"),
    );
    for text in ["[]", "1", "null", "{", "{} {}", "{a: 1}", "{\"a\": 1e999}", "\u{feff}{}", " "] {
        add(&format!("input_json {text:?}"), input_json(text), invalid("input_json"));
    }
    let deep = format!("{{\"output\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    add("input_json nested 10,000 deep", input_json(&deep), invalid("input_json"));
    let large = "x".repeat(17 * 1024 * 1024);
    let text = format!("{{\"output\":\"{large}\"}}");
    add("input_json above 16 MiB", input_json(&text), invalid("input_json"));
    add("an input above 16 MiB", submit("sim", json!({ "output": large })), invalid("input"));

    let conflict = Expected::new(Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    let request_id = |text: &str| SubmitExecutionRequest { request_id: text.to_owned(), ..good() };
    add(
        "a request_id that was given to other content",
        request_id(REQUEST_ID),
        conflict.mentions(&known.succeeded.id),
    );
    for text in [&"x".repeat(129), "line\nbreak", "\0", "tab\t", "\u{7f}", "\u{85}"] {
        add(&format!("request_id {text:?}"), request_id(text), invalid("request_id"));
    }

    for (what, key, value) in [
        ("an empty label key", "", "x"),
        ("a label key with a space", "a b", "x"),
        ("a label key that starts with a dot", ".a", "x"),
        ("a label key outside ASCII", "größe", "x"),
        ("a label key of 64 characters", &"k".repeat(64), "x"),
        ("a label value of 257 characters", "k", &"v".repeat(257)),
    ] {
        let labels = [(key.to_owned(), value.to_owned())].into();
        let field = format!("labels[{key}]");
        add(what, SubmitExecutionRequest { labels, ..good() }, invalid(field));
    }
    let labels: BTreeMap<_, _> = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
    add("33 labels", SubmitExecutionRequest { labels, ..good() }, invalid("labels"));

    for (seconds, nanos) in
        [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (0, -1), (0, i32::MAX)]
    {
        let schedule_time = Some(Timestamp { seconds, nanos });
        let request = SubmitExecutionRequest { schedule_time, ..good() };
        add(&format!("schedule_time {seconds} s {nanos} ns"), request, invalid("schedule_time"));
    }
    let year = 365 * 24 * 60 * 60;
    for (seconds, nanos) in [
        (0, 0),
        (-1, 0),
        (0, -1),
        (1, -1),
        (0, 1_000_000_000),
        (year, 1_000),
        (i64::MAX, 0),
        (i64::MIN, 0),
    ] {
        let span = Some(Duration { seconds, nanos });
        let what = format!("{seconds} s {nanos} ns");
        let queue = SubmitExecutionRequest { queue_timeout: span, ..good() };
        add(&format!("queue_timeout {what}"), queue, invalid("queue_timeout"));
        let run = SubmitExecutionRequest { run_timeout: span, ..good() };
        add(&format!("run_timeout {what}"), run, invalid("run_timeout"));
    }

    let below_zero = Some(Duration { seconds: -1, nanos: 0 });
    for (what, policy, field) in [
        (
            "no attempts",
            RetryPolicy { max_attempts: Some(0), ..Default::default() },
            "max_attempts",
        ),
        (
            "attempts below zero",
            RetryPolicy { max_attempts: Some(-1), ..Default::default() },
            "max_attempts",
        ),
        (
            "101 attempts",
            RetryPolicy { max_attempts: Some(101), ..Default::default() },
            "max_attempts",
        ),
        (
            "a first backoff below zero",
            RetryPolicy { initial_backoff: below_zero, ..Default::default() },
            "initial_backoff",
        ),
        (
            "a longest backoff above a year",
            RetryPolicy {
                max_backoff: Some(Duration { seconds: year + 1, nanos: 0 }),
                ..Default::default()
            },
            "max_backoff",
        ),
        (
            "retry_on CANCELLED",
            RetryPolicy { retry_on: vec![ErrorCode::Cancelled.into()], ..Default::default() },
            "retry_on[0]",
        ),
        ("retry_on 99", RetryPolicy { retry_on: vec![1, 99], ..Default::default() }, "retry_on[1]"),
    ] {
        let request = SubmitExecutionRequest { retry_policy: Some(policy), ..good() };
        add(what, request, invalid(format!("retry_policy.{field}")));
    }
    for multiplier in [0.0, 0.999, 10.001, -2.0, 1e300, f64::NAN, f64::INFINITY] {
        let policy = RetryPolicy { backoff_multiplier: Some(multiplier), ..Default::default() };
        let request = SubmitExecutionRequest { retry_policy: Some(policy), ..good() };
        let what = format!("backoff_multiplier {multiplier}");
        add(&what, request, invalid("retry_policy.backoff_multiplier"));
    }
    rows
}

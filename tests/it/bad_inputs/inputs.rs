//! Inputs that no provider, or not the one named, understands.

use prost_types::{Value, value::Kind};
use serde_json::{Value as Json, json};

use super::{Expected, Row, invalid, row};
use crate::support::submit;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |provider: &str, input: Json, expected: Expected| {
        let what = format!("{provider} input {input}");
        rows.push(row("ExecutionService/SubmitExecution", what, submit(provider, input), expected));
    };

    for number in
        [json!(-1), json!(1.5), json!(1e300), json!(9e15), json!("100"), json!(null), json!([])]
    {
        add("sim", json!({ "duration_ms": number }), invalid("input.duration_ms"));
        add("sim", json!({ "chunks": number }), invalid("input.chunks"));
        add("sim", json!({ "fail_attempts": number }), invalid("input.fail_attempts"));
    }
    add("sim", json!({ "fail": "sometimes" }), invalid("input.fail"));
    add("sim", json!({ "fail": true }), invalid("input.fail"));
    add("sim", json!({ "retry_after_ms": -5 }), invalid("input.retry_after_ms"));
    add("sim", json!({ "duration": 5 }), invalid("input.duration"));
    add("sim", json!({ "": 5 }), invalid("input*"));

    for module in [
        "../hello",
        "/bin/sh",
        "a/../../hello",
        "hello/../../x",
        "..",
        ".",
        "escape",
        "\0",
        "a\0b",
        "",
    ] {
        add("process", json!({ "module": module }), invalid("input.module"));
    }
    for module in [json!(7), json!(null), json!(["hello"])] {
        add("process", json!({ "module": module }), invalid("input.module"));
    }
    add("process", json!({}), invalid("input.module"));
    add("process", json!({ "module": "hello", "args": "one" }), invalid("input.args"));
    add("process", json!({ "module": "hello", "args": ["one", 2] }), invalid("input.args[1]"));
    add("process", json!({ "module": "hello", "args": ["a\0b"] }), invalid("input.args[0]"));
    add("process", json!({ "module": "hello", "env": ["A=b"] }), invalid("input.env"));
    add("process", json!({ "module": "hello", "env": { "A": 1 } }), invalid("input.env.A"));
    add("process", json!({ "module": "hello", "env": { "A=B": "c" } }), invalid("input.env*"));
    add("process", json!({ "module": "hello", "stdin": 5 }), invalid("input.stdin"));
    add("process", json!({ "module": "hello", "shell": true }), invalid("input.shell"));

    let key =
        json!({ "model": "m", "messages": [], "headers": { "Authorization": "Bearer secret" } });
    add("openai", key, invalid("input.headers.Authorization"));
    let messages = json!([{ "role": "user", "content": "hi" }]);
    add("openai", json!({ "messages": messages }), invalid("input.model"));
    add("openai", json!({ "model": "m" }), invalid("input"));
    add("openai", json!({ "model": "m", "input": 5 }), invalid("input.input"));
    add("openai", json!({ "model": "m", "messages": [5] }), invalid("input.messages[0].role"));
    add("claude", json!({ "model": "m", "messages": messages }), invalid("input.max_tokens"));
    add("claude", json!({ "model": "m", "max_tokens": 1 }), invalid("input.messages"));
    add("ollama", json!({ "model": "m" }), invalid("input"));
    add("ollama", json!({ "model": "m", "prompt": [] }), invalid("input.prompt"));
    add("ollama", json!({ "model": 1, "prompt": "" }), invalid("input.model"));

    rows.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(not_finite));
    rows.push(deep());
    rows
}

/// A number that JSON does not have.
fn not_finite(number: f64) -> Row {
    let mut request = submit("sim", json!({ "output": { "a": [1, 2] } }));
    let fields = &mut request.input.as_mut().unwrap().fields;
    fields.insert("output".to_owned(), Value { kind: Some(Kind::NumberValue(number)) });
    let what = format!("a number that is {number}");
    row("ExecutionService/SubmitExecution", what, request, invalid("input.output"))
}

/// Legal protobuf, but no reply could carry it.
fn deep() -> Row {
    let deep = (0..31).fold(json!(1), |inner, _| json!({ "a": inner }));
    let request = submit("sim", json!({ "output": deep }));
    let expected = invalid("input.output.a.a*").mentions("input_json");
    row("ExecutionService/SubmitExecution", "an input nested 32 deep", request, expected)
}

//! `http` against a server that says what it is told to.

use flowgate::pb::ErrorCode;
use serde_json::json;

use super::cells::{Protocol, matrix};
use super::matrix::{Gate, Started};
use crate::support::providers::{Replay, Reply};

const WORK: Protocol = Protocol {
    kind: "http",
    base: "/base",
    route: "POST /base/work",
    key: ("authorization", "Bearer "),
    input: || json!({ "path": "/work", "body": { "n": 1 } }),
    content_type: "text/plain",
    stream: "Hello\n there.\n",
    opening: 1,
    terminator: None,
    output: || {
        json!({
            "status": 200, "body": "Hello\n there.\n",
            "headers": { "content-type": "text/plain", "transfer-encoding": "chunked" },
        })
    },
    usage: None,
    refusal: |name, message| json!({ "code": name, "message": message }).to_string(),
    told: None,
};

matrix!(work, super::WORK);

async fn against(base: &str) -> (Replay, Started) {
    let replay = Replay::start().await;
    let gate = Gate::of("http", &(replay.url() + base)).start().await;
    (replay, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_input_is_refused_at_submit() {
    let gate = Gate::of("http", "http://127.0.0.1:9").start().await;
    for (input, field) in [
        (json!({ "method": "get" }), "input.method"),
        (json!({ "method": "CONNECT" }), "input.method"),
        (json!({ "path": "../x" }), "input.path"),
        (json!({ "path": "/a/%2e%2E/b" }), "input.path"),
        (json!({ "path": "/a/..%2fb" }), "input.path"),
        (json!({ "path": "//other/x" }), "input.path"),
        (json!({ "path": "/x#y" }), "input.path"),
        (json!({ "path": "\\\\other" }), "input.path"),
        (json!({ "path": "/x\r\nHost: y" }), "input.path"),
        (json!({ "path": 5 }), "input.path"),
        (json!({ "url": "http://other" }), "input.url"),
        (json!({ "headers": [] }), "input.headers"),
        (json!({ "headers": { "x": 5 } }), "input.headers"),
        (json!({ "headers": { "x": "a\nb" } }), "input.headers"),
        (json!({ "headers": { "": "a" } }), "input.headers"),
        (json!({ "headers": { "Host": "a" } }), "input.headers.Host"),
        (json!({ "headers": { "Transfer-Encoding": "a" } }), "input.headers.Transfer-Encoding"),
        (json!({ "headers": { "COOKIE": "a" } }), "input.headers.COOKIE"),
        (json!({ "headers": { "X-Auth-Token": "a" } }), "input.headers.X-Auth-Token"),
    ] {
        let fields = gate.refused_fields(input.clone()).await;
        assert_eq!(fields.len(), 1, "{input}: {fields:?}");
        // A name that is no identifier may stand in brackets.
        assert_eq!(fields[0].replace('[', ".").replace(']', ""), field, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out_of_the_base_url() {
    let (replay, gate) = against("/base/").await;
    for (path, target) in [
        ("", "/base/"),
        ("/", "/base/"),
        ("x/y?z=../w&v=http://other", "/base/x/y?z=../w&v=http://other"),
        ("?q", "/base/?q"),
        ("@other/x", "/base/@other/x"),
        (":80/x", "/base/:80/x"),
        ("/http://other/x", "/base/http://other/x"),
        ("/a%2Fb", "/base/a%2Fb"),
        ("/;/x", "/base/;/x"),
    ] {
        for method in ["GET", "DELETE"] {
            replay.always(
                &format!("{method} {}", target.split('?').next().unwrap()),
                Reply::new(204, "", ""),
            );
            gate.run(json!({ "method": method, "path": path })).await.success();
            let asked = replay.requests().pop().unwrap();
            assert_eq!((asked.method.as_str(), asked.target.as_str()), (method, target), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_out_and_come_back_as_what_they_are() {
    let (replay, gate) = against("").await;
    for (body, content_type, sent) in [
        (json!({ "a": 1 }), Some("application/json"), r#"{"a":1}"#),
        (json!([1]), Some("application/json"), "[1]"),
        (json!("text"), None, "text"),
        (json!(null), None, ""),
    ] {
        replay.on("POST /", Reply::json(200, &json!({ "ok": true })));
        let ended = gate.run(json!({ "method": "POST", "body": body })).await;
        assert_eq!(ended.success()["body"], json!({ "ok": true }));
        let asked = replay.requests().pop().unwrap();
        assert_eq!(asked.header("content-type"), content_type, "{body}");
        assert_eq!(String::from_utf8(asked.body.clone()).unwrap(), sent);
        assert!(asked.header("idempotency-key").is_some());
    }
    let problem = Reply::new(200, "application/problem+json; charset=utf-8", "\u{feff}{\"a\":1}");
    for (reply, body, encoding) in [
        (problem, json!({ "a": 1 }), None),
        (Reply::new(200, "application/json", "{broken"), json!("{broken"), None),
        (Reply::new(200, "image/png", b"\x89PNG".to_vec()), json!("iVBORw=="), Some("base64")),
        (Reply::new(204, "", ""), json!(""), None),
    ] {
        replay.on("GET /", reply);
        let output = gate.run(json!({})).await.success();
        assert_eq!(output["body"], body);
        assert_eq!(output.get("body_encoding").and_then(|it| it.as_str()), encoding);
    }
    replay.on("GET /", Reply::new(200, "text/plain", "x").header("Set-Cookie", "session=1"));
    let output = gate.run(json!({})).await.success();
    assert_eq!(output["headers"].get("set-cookie"), None, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_configured_wins_over_what_a_client_asks_for() {
    let replay = Replay::start().await;
    replay.always("GET /", Reply::new(200, "text/plain", ""));
    let gate = Gate::of("http", &replay.url());
    let gate = gate.with("headers = { x-tenant = 'ours', user-agent = 'gate' }").start().await;
    let headers = json!({ "X-Tenant": "theirs", "X-Other": "theirs", "User-Agent": "theirs" });
    gate.run(json!({ "headers": headers })).await.success();
    let asked = replay.request(0).await;
    let values = |name: &str| {
        let named = asked.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(values("x-tenant"), ["ours"]);
    assert_eq!(values("user-agent"), ["gate"]);
    assert_eq!(values("x-other"), ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_tells_of_a_failure_is_kept_with_it() {
    let (replay, gate) = against("").await;
    replay.on("GET /", Reply::json(422, &json!({ "message": "no", "fields": ["a"] })));
    let ended = gate.run(json!({})).await;
    ended.failed(ErrorCode::Permanent, "422 Unprocessable Entity: no");
    assert_eq!(ended.output()["body"]["fields"], json!(["a"]));
    assert_eq!(ended.details().get("partial_output"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_streamed_is_kept_too_when_it_breaks_off() {
    let (replay, gate) = against("").await;
    replay.on("GET /", Reply::new(200, "application/json", "{\"a\":1}").cut_after(4));
    let ended = gate.run(json!({})).await;
    ended.failed(ErrorCode::Transient, "broke off").kept_part();
    assert_eq!(ended.output()["body"], json!("{\"a\""));
    assert_eq!(ended.text(), "", "only texts are passed on while they come");
}

//! Background responses of `openai`, which no real server here speaks: every reply is written by
//! hand from the vendor's documentation.

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::matrix::{Gate, KEY, Started, json_of};
use crate::support::eventually;
use crate::support::providers::{Ending, Replay, Reply};

const START: &str = "POST /v1/responses";
const ASK: &str = "GET /v1/responses/resp_1";
const CANCEL: &str = "POST /v1/responses/resp_1/cancel";

fn input() -> Value {
    json!({ "model": "m", "input": "hi", "background": true })
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better without a `&`")]
fn response(status: &str, more: Value) -> Reply {
    let mut response = json!({
        "id": "resp_1", "object": "response", "status": status, "background": true,
        "error": null, "output": [], "usage": null,
    });
    response.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Reply::json(200, &response)
}

fn completed(status: &str) -> Reply {
    response(
        status,
        json!({
            "output": [{
                "type": "message", "role": "assistant",
                "content": [{ "type": "output_text", "text": "Hello there.", "annotations": [] }],
            }],
            "usage": { "input_tokens": 11, "output_tokens": 7, "total_tokens": 18 },
        }),
    )
}

fn refusal(status: u16, name: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "message": "so it is", "type": name, "code": null } }))
}

async fn gate(replay: &Replay) -> Started {
    Gate::of("openai", &(replay.url() + "/v1")).start().await
}

/// A response that was started and is worked on.
async fn under_way() -> (Replay, Started, String) {
    let replay = Replay::start().await;
    replay.always(START, response("queued", json!({})));
    replay.always(ASK, response("in_progress", json!({})));
    let gate = gate(&replay).await;
    let id = gate.submit_tried(input(), 4).await;
    replay.request(1).await;
    (replay, gate, id)
}

fn asked(replay: &Replay, route: &str) -> usize {
    let requests = replay.requests();
    requests.iter().filter(|it| format!("{} {}", it.method, it.path()) == route).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_started_once_and_asked_after_until_it_is_done() {
    for last in ["completed", "incomplete"] {
        let replay = Replay::start().await;
        replay.on(START, response("queued", json!({})));
        replay.on(ASK, response("queued", json!({})));
        replay.on(ASK, response("in_progress", json!({})));
        replay.on(ASK, completed(last));
        let gate = gate(&replay).await;
        let ended = gate.run(input()).await;
        assert_eq!(ended.success()["status"], json!(last));
        assert_eq!(ended.text(), "Hello there.");
        assert_eq!(ended.usage(), Some((11, 7)));
        let handle = ended.execution.attempts[0].handle.clone().unwrap();
        let id = handle.fields["response_id"].clone();
        assert_eq!(json_of(id), json!("resp_1"));
        let started = replay.request(0).await;
        assert_eq!(
            (&started.json()["stream"], &started.json()["store"]),
            (&json!(false), &json!(true))
        );
        let key = format!("Bearer {KEY}");
        assert!(replay.requests().iter().all(|it| it.header("authorization") == Some(&key)));
        assert_eq!(replay.requests().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_is_what_it_says() {
    let replay = Replay::start().await;
    let gate = gate(&replay).await;
    for (status, name, code) in [
        (400, "invalid_request_error", ErrorCode::Permanent),
        (401, "authentication_error", ErrorCode::Permanent),
        (404, "not_found_error", ErrorCode::Permanent),
        (429, "insufficient_quota", ErrorCode::Permanent),
        (500, "server_error", ErrorCode::Transient),
        (302, "", ErrorCode::Permanent),
    ] {
        replay.on(START, refusal(status, name));
        gate.run(input()).await.failed(code, &status.to_string());
    }
    for reply in [
        Reply::close(),
        Reply::json(200, &json!({ "status": "queued" })),
        Reply::new(200, "text/html", "<html>"),
        response("queued", json!({})).cut_after(20),
        response("queued", json!({})).truncated(20),
    ] {
        replay.on(START, reply);
        gate.run(input()).await.failed(ErrorCode::Transient, "");
    }
    replay.on(START, Reply::new(200, "application/json", "xxxx").endless());
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
    assert_eq!(asked(&replay, START), replay.requests().len(), "nothing was asked after");

    replay.on(START, refusal(429, "rate_limit_error").header("Retry-After", "1"));
    replay.on(START, response("queued", json!({})));
    replay.on(ASK, completed("completed"));
    let ended = gate.run(input()).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_failed_is_what_it_says() {
    let replay = Replay::start().await;
    replay.always(START, response("queued", json!({})));
    let gate = gate(&replay).await;
    for (code, becomes) in
        [("server_error", ErrorCode::Transient), ("invalid_prompt", ErrorCode::Permanent)]
    {
        let error = json!({ "error": { "code": code, "message": "it broke" } });
        replay.on(ASK, response("failed", error));
        let ended = gate.run(input()).await;
        ended.failed(becomes, "it broke");
        assert_eq!(ended.details()["handle"]["response_id"], json!("resp_1"));
    }
    let error = json!({ "error": { "code": "rate_limit_exceeded", "message": "slow" } });
    replay.on(ASK, response("failed", error));
    replay.on(ASK, completed("completed"));
    let ended = gate.run(input()).await;
    ended.success();
    let first = ended.execution.attempts[0].error.clone().unwrap();
    assert_eq!(first.code(), ErrorCode::RateLimited);

    replay.on(ASK, response("cancelled", json!({})));
    let ended = gate.run(input()).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    let error = ended.execution.error.unwrap();
    assert!(error.message.contains("cancelled at the provider"), "{error:?}");
    replay.on(ASK, refusal(404, "not_found_error"));
    gate.run(input()).await.failed(ErrorCode::Transient, "does not know the response");
    replay.on(ASK, refusal(401, "authentication_error"));
    gate.run(input()).await.failed(ErrorCode::Permanent, "401");
    replay.on(ASK, Reply::new(200, "application/json", "xxxx").endless());
    gate.run(input()).await.failed(ErrorCode::OutputTooLarge, "16 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_on_the_way_does_not_give_the_work_up() {
    let mut replay = Replay::start().await;
    replay.on(START, response("queued", json!({})));
    replay.on(ASK, refusal(500, "server_error"));
    replay.on(ASK, refusal(429, "rate_limit_error"));
    replay.on(ASK, Reply::close());
    replay.on(ASK, completed("completed").cut_after(40));
    let gate = gate(&replay).await;
    let id = gate.submit(input()).await;
    replay.request(4).await;
    replay.go_away().await;
    replay.on(ASK, completed("completed"));
    replay.come_back().await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!((ended.execution.attempts.len(), asked(&replay, START)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_it_is_stopped_at_the_provider() {
    let (replay, gate, id) = under_way().await;
    replay.on(CANCEL, response("cancelled", json!({})));
    gate.cancel(&id).await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    assert_eq!(ended.details()["stopped"], json!({ "by": "provider", "confirmed": true }));
    assert_eq!(ended.details()["handle"]["response_id"], json!("resp_1"));
    assert_eq!(asked(&replay, CANCEL), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_the_provider_refuses_is_told() {
    for (reply, confirmed, says) in [
        (refusal(500, "server_error"), false, "could not be asked"),
        (Reply::close(), false, "could not be asked"),
        (Reply::hang(), false, "did not answer"),
        (refusal(404, "not_found_error"), true, "knows of no such work"),
        (response("in_progress", json!({})), false, "was asked to stop"),
    ] {
        let (replay, gate, id) = under_way().await;
        replay.always(CANCEL, reply);
        gate.cancel(&id).await;
        let ended = gate.ended(&id).await;
        assert_eq!(ended.state(), ExecutionState::Cancelled);
        assert_eq!(ended.details()["stopped"]["confirmed"], json!(confirmed), "{says}");
        let error = ended.execution.error.unwrap();
        assert!(error.message.contains(says), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_over_before_its_cancellation_keeps_its_result() {
    let (replay, gate, id) = under_way().await;
    replay.on(CANCEL, completed("completed"));
    replay.always(ASK, completed("completed"));
    gate.cancel(&id).await;
    gate.ended(&id).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_while_it_is_started_it_is_stopped_once_its_id_is_known() {
    let replay = Replay::start().await;
    let (reply, mut pieces) = response("queued", json!({})).stepped();
    replay.on(START, reply);
    replay.on(CANCEL, response("cancelled", json!({})));
    let gate = gate(&replay).await;
    let id = gate.submit(input()).await;
    replay.request(0).await;
    gate.cancel(&id).await;
    assert!(pieces.next().await);
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    assert_eq!(ended.details()["stopped"], json!({ "by": "provider", "confirmed": true }));

    // Without an answer nobody knows whether there is anything to stop.
    replay.on(START, Reply::hang());
    let id = gate.submit(input()).await;
    replay.request(2).await;
    gate.cancel(&id).await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.details()["may_run_on"], json!(true));
    assert_eq!(replay.ended(2).await, Ending::ClientClosed);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_time_it_is_stopped_at_the_provider() {
    let replay = Replay::start().await;
    replay.always(START, response("queued", json!({})));
    replay.always(ASK, response("in_progress", json!({})));
    replay.on(CANCEL, response("cancelled", json!({})));
    let gate = gate(&replay).await;
    let id = gate.submit_within(input(), 400).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out; the provider stopped the work");
    assert_eq!(ended.details()["stopped"], json!({ "by": "provider", "confirmed": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_told() {
    let replay = Replay::start().await;
    let settings = format!("base_url = '{}/v1'\napi_key_env = 'NOT_SET'", replay.url());
    let gate = Gate::at("openai", &settings).start().await;
    gate.run(input()).await.failed(ErrorCode::Permanent, "the key is missing");
    assert!(replay.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_same_response_is_asked_after() {
    let (replay, mut gate, id) = under_way().await;
    gate.server.restart().await;
    let before = replay.requests().len();
    eventually("the new process asks after it", async || {
        (replay.requests().len() > before).then_some(())
    })
    .await;
    replay.always(ASK, completed("completed"));
    gate.ended(&id).await.success();
    assert_eq!(asked(&replay, START), 1, "the provider saw one response, not two");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_leads_nowhere_else() {
    let replay = Replay::start().await;
    replay.on(START, response("queued", json!({ "id": "../../v2/x?y#z" })));
    replay.on("GET /v1/responses/..%2F..%2Fv2%2Fx%3Fy%23z", completed("completed"));
    let gate = gate(&replay).await;
    gate.run(input()).await.success();
    replay.on(START, response("queued", json!({ "id": ".." })));
    let id = gate.submit_within(input(), 900).await;
    let (code, _) = gate.ended(&id).await.failure();
    assert!(matches!(code, ErrorCode::Transient | ErrorCode::Timeout), "{code:?}");
    assert_eq!(replay.requests().len(), 3, "{:?}", replay.requests());
}

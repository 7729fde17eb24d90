//! Langflow 1.13, by itself and through Flowgate.

use flowgate::pb::ErrorCode;
use serde_json::{Value, json};

use crate::jobs::{cancelled, handle, handles, was_stopped_there};
use crate::matrix::Gate;
use crate::prepared::{self, Prepared};
use crate::support::providers;

async fn run(langflow: &Prepared, flow: &str, text: &str) -> Value {
    let body = json!({ "flow_id": langflow.ids[flow], "input_value": text });
    let request = providers::http().post(format!("{}/api/v2/workflows", langflow.url));
    let request = request.header("x-api-key", &langflow.key).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_answers_with_its_text() {
    let langflow = prepared::langflow().await;
    let answer = run(langflow, "echo", "hi").await;
    assert_eq!(answer["status"], "completed", "{answer}");
    assert_eq!(answer["output"]["text"], "hi", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_fails_says_so_with_status_200() {
    let langflow = prepared::langflow().await;
    let answer = run(langflow, "step", "fail:on purpose").await;
    assert_eq!(answer["status"], "failed", "{answer}");
}

fn gate(langflow: &Prepared) -> Gate {
    let gate = Gate::at("langflow", &format!("base_url = {:?}", langflow.url));
    let gate = gate.with("api_key_env = 'LANGFLOW_KEY'\nmax_concurrent = 4");
    gate.config(|config| config.env("LANGFLOW_KEY", &langflow.key))
}

fn asked(langflow: &Prepared, flow: &str, text: &str) -> Value {
    json!({ "flow_id": langflow.ids[flow], "input_value": text })
}

/// Asserts that the job does not go on. Langflow may note a failure for one that it stopped.
async fn is_over(langflow: &Prepared, handle: &Value) {
    let id = handle["job_id"].as_str().unwrap();
    let url = format!("{}/api/v2/workflows?job_id={id}", langflow.url);
    let request = providers::http().get(url).header("x-api-key", &langflow.key);
    let job: Value = request.send().await.unwrap().json().await.unwrap();
    let failed = job["detail"]["code"] == "JOB_FAILED";
    assert!(job["status"] == "cancelled" || failed, "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_succeed_through_flowgate() {
    let langflow = prepared::langflow().await;
    let gate = gate(langflow).start().await;
    for (flow, text) in [("echo", "hi"), ("step", "step saw hi")] {
        let ended = gate.run(asked(langflow, flow, "hi")).await;
        assert_eq!(ended.success()["output"]["text"], text);
        assert_eq!(ended.text(), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_fail_through_flowgate() {
    let langflow = prepared::langflow().await;
    let started = gate(langflow).start().await;
    let ended = started.run(asked(langflow, "step", "fail:on purpose")).await;
    ended.failed(ErrorCode::Permanent, "step failed on purpose: on purpose");
    let unknown = json!({ "flow_id": "88c22553-d46d-4aef-bbc7-9a87e135594f" });
    started.run(unknown).await.failed(ErrorCode::Permanent, "Flow not found");

    let wrong = Gate::of("langflow", &langflow.url).start().await;
    let ended = wrong.run(asked(langflow, "echo", "hi")).await;
    ended.failed(ErrorCode::Permanent, "Invalid API key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_stopped_at_langflow() {
    let langflow = prepared::langflow().await;
    let gate = gate(langflow).start().await;
    let id = gate.submit(asked(langflow, "step", "sleep:60")).await;
    let first = handle(&gate, &id).await;
    was_stopped_there(&cancelled(&gate, &id).await);
    is_over(langflow, &first).await;

    let id = gate.submit_within(asked(langflow, "step", "sleep:60"), 1_500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "the provider stopped the work");
    was_stopped_there(&ended);
    is_over(langflow, &handles(&ended)[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_flowgate_takes_up_the_same_job() {
    let langflow = prepared::langflow().await;
    let mut gate = gate(langflow).start().await;
    let id = gate.submit(asked(langflow, "step", "sleep:3")).await;
    handle(&gate, &id).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success()["output"]["text"], "step saw sleep:3");
    let handles = handles(&ended);
    assert_eq!((handles.len(), &handles[0]), (2, &handles[1]));
}

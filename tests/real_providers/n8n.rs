//! n8n 2.41, by itself and through Flowgate.

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use crate::jobs::{cancelled, handle, handles, may_run_on, was_stopped_there};
use crate::matrix::Gate;
use crate::prepared::{self, HOOK_KEY, Prepared};
use crate::support::{eventually, providers};

async fn webhook(n8n: &Prepared, name: &str, body: &Value) -> reqwest::Response {
    let request = providers::http().post(format!("{}/webhook/{name}", n8n.url)).json(body);
    request.header("X-Hook-Key", HOOK_KEY).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_answers_with_what_its_last_node_made() {
    let n8n = prepared::n8n().await;
    let answer: Value = webhook(n8n, "echo", &json!({ "text": "hi" })).await.json().await.unwrap();
    assert_eq!(answer["result"], "echo:hi", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_answers_with_its_execution_which_the_api_tells_the_end_of() {
    let n8n = prepared::n8n().await;
    let answer = webhook(n8n, "async", &json!({ "text": "hi" })).await;
    assert_eq!(answer.status(), 202);
    let started: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let id = started["executionId"].as_str().unwrap();
    let url = format!("{}/api/v1/executions/{id}?includeData=true", n8n.url);
    let ended = eventually("the execution has ended", async || {
        let request = providers::http().get(&url).header("X-N8N-API-KEY", &n8n.key);
        let execution: Value = request.send().await.unwrap().json().await.unwrap();
        (execution["finished"] == true).then_some(execution)
    });
    let ended = ended.await;
    assert_eq!(ended["status"], "success");
    assert_eq!(ended["workflowId"], n8n.ids["async"].as_str());
}

fn gate(n8n: &Prepared) -> Gate {
    let gate = Gate::at("n8n", &format!("base_url = {:?}\nmax_concurrent = 4", n8n.url));
    let gate = gate.with("api_key_env = 'N8N_KEY'\nheaders = { X-Hook-Key = { env = 'HOOK' } }");
    gate.config(|config| config.env("N8N_KEY", &n8n.key).env("HOOK", HOOK_KEY))
}

fn asked(webhook: &str, mode: &str, text: &str, seconds: u32) -> Value {
    let body = json!({ "text": text, "mode": mode, "seconds": seconds });
    json!({ "webhook": webhook, "body": body })
}

async fn api(n8n: &Prepared, path: &str) -> Value {
    let request = providers::http().get(format!("{}/api/v1/executions{path}", n8n.url));
    let request = request.header("X-N8N-API-KEY", &n8n.key);
    request.send().await.unwrap().json().await.unwrap()
}

async fn status_of(n8n: &Prepared, handle: &Value) -> Value {
    let id = handle["execution_id"].as_str().unwrap();
    api(n8n, &format!("/{id}")).await["status"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_succeed_through_flowgate_in_either_way() {
    let n8n = prepared::n8n().await;
    let gate = gate(n8n).start().await;
    let items = gate.run(asked("async", "echo", "hi", 0)).await.success();
    assert_eq!(items[0]["result"], "step saw hi", "{items}");
    assert_eq!(items.as_array().map(Vec::len), Some(1), "{items}");
    let answer = gate.run(asked("echo", "echo", "hi", 0)).await.success();
    assert_eq!(answer["result"], "echo:hi", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_fail_through_flowgate_in_either_way() {
    let n8n = prepared::n8n().await;
    let gate = gate(n8n).start().await;
    let ended = gate.run(asked("async", "fail", "boom", 0)).await;
    ended.failed(ErrorCode::Permanent, "workflow failed on purpose: boom");
    let ended = gate.run(asked("step", "fail", "boom", 0)).await;
    ended.failed(ErrorCode::Permanent, "Error in workflow");
    gate.run(asked("nope", "echo", "hi", 0)).await.failed(ErrorCode::Permanent, "not registered");

    let wrong = Gate::of("n8n", &n8n.url).start().await;
    let ended = wrong.run(asked("async", "echo", "hi", 0)).await;
    ended.failed(ErrorCode::Permanent, "401 Unauthorized");
    let ended = wrong.run(asked("echo", "echo", "hi", 0)).await;
    ended.failed(ErrorCode::Permanent, "Authorization data is wrong!");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_stopped_at_n8n_and_a_webhook_that_waits_is_not() {
    let n8n = prepared::n8n().await;
    let gate = gate(n8n).start().await;
    let id = gate.submit(asked("async", "sleep", "long", 60)).await;
    let first = handle(&gate, &id).await;
    was_stopped_there(&cancelled(&gate, &id).await);
    assert_eq!(status_of(n8n, &first).await, "canceled");

    let id = gate.submit_within(asked("async", "sleep", "long", 60), 1_500).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "the provider stopped the work");
    was_stopped_there(&ended);
    assert_eq!(status_of(n8n, &handles(&ended)[0]).await, "canceled");

    let id = gate.submit(asked("step", "sleep", "goes on", 6)).await;
    let running =
        async || (gate.server.get(&id).await.state() == ExecutionState::Running).then_some(());
    eventually("it runs", running).await;
    may_run_on(&cancelled(&gate, &id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_flowgate_takes_up_the_same_execution() {
    let n8n = prepared::n8n().await;
    let mut gate = gate(n8n).start().await;
    let mark = uuid::Uuid::new_v4().to_string();
    let id = gate.submit(asked("async", "sleep", &mark, 3)).await;
    handle(&gate, &id).await;
    gate.server.kill9();
    gate.server.restart().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success()[0]["result"], json!(format!("step saw {mark}")));
    let handles = handles(&ended);
    assert_eq!((handles.len(), &handles[0]), (2, &handles[1]));
    let path = format!("?includeData=true&limit=250&workflowId={}", n8n.ids["async"]);
    let executions = api(n8n, &path).await.to_string();
    let asked = format!("\"mode\":\"sleep\",\"seconds\":3,\"text\":{mark:?}");
    assert_eq!(executions.matches(&asked).count(), 1, "n8n saw one execution");
}

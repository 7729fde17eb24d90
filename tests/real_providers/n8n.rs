//! n8n 2.41.

use serde_json::{Value, json};

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

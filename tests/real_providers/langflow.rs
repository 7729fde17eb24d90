//! Langflow 1.13.

use serde_json::{Value, json};

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

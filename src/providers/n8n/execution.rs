//! One execution of a workflow: begun by its webhook, followed and stopped through the API.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{API_RULES, WEBHOOK_RULES};
use crate::domain::{ErrorCode, Failure, FailureKind, Handle};
use crate::providers::remote::{
    Cancelled, Job, Lost, Pauses, Progress, Redactor, Remote, Request, Started, id_in_path,
    permanent, transient, without_mark,
};
use crate::providers::{AttemptFailure, Call, Success};

/// A webhook that answers with an id does so before its workflow works.
const LEARN: Duration = Duration::from_secs(2);
/// How long n8n may not know an execution yet that it has told of.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// The execution of one attempt.
#[derive(Debug)]
pub(super) struct Execution<'p> {
    remote: &'p Remote,
}

impl<'p> Execution<'p> {
    pub(super) fn new(remote: &'p Remote) -> Self {
        Self { remote }
    }

    async fn ask(&self, handle: &Handle, query: &str) -> Result<Option<Value>, AttemptFailure> {
        let request = Request::get(format!("{}{query}", path(handle)?)).told_as(EXECUTION);
        let route = self.remote.route(handle.id("endpoint").as_deref()).await?;
        let answer = route.send(&request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.accepted(API_RULES).await?.json().await.map(Some)
    }

    /// The execution with its data, once it is over.
    async fn ended(&self, handle: &Handle) -> Result<Value, Lost> {
        let execution = self.ask(handle, "?includeData=true").await.map_err(Lost::asking)?;
        execution.ok_or_else(|| Lost::Failed(forgotten()))
    }
}

#[async_trait]
impl Job for Execution<'_> {
    fn remote(&self) -> &Remote {
        self.remote
    }

    fn starts_once(&self) -> bool {
        false
    }

    fn learns_within(&self) -> Duration {
        LEARN
    }

    async fn start(&self, call: &Call) -> Result<Started, AttemptFailure> {
        let text = |name: &str| call.input.get(name).and_then(Value::as_str);
        let webhook = text("webhook").unwrap_or_default().trim_start_matches('/');
        let method = text("method").and_then(|method| method.parse().ok());
        let mut request =
            Request::new(method.unwrap_or(Method::POST), format!("webhook/{webhook}"))
                // Often its path is all that a webhook is protected by.
                .told_as("webhook/{webhook}")
                .without_key();
        if let Some(body) = call.input.get("body") {
            request = request.json(body.clone());
        }
        let request = request.traced(call.trace.as_ref()).headers(call.input.get("headers"));
        let (route, answer) = self.remote.first(&request).await?;
        let answer = answer.accepted(WEBHOOK_RULES).await?;
        let is_json = answer.is_json();
        let body = answer.bytes().await?;
        let value: Option<Value> = serde_json::from_slice(without_mark(&body)).ok();
        // The content type of such an answer may be anything.
        match value.as_ref().and_then(execution_id).filter(|_| self.remote.has_key()) {
            Some(id) => Ok(Started::at(route.url(), [("execution_id", &id)])),
            None => {
                let output = value.filter(|value| is_json || is_composed(value));
                let output = output.unwrap_or_else(|| unread(body, &self.remote.redactor()));
                Ok(Started::Over(Success::new(output, None)))
            }
        }
    }

    async fn follow(&self, handle: &Handle, _: &Call, _: &Progress) -> Result<Success, Lost> {
        let asked = Instant::now();
        let mut pauses = Pauses::polling();
        loop {
            // Without its data, which grows and may be large.
            let execution = self.ask(handle, "").await.map_err(Lost::asking)?;
            let status = execution.as_ref().map(status);
            match status.unwrap_or_default() {
                "success" => {
                    let output = last_items(&self.ended(handle).await?);
                    return Ok(Success::new(output, None));
                }
                "error" | "crashed" | "canceled" => {
                    return Err(Lost::Failed(failure(&self.ended(handle).await?)));
                }
                _ if execution.is_none() && asked.elapsed() > APPEARS_WITHIN => {
                    return Err(Lost::Failed(forgotten()));
                }
                // New, running, waiting for something, or what only a later version of it knows.
                _ => pauses.pause(None).await,
            }
        }
    }

    async fn cancel(&self, handle: &Handle) -> Result<Cancelled, AttemptFailure> {
        let request = Request::new(Method::POST, format!("{}/stop", path(handle)?))
            .told_as("api/v1/executions/{execution_id}/stop");
        let route = self.remote.route(handle.id("endpoint").as_deref()).await?;
        let answer = route.send(&request).await?;
        match answer.status() {
            StatusCode::CONFLICT => return Ok(Cancelled::Over),
            // One that has just begun is not known at once, and one that runs elsewhere not to be stopped.
            StatusCode::NOT_FOUND => {
                return match self.ask(handle, "").await? {
                    None => Err(transient("n8n does not know the execution")),
                    Some(execution) => Ok(match status(&execution) {
                        "success" | "error" | "crashed" | "canceled" => Cancelled::Over,
                        _ => Cancelled::Requested,
                    }),
                };
            }
            _ => {}
        }
        let execution = answer.accepted(API_RULES).await?.json().await?;
        Ok(match status(&execution) {
            "canceled" => Cancelled::Confirmed,
            _ => Cancelled::Requested,
        })
    }
}

/// The id in an answer that tells of an execution.
fn execution_id(answer: &Value) -> Option<String> {
    match answer.get("executionId")? {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

fn is_composed(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

/// An answer that is not JSON.
fn unread(body: Vec<u8>, redactor: &Redactor) -> Value {
    match String::from_utf8(body) {
        Ok(text) if text.is_empty() => Value::Null,
        Ok(text) => text.into(),
        Err(error) => {
            let mut body = error.into_bytes();
            redactor.bytes(&mut body);
            json!({"body": STANDARD.encode(body), "body_encoding": "base64"})
        }
    }
}

fn status(execution: &Value) -> &str {
    execution.get("status").and_then(Value::as_str).unwrap_or_default()
}

/// What the last node to run put out in its last run: a list, whatever the number of items. Null if
/// n8n kept no data.
fn last_items(execution: &Value) -> Value {
    let Some(result) = execution.pointer("/data/resultData") else {
        return Value::Null;
    };
    let last = || {
        let node = result.get("lastNodeExecuted")?.as_str()?;
        result.get("runData")?.get(node)?.as_array()?.last()?.pointer("/data/main")?.as_array()
    };
    let outputs = last().into_iter().flatten();
    let items = outputs.filter_map(Value::as_array).flatten();
    items.filter_map(|item| item.get("json")).cloned().collect::<Vec<_>>().into()
}

/// What an execution that ended without success means.
fn failure(execution: &Value) -> AttemptFailure {
    let error = execution.pointer("/data/resultData/error");
    let text = |name: &str| error?.get(name)?.as_str();
    let message = text("message").unwrap_or("the execution failed without saying why");
    let failed = match (status(execution), text("reason")) {
        ("canceled", None) if error.is_none() => cancelled(),
        ("canceled", Some("manual")) => cancelled(),
        ("canceled", Some("shutdown")) | ("crashed", _) => transient(message),
        // By the workflow's own time limit.
        ("canceled", _) => permanent(format!("n8n stopped the execution: {message}")),
        _ => permanent(message),
    };
    let node = execution.pointer("/data/resultData/lastNodeExecuted").and_then(Value::as_str);
    let said = json!({"names": text("name").as_slice(), "message": message, "node": node});
    failed.with_detail("provider_error", said)
}

fn cancelled() -> AttemptFailure {
    let message = "the execution was cancelled at the provider";
    let failure = Failure::new(ErrorCode::Cancelled, false, message);
    AttemptFailure::new(FailureKind::Cancelled, failure)
}

/// It is not begun anew: it may have done its work.
fn forgotten() -> AttemptFailure {
    permanent("n8n does not know the execution; does the workflow save its executions?")
}

/// What is told of the path of an execution.
const EXECUTION: &str = "api/v1/executions/{execution_id}";

fn path(handle: &Handle) -> Result<String, AttemptFailure> {
    Ok(format!("api/v1/executions/{}", id_in_path(handle, "execution_id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_what_the_last_run_of_the_last_node_put_out() {
        let run = |items: Value| json!({"data": {"main": items}});
        let execution = json!({"data": {"resultData": {"lastNodeExecuted": "Work", "runData": {
            "Webhook": [run(json!([[{"json": {"a": 0}}]]))],
            "Work": [
                run(json!([[{"json": {"a": 1}}]])),
                run(json!([null, [{"json": {"a": 2}, "pairedItem": {}}, {"json": {"a": 3}}]])),
            ],
        }}}});
        assert_eq!(last_items(&execution), json!([{"a": 2}, {"a": 3}]));
        let empty = json!({"data": {"resultData": {"lastNodeExecuted": "X", "runData": {}}}});
        assert_eq!(last_items(&empty), json!([]));
        assert_eq!(last_items(&json!({"status": "success"})), Value::Null);
    }

    #[test]
    fn why_an_execution_ended_decides_what_it_means() {
        let kind = |status: &str, error: Value| {
            let data = json!({"resultData": {"error": error, "lastNodeExecuted": "Work"}});
            failure(&json!({"status": status, "data": data})).kind
        };
        assert_eq!(kind("error", json!({"message": "boom"})), FailureKind::Permanent);
        assert_eq!(kind("crashed", json!({"message": "gone"})), FailureKind::Transient);
        assert_eq!(kind("canceled", json!({"reason": "manual"})), FailureKind::Cancelled);
        assert_eq!(kind("canceled", json!({"reason": "timeout"})), FailureKind::Permanent);
        assert_eq!(kind("canceled", json!({"reason": "shutdown"})), FailureKind::Transient);
        assert_eq!(kind("canceled", json!({"message": "Task cancelled"})), FailureKind::Permanent);
        assert_eq!(failure(&json!({"status": "canceled"})).kind, FailureKind::Cancelled);
    }

    #[test]
    fn an_id_is_a_text_or_a_number() {
        assert_eq!(execution_id(&json!({"executionId": "4"})).as_deref(), Some("4"));
        assert_eq!(execution_id(&json!({"executionId": 4})).as_deref(), Some("4"));
        for none in [json!({"executionId": ""}), json!({"executionId": {}}), json!("4"), json!({})]
        {
            assert_eq!(execution_id(&none), None, "{none}");
        }
    }

    #[test]
    fn an_answer_that_is_not_json_is_kept_as_it_is() {
        let unread = |body: &[u8]| unread(body.to_vec(), &Redactor::default());
        assert_eq!(unread(b"done"), json!("done"));
        assert_eq!(unread(b""), Value::Null);
        assert_eq!(unread(b"\xff"), json!({"body": "/w==", "body_encoding": "base64"}));
    }
}

//! One background job: started, followed, stopped.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::RULES;
use super::messages::Messages;
use crate::domain::{ErrorCode, Failure, FailureKind, Handle, Usage};
use crate::providers::remote::{
    Answer, Cancelled, Heard, Job, Lost, Pauses, Progress, Remote, Request, Route, Started, broken,
    id_in_path, told, transient,
};
use crate::providers::{AttemptFailure, Call, Success};

const WORKFLOWS: &str = "api/v2/workflows";
/// How long a start is repeated that Langflow says another one is in the way of.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// The job of one attempt.
#[derive(Debug)]
pub(super) struct Flow<'p> {
    remote: &'p Remote,
    /// The endpoint that the start was sent to: another may not know its key.
    sent_to: OnceLock<String>,
    heard: Heard<Messages>,
}

impl<'p> Flow<'p> {
    pub(super) fn new(remote: &'p Remote) -> Self {
        Self { remote, sent_to: OnceLock::new(), heard: Heard::default() }
    }

    async fn route(&self, handle: &Handle) -> Result<Route<'_>, AttemptFailure> {
        self.remote.route(handle.id("endpoint").as_deref()).await
    }

    /// The job, or its response once it is over.
    async fn ask(&self, handle: &Handle) -> Result<Value, Lost> {
        let path = format!("{WORKFLOWS}?job_id={}", id_in_path(handle, "job_id").map_err(failed)?);
        let route = self.route(handle).await.map_err(Lost::asking)?;
        let answer =
            route.send(&Request::get(path).told_as(WORKFLOWS)).await.map_err(Lost::asking)?;
        let refused = (!answer.status().is_success()).then(|| answer.verdict());
        let bytes = answer.bytes().await.map_err(Lost::asking)?;
        let body = serde_json::from_slice::<Value>(&bytes);
        let Some(verdict) = refused else {
            let unread = |error| broken(format!("the answer is not JSON: {error}"));
            return body.map_err(|error| Lost::asking(unread(error)));
        };
        let body = body.unwrap_or_default();
        match body.pointer("/detail/code").and_then(Value::as_str) {
            Some("JOB_FAILED") => Err(failed(failure(&body))),
            // The way to the job does not pass by waiting, and neither does this.
            Some("EXECUTION_TIMEOUT") => Err(failed(verdict.of(RULES, &bytes))),
            Some("JOB_NOT_FOUND") => Err(failed(transient("the provider does not know the job"))),
            _ => Err(Lost::asking(verdict.of(RULES, &bytes))),
        }
    }

    async fn success(&self, response: Value, progress: &Progress) -> Success {
        let text = response.pointer("/output/text").and_then(Value::as_str);
        if let Some(text) = text.filter(|_| self.heard.with(|messages| messages.text.is_empty())) {
            progress.text(text).await;
        }
        Success::new(response, self.usage())
    }
}

#[async_trait]
impl Job for Flow<'_> {
    fn remote(&self) -> &Remote {
        self.remote
    }

    fn starts_once(&self) -> bool {
        true
    }

    async fn start(&self, call: &Call) -> Result<Started, AttemptFailure> {
        let mut body = call.input.clone();
        body.insert("mode".to_owned(), "background".into());
        body.insert("idempotency_key".to_owned(), call.key.to_string().into());
        let request = Request::post(WORKFLOWS, body.into()).traced(call.trace.as_ref());
        let (mut pauses, asked) = (Pauses::polling(), Instant::now());
        loop {
            let (route, answer) = self.remote.start(&request, &self.sent_to).await?;
            // A request with the same key is being worked on; its job is ours.
            if answer.status() != StatusCode::CONFLICT || asked.elapsed() > STARTS_WITHIN {
                return started(&route, answer).await;
            }
            drop(route);
            pauses.pause(None).await;
        }
    }

    async fn follow(
        &self,
        handle: &Handle,
        _: &Call,
        progress: &Progress,
    ) -> Result<Success, Lost> {
        let job = id_in_path(handle, "job_id").map_err(Lost::Failed)?;
        let events = Request::get(format!("{WORKFLOWS}/{job}/events"))
            .told_as("api/v2/workflows/{job_id}/events");
        let mut pauses = Pauses::polling();
        loop {
            let route = self.route(handle).await.map_err(Lost::asking)?;
            self.heard.listen(&route, events.clone(), None, progress).await;
            drop(route);
            let job = self.ask(handle).await?;
            match job.get("status").and_then(Value::as_str).unwrap_or_default() {
                "completed" if job.get("has_errors") != Some(&Value::Bool(true)) => {
                    return Ok(self.success(job, progress).await);
                }
                "completed" | "failed" => {
                    let error = job.pointer("/errors/0").cloned().unwrap_or_default();
                    let told = told(RULES, 422, &error);
                    return Err(failed(AttemptFailure { output: Some(job), ..told }));
                }
                "cancelled" => {
                    let message = "the job was cancelled at the provider";
                    let failure = Failure::new(ErrorCode::Cancelled, false, message);
                    return Err(failed(AttemptFailure::new(FailureKind::Cancelled, failure)));
                }
                // Queued, in progress, suspended until somebody decides, or something that only a
                // later version of it knows.
                _ => pauses.pause(None).await,
            }
        }
    }

    async fn cancel(&self, handle: &Handle) -> Result<Cancelled, AttemptFailure> {
        let body = json!({"job_id": handle.id("job_id")});
        let request = Request::post("api/v2/workflows/stop", body);
        let answer = self.route(handle).await?.send(&request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Cancelled::Unknown);
        }
        let stopped = answer.accepted(RULES).await?.json().await?;
        let message = stopped.get("message").and_then(Value::as_str).unwrap_or_default();
        Ok(match message {
            over if over.contains("already finished") => Cancelled::Over,
            stopped if stopped.contains("cancelled") => Cancelled::Confirmed,
            _ => Cancelled::Requested,
        })
    }

    async fn salvage(&self, _: &Handle) -> Option<Value> {
        let text = self.heard.with(|messages| messages.text.clone());
        (!text.is_empty()).then(|| json!({"output": {"text": text}}))
    }

    fn usage(&self) -> Option<Usage> {
        self.heard.with(|messages| messages.usage)
    }
}

async fn started(route: &Route<'_>, answer: Answer) -> Result<Started, AttemptFailure> {
    let job = answer.accepted(RULES).await?.json().await?;
    match job.get("job_id").and_then(Value::as_str) {
        Some(id) => Ok(Started::at(route.url(), [("job_id", id)])),
        None => Err(broken("the answer does not tell the id of the job")),
    }
}

const fn failed(failed: AttemptFailure) -> Lost {
    Lost::Failed(failed)
}

/// What a job failed with, as the answer to a question after it tells.
fn failure(body: &Value) -> AttemptFailure {
    let detail = |name: &str| body.pointer("/detail/error_detail")?.get(name)?.as_str();
    let message = ["text", "message", "error"].into_iter().find_map(detail);
    let message = message.or_else(|| body.pointer("/detail/message")?.as_str());
    let name = detail("type").unwrap_or("JOB_FAILED");
    told(RULES, 422, &json!({"type": name, "message": message.map(str::trim)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_says_why_in_either_protocol() {
        let message = |error_detail: Value| {
            let detail = json!({"error": "Job failed", "code": "JOB_FAILED",
                "message": "Job 1 has failed execution.", "error_detail": error_detail});
            let AttemptFailure { kind, failure, .. } = failure(&json!({"detail": detail}));
            (kind, failure.message)
        };
        let langflow = json!({"text_key": "text", "text": "step failed\n", "data": {}});
        assert_eq!(message(langflow), (FailureKind::Permanent, "step failed".to_owned()));
        let agui = json!({"type": "RUN_ERROR", "message": "step failed"});
        assert_eq!(message(agui), (FailureKind::Permanent, "step failed".to_owned()));
        let (kind, _) = message(json!({"type": "worker_lost"}));
        assert_eq!(kind, FailureKind::Transient);
        assert_eq!(message(Value::Null).1, "Job 1 has failed execution.");
    }
}

//! One run: begun, followed, stopped.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::RULES;
use super::messages::{Messages, usage_within};
use crate::domain::{ErrorCode, Failure, FailureKind, Handle, Usage};
use crate::providers::remote::{
    Cancelled, Heard, Job, Lost, Pauses, Progress, Remote, Request, Route, Started, broken,
    id_in_path, told, transient,
};
use crate::providers::{AttemptFailure, Call, Success};

/// How long the server may take to see a run stopped; then it was asked, no more.
const STOPS_WITHIN: Duration = Duration::from_secs(4);

/// The run of one attempt.
#[derive(Debug)]
pub(super) struct Run<'p> {
    remote: &'p Remote,
    /// The endpoint that the start was sent to: another may not know its thread.
    sent_to: OnceLock<String>,
    /// What the messages that were handed in say of their usage, which is not this run's.
    handed_in: Option<Usage>,
    heard: Heard<Messages>,
}

impl<'p> Run<'p> {
    pub(super) fn new(remote: &'p Remote, input: &Map<String, Value>) -> Self {
        let handed_in = input.get("input").and_then(usage_within);
        Self { remote, sent_to: OnceLock::new(), handed_in, heard: Heard::default() }
    }

    async fn route(&self, handle: &Handle) -> Result<Route<'_>, AttemptFailure> {
        self.remote.route(handle.id("endpoint").as_deref()).await
    }

    async fn ask(&self, handle: &Handle) -> Result<Option<Value>, AttemptFailure> {
        let request = Request::get(path(handle)?).told_as("threads/{thread_id}/runs/{run_id}");
        let answer = self.route(handle).await?.send(&request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.accepted(RULES).await?.json().await.map(Some)
    }

    /// The state in which the run left its thread.
    async fn state(&self, handle: &Handle) -> Result<Value, AttemptFailure> {
        let path = format!("threads/{}/state", id_in_path(handle, "thread_id")?);
        let request = Request::get(path).told_as("threads/{thread_id}/state");
        let answer = self.route(handle).await?.send(&request).await?;
        answer.accepted(RULES).await?.json().await
    }

    fn success(&self, mut state: Value) -> Success {
        let usage = self.usage().or_else(|| {
            let mut usage = usage_within(state.get("values")?)?;
            let known = self.handed_in.unwrap_or_default();
            usage.input_tokens = usage.input_tokens.saturating_sub(known.input_tokens).max(0);
            usage.output_tokens = usage.output_tokens.saturating_sub(known.output_tokens).max(0);
            Some(usage)
        });
        Success::new(output(&mut state), usage)
    }

    /// What the run failed with: as its stream told, or as it tells who waits for it.
    async fn failure(&self, handle: &Handle) -> AttemptFailure {
        let error = self.heard.with(|messages| messages.error.clone());
        let error = match error {
            Some(error) => Some(error),
            None => self.joined(handle).await.ok(),
        };
        let text = |name: &str| error.as_ref()?.get(name)?.as_str();
        let (name, message) = (text("error"), text("message").or(text("error")));
        // As a request would fail that cannot be done: what no rule names is the graph's fault.
        told(RULES, 422, &json!({"type": name, "message": message.unwrap_or("the run failed")}))
    }

    async fn joined(&self, handle: &Handle) -> Result<Value, AttemptFailure> {
        let request = Request::get(format!("{}/join", path(handle)?))
            .told_as("threads/{thread_id}/runs/{run_id}/join");
        let answer = self.route(handle).await?.send(&request).await?;
        let mut state = answer.accepted(RULES).await?.json().await?;
        Ok(taken(&mut state, "__error__"))
    }
}

#[async_trait]
impl Job for Run<'_> {
    fn remote(&self) -> &Remote {
        self.remote
    }

    fn starts_once(&self) -> bool {
        true
    }

    async fn start(&self, call: &Call) -> Result<Started, AttemptFailure> {
        let thread = call.key.to_string();
        let metadata = json!({"flowgate_execution_id": call.execution.to_string()});
        let own = json!({"thread_id": thread, "if_exists": "do_nothing", "metadata": metadata});
        let (route, answer) =
            self.remote.start(&Request::post("threads", own), &self.sent_to).await?;
        answer.accepted(RULES).await?.json().await?;
        let run = match begun(&route, &thread).await? {
            Some(run) => run,
            None => begin(&route, &thread, call).await?,
        };
        let Some(run) = run.get("run_id").and_then(Value::as_str) else {
            return Err(broken("the answer does not tell the id of the run"));
        };
        Ok(Started::at(route.url(), [("thread_id", &thread), ("run_id", run)]))
    }

    async fn follow(
        &self,
        handle: &Handle,
        _: &Call,
        progress: &Progress,
    ) -> Result<Success, Lost> {
        let stream = Request::get(format!("{}/stream", path(handle).map_err(Lost::Failed)?))
            .told_as("threads/{thread_id}/runs/{run_id}/stream");
        let mut pauses = Pauses::polling();
        loop {
            let route = self.route(handle).await.map_err(Lost::asking)?;
            // From the first event on.
            self.heard.listen(&route, stream.clone(), Some("-1"), progress).await;
            drop(route);
            let Some(run) = self.ask(handle).await.map_err(Lost::asking)? else {
                return Err(Lost::Failed(transient("the provider does not know the run")));
            };
            match run.get("status").and_then(Value::as_str).unwrap_or_default() {
                "error" => return Err(Lost::Failed(self.failure(handle).await)),
                status @ ("success" | "interrupted") => {
                    let state = self.state(handle).await.map_err(Lost::asking)?;
                    // Interrupted by its graph, which asks somebody, or by somebody.
                    if status == "interrupted" && interrupts(&state).is_empty() {
                        return Err(Lost::Failed(cancelled()));
                    }
                    return Ok(self.success(state));
                }
                "timeout" => {
                    let message = "the run took longer than the provider lets it";
                    let failure = Failure::new(ErrorCode::Timeout, true, message);
                    let failed = AttemptFailure::new(FailureKind::Transient, failure);
                    return Err(Lost::Failed(failed));
                }
                // Pending, running, or something that only a later version of it knows.
                _ => pauses.pause(None).await,
            }
        }
    }

    async fn cancel(&self, handle: &Handle) -> Result<Cancelled, AttemptFailure> {
        let path = format!("{}/cancel?wait=1&action=interrupt", path(handle)?);
        let route = self.route(handle).await?;
        let request =
            Request::new(Method::POST, path).told_as("threads/{thread_id}/runs/{run_id}/cancel");
        let Ok(answer) = tokio::time::timeout(STOPS_WITHIN, route.send(&request)).await else {
            return Ok(Cancelled::Requested);
        };
        let answer = answer?;
        match answer.status() {
            StatusCode::ACCEPTED => Ok(Cancelled::Requested),
            // Of a run that is over and of one that never was it says nearly the same.
            StatusCode::NOT_FOUND => Ok(match self.ask(handle).await? {
                Some(_) => Cancelled::Over,
                None => Cancelled::Unknown,
            }),
            _ => answer.accepted(RULES).await.map(|_| Cancelled::Confirmed),
        }
    }

    async fn salvage(&self, handle: &Handle) -> Option<Value> {
        let mut state = self.state(handle).await.ok()?;
        let values = taken(&mut state, "values");
        let is_empty = values.is_null() || values.as_object().is_some_and(Map::is_empty);
        (!is_empty).then_some(values)
    }

    fn usage(&self) -> Option<Usage> {
        self.heard.with(|messages| messages.usage)
    }
}

/// The run that was begun on a thread, if one was.
async fn begun(route: &Route<'_>, thread: &str) -> Result<Option<Value>, AttemptFailure> {
    let request = Request::get(format!("threads/{thread}/runs")).told_as(RUNS);
    let answer = route.send(&request).await?;
    let runs = answer.accepted(RULES).await?.json().await?;
    let Value::Array(mut runs) = runs else {
        return Err(broken("the answer is not a list of runs"));
    };
    // The newest comes first. What others did on the thread came later.
    Ok(runs.pop())
}

async fn begin(route: &Route<'_>, thread: &str, call: &Call) -> Result<Value, AttemptFailure> {
    let mut body = call.input.clone();
    let metadata = body.get("metadata").and_then(Value::as_object);
    let mut metadata = metadata.cloned().unwrap_or_default();
    metadata.insert("flowgate_execution_id".to_owned(), call.execution.to_string().into());
    metadata.insert("flowgate_attempt".to_owned(), call.attempt.into());
    body.extend([
        ("metadata".to_owned(), metadata.into()),
        ("multitask_strategy".to_owned(), "reject".into()),
        ("stream_resumable".to_owned(), true.into()),
        ("stream_mode".to_owned(), json!(["messages-tuple", "custom"])),
    ]);
    let request = Request::post(format!("threads/{thread}/runs"), body.into()).told_as(RUNS);
    let answer = route.send(&request.traced(call.trace.as_ref())).await?;
    if answer.status() == StatusCode::CONFLICT {
        // Begun by a request of which only the answer was lost.
        if let Some(run) = begun(route, thread).await? {
            return Ok(run);
        }
    }
    answer.accepted(RULES).await?.json().await
}

/// The values of a state. Where the graph waits for somebody, `__interrupt__` among them says for
/// what.
fn output(state: &mut Value) -> Value {
    let waits = !list(state, "next").is_empty();
    let asked = interrupts(state);
    let values = taken(state, "values");
    match (waits || !asked.is_empty(), values) {
        (false, values) => values,
        (true, Value::Object(mut values)) => {
            values.insert("__interrupt__".to_owned(), asked.into());
            values.into()
        }
        (true, values) => json!({"values": values, "__interrupt__": asked}),
    }
}

/// What the graph asks of somebody.
fn interrupts(state: &Value) -> Vec<Value> {
    list(state, "tasks").iter().flat_map(|task| list(task, "interrupts")).collect()
}

fn list(value: &Value, name: &str) -> Vec<Value> {
    value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn taken(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

fn cancelled() -> AttemptFailure {
    let message = "the run was cancelled at the provider";
    AttemptFailure::new(FailureKind::Cancelled, Failure::new(ErrorCode::Cancelled, false, message))
}

/// What is told of the path of the runs of a thread.
const RUNS: &str = "threads/{thread_id}/runs";

fn path(handle: &Handle) -> Result<String, AttemptFailure> {
    let (thread, run) = (id_in_path(handle, "thread_id")?, id_in_path(handle, "run_id")?);
    Ok(format!("threads/{thread}/runs/{run}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_waits_says_so_in_its_output() {
        let mut state = json!({"values": {"text": "b"}, "next": [], "tasks": []});
        assert_eq!(output(&mut state), json!({"text": "b"}));
        let asked = json!({"id": "1", "value": {"question": "b"}});
        let tasks = json!([{"name": "work", "interrupts": [asked]}]);
        let mut state = json!({"values": {"text": "b"}, "next": ["work"], "tasks": tasks});
        assert_eq!(output(&mut state), json!({"text": "b", "__interrupt__": [asked]}));
        let mut state = json!({"values": [1], "next": ["work"], "tasks": []});
        assert_eq!(output(&mut state), json!({"values": [1], "__interrupt__": []}));
        assert_eq!(output(&mut json!({})), Value::Null);
    }
}

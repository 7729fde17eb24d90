//! Responses that the provider works on in the background. The id of the response is the handle.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::responses::{ended, text_of, usage_of};
use super::{REQUEST_ID, RULES};
use crate::domain::Handle;
use crate::providers::remote::{
    Cancelled, Job, Lost, Pauses, Progress, Remote, Request, Started, broken, id_in_path, transient,
};
use crate::providers::{AttemptFailure, Call, Success};

/// Pauses between questions after a response.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The work of one attempt.
#[derive(Debug)]
pub(super) struct Background<'p> {
    remote: &'p Remote,
}

impl<'p> Background<'p> {
    pub(super) fn new(remote: &'p Remote) -> Self {
        Self { remote }
    }

    async fn ask(&self, handle: &Handle) -> Result<Option<Value>, AttemptFailure> {
        let route = self.remote.route(handle.id("endpoint").as_deref()).await?;
        let request = Request::get(path(handle)?).told_as("responses/{response_id}");
        let answer = route.send(&request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.accepted(RULES).await?.json().await.map(Some)
    }
}

#[async_trait]
impl Job for Background<'_> {
    fn remote(&self) -> &Remote {
        self.remote
    }

    fn starts_once(&self) -> bool {
        false
    }

    async fn start(&self, call: &Call) -> Result<Started, AttemptFailure> {
        let mut body = call.input.clone();
        body.insert("stream".to_owned(), false.into());
        // Without it the provider forgets the response before it can be asked for.
        body.insert("store".to_owned(), true.into());
        let request = Request::post("responses", body.into())
            .header(REQUEST_ID, &call.key.to_string())
            .traced(call.trace.as_ref());
        let (route, answer) = self.remote.first(&request).await?;
        let response = answer.accepted(RULES).await?.json().await?;
        let Some(id) = response.get("id").and_then(Value::as_str) else {
            return Err(broken("the answer does not tell the id of the response"));
        };
        Ok(Started::at(route.url(), [("response_id", id)]))
    }

    async fn follow(
        &self,
        handle: &Handle,
        _: &Call,
        progress: &Progress,
    ) -> Result<Success, Lost> {
        let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let Some(response) = self.ask(handle).await.map_err(Lost::asking)? else {
                return Err(Lost::Failed(transient("the provider does not know the response")));
            };
            match response.get("status").and_then(Value::as_str) {
                Some("queued" | "in_progress") => pauses.pause(None).await,
                _ => {
                    let usage = usage_of(&response);
                    if let Err(failed) = ended(&response) {
                        return Err(Lost::Failed(AttemptFailure { usage, ..failed }));
                    }
                    progress.text(&text_of(&response)).await;
                    return Ok(Success::new(response, usage));
                }
            }
        }
    }

    async fn cancel(&self, handle: &Handle) -> Result<Cancelled, AttemptFailure> {
        let path = format!("{}/cancel", path(handle)?);
        let route = self.remote.route(handle.id("endpoint").as_deref()).await?;
        let request = Request::post(path, json!({})).told_as("responses/{response_id}/cancel");
        let answer = route.send(&request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Cancelled::Unknown);
        }
        let response = answer.accepted(RULES).await?.json().await?;
        Ok(match response.get("status").and_then(Value::as_str) {
            Some("cancelled") => Cancelled::Confirmed,
            Some("completed" | "failed" | "incomplete") => Cancelled::Over,
            _ => Cancelled::Requested,
        })
    }
}

fn path(handle: &Handle) -> Result<String, AttemptFailure> {
    Ok(format!("responses/{}", id_in_path(handle, "response_id")?))
}

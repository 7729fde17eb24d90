//! A response put together from its events.

use serde_json::{Value, json};

use super::RULES;
use crate::domain::{ErrorCode, Failure, FailureKind, Usage};
use crate::providers::AttemptFailure;
use crate::providers::remote::{Assembly, Piece, broken, take_usage, told};

/// The response so far.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// As the provider last told it.
    response: Value,
    /// What was written since.
    text: String,
    complete: bool,
}

impl Assembly for Response {
    fn take(&mut self, data: &str) -> Result<Piece, AttemptFailure> {
        // Not part of this protocol, but some servers close every stream so.
        if data.trim() == "[DONE]" {
            return Ok(Piece::default());
        }
        let mut event: Value = serde_json::from_str(data)
            .map_err(|error| broken(format!("an event is not JSON: {error}")))?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "response.output_text.delta" | "response.refusal.delta" => {
                let delta = event.get("delta").and_then(Value::as_str).unwrap_or_default();
                self.text.push_str(delta);
                Ok(Piece::text(delta))
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.end(event["response"].take())?;
                Ok(Piece::last())
            }
            "error" => Err(told(RULES, 500, &event)),
            _ => {
                if let Some(response) = event.get_mut("response") {
                    self.response = response.take();
                } else if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                    return Err(told(RULES, 500, error));
                }
                Ok(Piece::default())
            }
        }
    }

    fn whole(&mut self, body: Value) -> Result<String, AttemptFailure> {
        if !body.is_object() {
            return Err(broken("the answer is not a JSON object"));
        }
        self.end(body)?;
        Ok(text_of(&self.response))
    }

    fn finish(&mut self) -> Result<Value, AttemptFailure> {
        if self.complete {
            Ok(self.response.clone())
        } else {
            Err(broken("the stream ended before the response was complete"))
        }
    }

    fn partial(&self) -> Option<Value> {
        if self.response.is_null() && self.text.is_empty() {
            return None;
        }
        let mut response =
            if self.response.is_object() { self.response.clone() } else { json!({}) };
        if !self.complete && !self.text.is_empty() {
            let content = json!([{"type": "output_text", "text": self.text}]);
            let message = json!({"type": "message", "role": "assistant", "content": content,
                "status": "incomplete"});
            response["output"] = json!([message]);
        }
        Some(response)
    }

    fn usage(&self) -> Option<Usage> {
        usage_of(&self.response)
    }
}

impl Response {
    /// Takes the response as it ended.
    fn end(&mut self, response: Value) -> Result<(), AttemptFailure> {
        self.response = response;
        ended(&self.response)?;
        self.complete = true;
        Ok(())
    }
}

/// Whether a response has ended with a result: one that ran into a limit of its length has.
pub(super) fn ended(response: &Value) -> Result<(), AttemptFailure> {
    match response.get("status").and_then(Value::as_str) {
        Some("completed" | "incomplete") => Ok(()),
        // By somebody else: whoever is cancelled here does not ask any more.
        Some("cancelled") => {
            let message = "the response was cancelled at the provider";
            let failure = Failure::new(ErrorCode::Cancelled, false, message);
            Err(AttemptFailure::new(FailureKind::Cancelled, failure))
        }
        Some("failed") | None => Err(match response.get("error") {
            Some(error) if !error.is_null() => told(RULES, 500, error),
            _ => broken("the response ended without a result"),
        }),
        Some(status) => Err(broken(format!("the response is {status}, not over"))),
    }
}

pub(super) fn usage_of(response: &Value) -> Option<Usage> {
    take_usage(response.get("usage")?, &["input_tokens"], "output_tokens")
}

/// Everything written in a response.
pub(super) fn text_of(response: &Value) -> String {
    let list = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let parts = list(response, "output").into_iter().flat_map(|item| list(&item, "content"));
    parts.filter_map(|part| part.get("text")?.as_str().map(str::to_owned)).collect()
}

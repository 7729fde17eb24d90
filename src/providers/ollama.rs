//! Ollama: `/api/chat` for inputs with `messages`, `/api/generate` for those with `prompt`.
//!
//! What must stay true: only a last line with `done: true` makes a success. The server answers 200
//! before it knows whether the model will run to its end.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::demand::{cap, demand};
use super::openai::check_messages;
use super::remote::{
    Assembly, Class, DROP_GRACE, Framing, Piece, Remote, RemoteConfig, Request, Rule, Scheme,
    broken, check_string, exchange, take_usage, told, without_mark,
};
use super::{AttemptFailure, Call, ModelCall, Provider, Success, Violation};
use crate::domain::{Demand, Usage};

/// What its errors mean. They have no names, so the status decides.
pub(super) const RULES: &[Rule] = &[
    // Its queue is full.
    Rule::status(503, Class::RateLimited),
    Rule::status(500, Class::Transient),
];

/// The provider.
#[derive(Debug)]
pub struct Ollama {
    remote: Remote,
}

impl Ollama {
    /// A provider at these base URLs, which are without `/api`.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Bearer) }
    }
}

#[async_trait]
impl Provider for Ollama {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        let mut violations = Vec::new();
        check_string(input, "model", &mut violations);
        match (input.get("messages"), input.get("prompt")) {
            (Some(_), Some(_)) => {
                violations.push(Violation::new("prompt", "must not be given beside messages"));
            }
            (Some(messages), None) => check_messages(messages, &mut violations),
            (None, Some(Value::String(_))) => {}
            (None, Some(_)) => violations.push(Violation::new("prompt", "must be a text")),
            (None, None) => {
                let message = "needs messages (chat) or prompt (generate)";
                violations.push(Violation::new("", message));
            }
        }
        if input.get("stream").is_some_and(|value| !value.is_boolean()) {
            violations.push(Violation::new("stream", "must be true or false"));
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, mut call: Call) -> Result<Success, AttemptFailure> {
        let mut body = std::mem::take(&mut call.input);
        body.insert("stream".to_owned(), true.into());
        let path = if body.contains_key("messages") { "api/chat" } else { "api/generate" };
        let request = Request::post(path, body.into());
        let answer = Lines::default();
        exchange(&self.remote, call, request, RULES, Framing::Lines, answer).await
    }

    fn demand(&self, input: &Map<String, Value>, bytes: usize) -> Option<Demand> {
        let options = input.get("options").and_then(Value::as_object);
        Some(demand(input, bytes, options.and_then(|options| cap(options, &["num_predict"]))))
    }

    fn model_call(&self, input: &Map<String, Value>) -> Option<ModelCall> {
        let chats = input.contains_key("messages");
        let operation = if chats { "chat" } else { "text_completion" };
        Some(ModelCall::new(operation, "ollama", input))
    }

    fn stop_grace(&self) -> Duration {
        DROP_GRACE
    }
}

/// The lines so far, laid over each other.
#[derive(Debug, Default)]
struct Lines {
    whole: Map<String, Value>,
}

impl Assembly for Lines {
    fn take(&mut self, data: &str) -> Result<Piece, AttemptFailure> {
        let line: Value = serde_json::from_slice(without_mark(data.as_bytes()))
            .map_err(|error| broken(format!("a line is not JSON: {error}")))?;
        let Value::Object(line) = line else {
            return Err(broken("a line is not a JSON object"));
        };
        if let Some(error) = line.get("error").filter(|error| !error.is_null()) {
            return Err(told(RULES, 500, error));
        }
        let mut text = String::new();
        for (name, value) in line {
            match (name.as_str(), value) {
                ("message", Value::Object(more)) => {
                    if let Some(more) = more.get("content").and_then(Value::as_str) {
                        text.push_str(more);
                    }
                    let message = self.whole.entry("message").or_insert_with(|| Map::new().into());
                    if let Value::Object(message) = message {
                        more.into_iter().for_each(|(name, more)| grow(message, name, more));
                    }
                }
                ("response" | "thinking", more) => {
                    if name == "response"
                        && let Some(more) = more.as_str()
                    {
                        text.push_str(more);
                    }
                    grow(&mut self.whole, name, more);
                }
                (_, value) => {
                    self.whole.insert(name, value);
                }
            }
        }
        Ok(Piece { text, last: self.is_done() })
    }

    fn whole(&mut self, body: Value) -> Result<String, AttemptFailure> {
        self.take(&body.to_string()).map(|piece| piece.text)
    }

    fn finish(&mut self) -> Result<Value, AttemptFailure> {
        if self.is_done() {
            Ok(self.whole.clone().into())
        } else {
            Err(broken("the answer ended without done: true"))
        }
    }

    fn partial(&self) -> Option<Value> {
        (!self.whole.is_empty()).then(|| self.whole.clone().into())
    }

    fn usage(&self) -> Option<Usage> {
        take_usage(&Value::Object(self.whole.clone()), &["prompt_eval_count"], "eval_count")
    }
}

impl Lines {
    fn is_done(&self) -> bool {
        self.whole.get("done") == Some(&Value::Bool(true))
    }
}

/// Texts and lists grow from line to line, anything else is as last said.
fn grow(object: &mut Map<String, Value>, name: String, more: Value) {
    match (name.as_str(), object.get_mut(&name), more) {
        ("role", Some(_), _) => {}
        (_, Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
        (_, Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
        (_, _, more) => {
            object.insert(name, more);
        }
    }
}

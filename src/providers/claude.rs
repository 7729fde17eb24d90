//! Claude: the Messages API of Anthropic and what speaks it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::demand::{cap, demand};
use super::openai::check_messages;
use super::remote::{
    Assembly, Class, DROP_GRACE, Framing, Piece, Remote, RemoteConfig, Request, Rule, Scheme,
    broken, check_string, exchange, take_usage, told,
};
use super::{AttemptFailure, Call, ModelCall, Provider, Success, Violation};
use crate::domain::{Demand, Usage};

/// The version of the API that is spoken, unless the configured headers name another.
const VERSION: &str = "2023-06-01";

/// What its errors mean.
pub(super) const RULES: &[Rule] = &[
    Rule::named("rate_limit_error", Class::RateLimited),
    Rule::named("overloaded_error", Class::RateLimited),
    Rule::named("api_error", Class::Transient),
    Rule::named("timeout_error", Class::Transient),
    Rule::named("server_error", Class::Transient),
    Rule::named("invalid_request_error", Class::Permanent),
    Rule::named("exceed_context_size_error", Class::Permanent),
    Rule::named("authentication_error", Class::Permanent),
    Rule::named("billing_error", Class::Permanent),
    Rule::named("permission_error", Class::Permanent),
    Rule::named("not_found_error", Class::Permanent),
    Rule::named("request_too_large", Class::Permanent),
];

/// The provider.
#[derive(Debug)]
pub struct Claude {
    remote: Remote,
}

impl Claude {
    /// A provider at these base URLs, which are without `/v1`.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Header("x-api-key")) }
    }
}

#[async_trait]
impl Provider for Claude {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        let mut violations = Vec::new();
        check_string(input, "model", &mut violations);
        match input.get("max_tokens").map(Value::as_u64) {
            Some(Some(1..)) => {}
            Some(_) => {
                let message = "must be a whole number of 1 or more";
                violations.push(Violation::new("max_tokens", message));
            }
            None => violations.push(Violation::new("max_tokens", "is missing")),
        }
        match input.get("messages") {
            Some(messages) => check_messages(messages, &mut violations),
            None => violations.push(Violation::new("messages", "is missing")),
        }
        if input.get("stream").is_some_and(|value| !value.is_boolean()) {
            violations.push(Violation::new("stream", "must be true or false"));
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, mut call: Call) -> Result<Success, AttemptFailure> {
        let mut body = std::mem::take(&mut call.input);
        body.insert("stream".to_owned(), true.into());
        let request =
            Request::post("v1/messages", body.into()).header("anthropic-version", VERSION);
        let answer = Message::default();
        exchange(&self.remote, call, request, RULES, Framing::Events, answer).await
    }

    fn demand(&self, input: &Map<String, Value>, bytes: usize) -> Option<Demand> {
        Some(demand(input, bytes, cap(input, &["max_tokens"])))
    }

    fn model_call(&self, input: &Map<String, Value>) -> Option<ModelCall> {
        Some(ModelCall::new("chat", "anthropic", input))
    }

    fn stop_grace(&self) -> Duration {
        DROP_GRACE
    }
}

/// The message so far.
#[derive(Debug, Default)]
struct Message {
    message: Map<String, Value>,
    content: BTreeMap<u64, Block>,
    usage: Map<String, Value>,
    complete: bool,
}

/// One block of its content.
#[derive(Debug, Default)]
struct Block {
    block: Map<String, Value>,
    /// The input of a tool, as the text it comes in.
    input: String,
}

impl Assembly for Message {
    fn take(&mut self, data: &str) -> Result<Piece, AttemptFailure> {
        let mut event: Value = serde_json::from_str(data)
            .map_err(|error| broken(format!("an event is not JSON: {error}")))?;
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "message_start" => {
                let Value::Object(message) = event["message"].take() else {
                    return Err(broken("the stream begins without a message"));
                };
                self.message = message;
                self.take_usage();
            }
            "content_block_start" => {
                if let Value::Object(block) = event["content_block"].take() {
                    let text = block.get("text").and_then(Value::as_str).unwrap_or_default();
                    let piece = Piece::text(text);
                    self.content.insert(index, Block { block, input: String::new() });
                    return Ok(piece);
                }
            }
            "content_block_delta" => {
                let block = self.content.entry(index).or_default();
                return Ok(Piece::text(block.take(&event["delta"])));
            }
            "message_delta" => {
                if let Value::Object(delta) = event["delta"].take() {
                    self.message.extend(delta);
                }
                if let Value::Object(usage) = event["usage"].take() {
                    self.usage.extend(usage.into_iter().filter(|(_, count)| !count.is_null()));
                }
            }
            "message_stop" => {
                self.complete = true;
                return Ok(Piece::last());
            }
            "error" => return Err(told(RULES, 500, &event)),
            // Pings, ends of blocks, and what later versions add.
            _ => {
                if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                    return Err(told(RULES, 500, error));
                }
            }
        }
        Ok(Piece::default())
    }

    fn whole(&mut self, body: Value) -> Result<String, AttemptFailure> {
        if body.get("type").and_then(Value::as_str) == Some("error") {
            return Err(told(RULES, 500, &body));
        }
        let Value::Object(mut message) = body else {
            return Err(broken("the answer is not a JSON object"));
        };
        let Some(Value::Array(content)) = message.remove("content") else {
            return Err(broken("the answer has no content"));
        };
        (self.message, self.complete) = (message, true);
        self.take_usage();
        let mut text = String::new();
        for (index, block) in (0..).zip(content) {
            text.push_str(block.get("text").and_then(Value::as_str).unwrap_or_default());
            let block = block.as_object().cloned().unwrap_or_default();
            self.content.insert(index, Block { block, input: String::new() });
        }
        Ok(text)
    }

    fn finish(&mut self) -> Result<Value, AttemptFailure> {
        if self.complete && !self.message.is_empty() {
            Ok(self.put_together())
        } else {
            Err(broken("the stream ended before the message was complete"))
        }
    }

    fn partial(&self) -> Option<Value> {
        (!self.message.is_empty()).then(|| self.put_together())
    }

    fn usage(&self) -> Option<Usage> {
        // What was read from a cache or written to one is not counted under `input_tokens`.
        let read = ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];
        take_usage(&Value::Object(self.usage.clone()), &read, "output_tokens")
    }
}

impl Message {
    fn take_usage(&mut self) {
        if let Some(Value::Object(usage)) = self.message.remove("usage") {
            self.usage = usage;
        }
    }

    fn put_together(&self) -> Value {
        let mut message = self.message.clone();
        let content: Vec<_> = self.content.values().map(Block::whole).collect();
        message.insert("content".to_owned(), content.into());
        message.insert("usage".to_owned(), self.usage.clone().into());
        message.into()
    }
}

impl Block {
    /// Takes a delta; returns the text it adds.
    fn take(&mut self, delta: &Value) -> String {
        let text = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "text_delta" => {
                self.grow("text", text("text"));
                return text("text").to_owned();
            }
            "thinking_delta" => self.grow("thinking", text("thinking")),
            "signature_delta" => self.grow("signature", text("signature")),
            "input_json_delta" => self.input.push_str(text("partial_json")),
            "citations_delta" => {
                let citations = self.block.entry("citations").or_insert_with(|| json!([]));
                match citations {
                    Value::Array(citations) => citations.push(delta["citation"].clone()),
                    other => *other = json!([delta["citation"]]),
                }
            }
            _ => {}
        }
        String::new()
    }

    fn grow(&mut self, name: &str, more: &str) {
        match self.block.get_mut(name) {
            Some(Value::String(text)) => text.push_str(more),
            _ => {
                self.block.insert(name.to_owned(), more.into());
            }
        }
    }

    fn whole(&self) -> Value {
        let mut block = self.block.clone();
        if !self.input.is_empty() {
            // Cut off in the middle it is no JSON, and is kept as the text it is.
            let input = serde_json::from_str(&self.input);
            block.insert("input".to_owned(), input.unwrap_or_else(|_| self.input.clone().into()));
        }
        block.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(events: &[Value]) -> Result<Value, AttemptFailure> {
        let mut message = Message::default();
        for event in events {
            message.take(&event.to_string())?;
        }
        message.finish()
    }

    #[test]
    fn thoughts_and_tools_are_put_together() {
        let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let start = |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let made = message(&[
            json!({"type": "message_start", "message": {"id": "m", "content": [],
                "usage": {"input_tokens": 3, "output_tokens": 1}}}),
            start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "hm"})),
            delta(0, json!({"type": "signature_delta", "signature": "s"})),
            json!({"type": "ping"}),
            start(1, json!({"type": "tool_use", "id": "t", "name": "weather", "input": {}})),
            delta(1, json!({"type": "input_json_delta", "partial_json": "{\"city\":"})),
            delta(1, json!({"type": "input_json_delta", "partial_json": "\"Rome\"}"})),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 9}}),
            json!({"type": "message_stop"}),
        ]);
        let expected = json!({
            "id": "m",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Rome"}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 3, "output_tokens": 9},
        });
        assert_eq!(made.expect("the message is complete"), expected);
    }

    #[test]
    fn an_overload_within_the_stream_is_a_rate_limit() {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}});
        let failed = message(&[error]).expect_err("an error is no message");
        assert_eq!(failed.kind, crate::domain::FailureKind::RateLimited);
    }
}

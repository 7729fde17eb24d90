//! OpenAI and whatever speaks its API. An input with `messages` goes to chat completions, one with
//! `input` to responses, where `background` leaves the work with the provider until it is done.

mod background;
mod chat;
mod responses;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::demand::{DEFAULT_OUTPUT_TOKENS, cap, demand};
use super::remote::{
    Class, Framing, Remote, RemoteConfig, Request, Rule, STOP_GRACE, Scheme, check_string,
    exchange, run_job,
};
use super::{AttemptFailure, Call, ModelCall, Provider, Success, Violation};
use crate::domain::Demand;
use background::Background;
use chat::Chat;
use responses::Response;

/// What its errors mean.
pub(super) const RULES: &[Rule] = &[
    // These come as 429 and do not pass by waiting.
    Rule::named("insufficient_quota", Class::Permanent),
    Rule::named("billing_hard_limit_reached", Class::Permanent),
    Rule::named("rate_limit_exceeded", Class::RateLimited),
    Rule::named("rate_limit_error", Class::RateLimited),
    Rule::named("tokens", Class::RateLimited),
    Rule::named("requests", Class::RateLimited),
    Rule::named("server_is_overloaded", Class::RateLimited),
    Rule::named("slow_down", Class::RateLimited),
    Rule::named("invalid_request_error", Class::Permanent),
    Rule::named("context_length_exceeded", Class::Permanent),
    Rule::named("exceed_context_size_error", Class::Permanent),
    Rule::named("invalid_prompt", Class::Permanent),
    Rule::named("authentication_error", Class::Permanent),
    Rule::named("invalid_api_key", Class::Permanent),
    Rule::named("permission_error", Class::Permanent),
    Rule::named("not_found_error", Class::Permanent),
    Rule::named("server_error", Class::Transient),
];

/// The provider.
#[derive(Debug)]
pub struct OpenAi {
    remote: Remote,
}

impl OpenAi {
    /// A provider at these base URLs, which include `/v1`.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Bearer) }
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        let mut violations = Vec::new();
        check_string(input, "model", &mut violations);
        match (input.get("messages"), input.get("input")) {
            (Some(_), Some(_)) => {
                violations.push(Violation::new("input", "must not be given beside messages"));
            }
            (Some(messages), None) => check_messages(messages, &mut violations),
            (None, Some(Value::String(_))) => {}
            (None, Some(Value::Array(items))) if !items.is_empty() => {}
            (None, Some(_)) => {
                let message = "must be a text or a list that is not empty";
                violations.push(Violation::new("input", message));
            }
            (None, None) => {
                let message = "needs messages (chat completions) or input (responses)";
                violations.push(Violation::new("", message));
            }
        }
        for name in ["stream", "background"] {
            if input.get(name).is_some_and(|value| !value.is_boolean()) {
                violations.push(Violation::new(name, "must be true or false"));
            }
        }
        if is_background(input) && input.contains_key("messages") {
            let message = "is for responses: give input instead of messages";
            violations.push(Violation::new("background", message));
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, mut call: Call) -> Result<Success, AttemptFailure> {
        if is_background(&call.input) {
            return run_job(&Background::new(&self.remote), call).await;
        }
        let mut body = std::mem::take(&mut call.input);
        body.insert("stream".to_owned(), true.into());
        let key = call.key.to_string();
        if body.contains_key("messages") {
            let wanted = body.get("n").and_then(Value::as_u64).unwrap_or(1);
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
            let request = Request::post("chat/completions", body.into());
            let request = request.header(REQUEST_ID, &key);
            let answer = Chat::of(usize::try_from(wanted).unwrap_or(usize::MAX));
            return exchange(&self.remote, call, request, RULES, Framing::Events, answer).await;
        }
        let request = Request::post("responses", body.into()).header(REQUEST_ID, &key);
        let answer = Response::default();
        exchange(&self.remote, call, request, RULES, Framing::Events, answer).await
    }

    fn demand(&self, input: &Map<String, Value>, bytes: usize) -> Option<Demand> {
        if !input.contains_key("messages") {
            return Some(demand(input, bytes, cap(input, &["max_output_tokens"])));
        }
        let choices = input.get("n").and_then(Value::as_u64).unwrap_or(1);
        let each = cap(input, &["max_completion_tokens", "max_tokens"]);
        let all = each.unwrap_or(DEFAULT_OUTPUT_TOKENS).saturating_mul(choices);
        Some(demand(input, bytes, Some(all)))
    }

    fn model_call(&self, input: &Map<String, Value>) -> Option<ModelCall> {
        Some(ModelCall::new("chat", "openai", input))
    }

    fn stop_grace(&self) -> std::time::Duration {
        STOP_GRACE
    }
}

/// By which the provider's support finds a request.
const REQUEST_ID: &str = "x-client-request-id";

fn is_background(input: &Map<String, Value>) -> bool {
    input.get("background") == Some(&Value::Bool(true))
}

/// Checks a list of messages as `openai`, `claude` and `ollama` have it.
pub(super) fn check_messages(messages: &Value, violations: &mut Vec<Violation>) {
    let Some(messages) = messages.as_array().filter(|messages| !messages.is_empty()) else {
        violations.push(Violation::new("messages", "must be a list that is not empty"));
        return;
    };
    for (index, message) in messages.iter().enumerate() {
        let role = message.get("role").and_then(Value::as_str);
        if role.is_none_or(str::is_empty) {
            let field = format!("messages[{index}].role");
            violations.push(Violation::new(field, "must be a text that is not empty"));
        }
    }
}

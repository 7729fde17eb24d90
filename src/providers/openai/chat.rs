//! A chat completion put together from its chunks.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::RULES;
use crate::domain::Usage;
use crate::providers::AttemptFailure;
use crate::providers::remote::{Assembly, Piece, broken, take_usage, told};

/// The completion so far.
#[derive(Debug, Default)]
pub(super) struct Chat {
    /// What belongs to the whole of it.
    head: Map<String, Value>,
    choices: BTreeMap<u64, Choice>,
    usage: Value,
    /// How many choices were asked for.
    wanted: usize,
    done: bool,
}

#[derive(Debug, Default)]
struct Choice {
    message: Map<String, Value>,
    tool_calls: BTreeMap<u64, Value>,
    logprobs: Option<Value>,
    finish_reason: Value,
}

impl Assembly for Chat {
    fn take(&mut self, data: &str) -> Result<Piece, AttemptFailure> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Piece::last());
        }
        let chunk: Value = serde_json::from_str(data)
            .map_err(|error| broken(format!("a chunk is not JSON: {error}")))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(told(RULES, 500, error));
        }
        let Value::Object(mut chunk) = chunk else {
            return Err(broken("a chunk is not a JSON object"));
        };
        if let Some(usage) = chunk.remove("usage").filter(|usage| !usage.is_null()) {
            self.usage = usage;
        }
        let choices = chunk.remove("choices");
        for (name, value) in chunk {
            if !value.is_null() {
                self.head.insert(name, value);
            }
        }
        let mut text = String::new();
        for choice in choices.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let more = self.choices.entry(index).or_default().take(choice);
            // One text grows; the others are in the result.
            if index == 0 {
                text.push_str(&more);
            }
        }
        Ok(Piece::text(text))
    }

    fn whole(&mut self, body: Value) -> Result<String, AttemptFailure> {
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            return Err(told(RULES, 500, error));
        }
        let Value::Object(mut body) = body else {
            return Err(broken("the answer is not a JSON object"));
        };
        self.usage = body.remove("usage").unwrap_or_default();
        let Some(Value::Array(choices)) = body.remove("choices") else {
            return Err(broken("the answer has no choices"));
        };
        let mut text = String::new();
        for (index, choice) in (0..).zip(choices) {
            let mut message =
                choice.get("message").and_then(Value::as_object).cloned().unwrap_or_default();
            if let Some(content) = message.get("content").and_then(Value::as_str)
                && index == 0
            {
                content.clone_into(&mut text);
            }
            let calls = message.remove("tool_calls");
            let calls = calls.as_ref().and_then(Value::as_array).into_iter().flatten();
            let taken = Choice {
                tool_calls: (0..).zip(calls.cloned()).collect(),
                message,
                logprobs: choice.get("logprobs").filter(|it| !it.is_null()).cloned(),
                finish_reason: choice.get("finish_reason").cloned().unwrap_or_default(),
            };
            self.choices.insert(index, taken);
        }
        (self.head, self.done) = (body, true);
        Ok(text)
    }

    fn finish(&mut self) -> Result<Value, AttemptFailure> {
        let ended = |choice: &Choice| !choice.finish_reason.is_null();
        // One that did not begin has not ended either.
        let all = self.choices.len() >= self.wanted && self.choices.values().all(ended);
        if self.choices.is_empty() || !(self.done || all) {
            return Err(broken("the stream ended before the answer was complete"));
        }
        Ok(self.completion())
    }

    fn partial(&self) -> Option<Value> {
        (!self.choices.is_empty()).then(|| self.completion())
    }

    fn usage(&self) -> Option<Usage> {
        take_usage(&self.usage, &["prompt_tokens"], "completion_tokens")
    }
}

impl Chat {
    /// Nothing yet, of so many choices.
    pub(super) fn of(wanted: usize) -> Self {
        Self { wanted, ..Self::default() }
    }

    fn completion(&self) -> Value {
        let mut completion = self.head.clone();
        completion.insert("object".to_owned(), "chat.completion".into());
        let choices: Vec<_> = self.choices.iter().map(|(index, it)| it.whole(*index)).collect();
        completion.insert("choices".to_owned(), choices.into());
        if !self.usage.is_null() {
            completion.insert("usage".to_owned(), self.usage.clone());
        }
        completion.into()
    }
}

impl Choice {
    /// Takes a chunk's delta; returns the text it adds.
    fn take(&mut self, choice: &Value) -> String {
        if let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) {
            self.finish_reason = reason.clone();
        }
        if let Some(more) = choice.get("logprobs").filter(|more| !more.is_null()) {
            match &mut self.logprobs {
                Some(logprobs) => append(logprobs, more),
                None => self.logprobs = Some(more.clone()),
            }
        }
        let mut text = String::new();
        for (name, value) in choice.get("delta").and_then(Value::as_object).into_iter().flatten() {
            match name.as_str() {
                "tool_calls" => self.take_tool_calls(value),
                "role" if self.message.contains_key("role") => {}
                _ => {
                    if name == "content"
                        && let Some(more) = value.as_str()
                    {
                        text.push_str(more);
                    }
                    let so_far = self.message.entry(name.as_str()).or_insert(Value::Null);
                    append(so_far, value);
                }
            }
        }
        text
    }

    fn take_tool_calls(&mut self, calls: &Value) {
        for call in calls.as_array().into_iter().flatten() {
            let next = self.tool_calls.len() as u64;
            let index = call.get("index").and_then(Value::as_u64).unwrap_or(next);
            let so_far = self.tool_calls.entry(index).or_insert_with(|| json!({}));
            let (Some(so_far), Some(call)) = (so_far.as_object_mut(), call.as_object()) else {
                continue;
            };
            for (name, value) in call {
                match name.as_str() {
                    "index" => {}
                    // Said once; some servers repeat them with every chunk.
                    "id" | "type" => {
                        so_far.entry(name.as_str()).or_insert_with(|| value.clone());
                    }
                    _ => append(so_far.entry(name.as_str()).or_insert(Value::Null), value),
                }
            }
        }
    }

    fn whole(&self, index: u64) -> Value {
        let mut message = self.message.clone();
        message.entry("role").or_insert_with(|| "assistant".into());
        message.entry("content").or_insert(Value::Null);
        if !self.tool_calls.is_empty() {
            let calls: Vec<_> = self.tool_calls.values().cloned().collect();
            message.insert("tool_calls".to_owned(), calls.into());
        }
        let mut choice = json!({
            "index": index,
            "message": message,
            "finish_reason": self.finish_reason,
        });
        if let Some(logprobs) = &self.logprobs {
            choice["logprobs"] = logprobs.clone();
        }
        choice
    }
}

/// Adds a delta to what was said before: texts and lists grow, objects field by field.
fn append(so_far: &mut Value, more: &Value) {
    match (so_far, more) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(more),
        (Value::Array(list), Value::Array(more)) => list.extend(more.iter().cloned()),
        (Value::Object(object), Value::Object(more)) => {
            for (name, value) in more {
                append(object.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (so_far, more) => *so_far = more.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(chunks: &[Value]) -> Result<Value, AttemptFailure> {
        let mut chat = Chat::default();
        for chunk in chunks {
            chat.take(&chunk.to_string())?;
        }
        chat.finish()
    }

    #[test]
    fn tool_calls_and_several_choices_are_put_together() {
        let delta =
            |index: u64, delta: Value| json!({"choices": [{"index": index, "delta": delta}]});
        let call = |id: Value, name: Value, arguments: &str| {
            json!({"tool_calls": [{"index": 0, "id": id, "type": "function",
                "function": {"name": name, "arguments": arguments}}]})
        };
        let made = completion(&[
            delta(0, json!({"role": "assistant", "content": null})),
            delta(0, call("call_1".into(), "weather".into(), "{\"city\":")),
            delta(0, call("call_1".into(), Value::Null, "\"Rome\"}")),
            delta(1, json!({"role": "assistant", "content": "He"})),
            delta(1, json!({"content": "llo"})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}),
            json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 3}}),
        ]);
        let made = made.expect("every choice has ended");
        let function = json!({"name": "weather", "arguments": "{\"city\":\"Rome\"}"});
        let calls = json!([{"id": "call_1", "type": "function", "function": function}]);
        assert_eq!(made["choices"][0]["message"]["tool_calls"], calls);
        assert_eq!(made["choices"][0]["message"]["content"], Value::Null);
        assert_eq!(made["choices"][1]["message"]["content"], "Hello");
        assert_eq!((&made["id"], &made["object"]), (&json!("c1"), &json!("chat.completion")));
    }

    #[test]
    fn a_stream_without_an_end_is_a_failure() {
        let chunk = json!({"choices": [{"index": 0, "delta": {"content": "half"}}]});
        assert!(completion(&[chunk]).is_err());
        let one = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        let mut of_two = Chat::of(2);
        of_two.take(&one.to_string()).expect("a chunk");
        assert!(of_two.finish().is_err(), "the other has not begun");
        assert!(completion(&[]).is_err());
        let mut chat = Chat::default();
        assert!(chat.take("{\"choices\": [{\"ind").is_err(), "cut within a chunk");
    }

    #[test]
    fn an_error_within_the_stream_fails_it_by_its_name() {
        let mut chat = Chat::default();
        let failed = chat.take(r#"{"error":{"type":"server_error","message":"boom"}}"#);
        assert_eq!(failed.map_err(|failed| failed.failure.message), Err("boom".to_owned()));
    }
}

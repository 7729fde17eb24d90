//! What a run tells while it goes on.

use serde_json::Value;

use crate::domain::Usage;
use crate::providers::remote::Told;

/// Everything told so far.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What the models that the graph called consumed.
    pub(super) usage: Option<Usage>,
    /// What the run failed with.
    pub(super) error: Option<Value>,
}

impl Told for Messages {
    fn take(&mut self, name: &str, data: Value) -> Option<String> {
        // What comes of a graph within the graph has its place behind a bar.
        match name.split('|').next().unwrap_or_default() {
            "messages" => {
                let message = data.get(0).filter(|message| is_of_a_model(message))?;
                add(&mut self.usage, usage_of(message));
                Some(text_of(message.get("content")?))
            }
            "custom" => Some(match data {
                Value::String(text) => text,
                other => format!("{other}\n"),
            }),
            "error" => {
                self.error = Some(data);
                None
            }
            _ => None,
        }
    }
}

/// Whether a model wrote a message, or a piece of one.
fn is_of_a_model(message: &Value) -> bool {
    matches!(message.get("type").and_then(Value::as_str), Some("ai" | "AIMessageChunk"))
}

/// The text of a message: all of it, or what is written in its blocks.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().map(text_of).collect(),
        Value::Object(block) => {
            block.get("text").and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

fn usage_of(message: &Value) -> Option<Usage> {
    let usage = message.get("usage_metadata")?;
    let count = |name: &str| usage.get(name).and_then(Value::as_i64);
    let (read, written) = (count("input_tokens"), count("output_tokens"));
    read.or(written)?;
    Some(Usage {
        input_tokens: read.unwrap_or_default(),
        output_tokens: written.unwrap_or_default(),
    })
}

fn add(sum: &mut Option<Usage>, more: Option<Usage>) {
    if let Some(more) = more {
        *sum.get_or_insert_default() += more;
    }
}

/// What the messages of a state consumed. For a run whose stream could not be had.
pub(super) fn usage_within(state: &Value) -> Option<Usage> {
    let messages = state.get("messages").and_then(Value::as_array)?;
    let mut sum = None;
    messages.iter().for_each(|message| add(&mut sum, usage_of(message)));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_models_write_is_passed_on_and_counted() {
        let mut told = Messages::default();
        let text = json!([{"type": "AIMessageChunk", "content": "so"}, {"langgraph_node": "n"}]);
        assert_eq!(told.take("messages", text).as_deref(), Some("so"));
        let blocks = json!([{"type": "ai", "content": [{"type": "text", "text": " far"}],
            "usage_metadata": {"input_tokens": 3, "output_tokens": 2}}, {}]);
        assert_eq!(told.take("messages|sub:1", blocks).as_deref(), Some(" far"));
        let last = json!([{"type": "AIMessageChunk", "content": "",
            "usage_metadata": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}}, {}]);
        assert_eq!(told.take("messages", last).as_deref(), Some(""));
        let human = json!([{"type": "human", "content": "hi"}, {}]);
        assert_eq!(told.take("messages", human), None);
        assert_eq!(told.usage, Some(Usage { input_tokens: 13, output_tokens: 7 }));
    }

    #[test]
    fn what_graphs_write_themselves_is_text_or_a_line_of_json() {
        let mut told = Messages::default();
        assert_eq!(told.take("custom", json!("half")).as_deref(), Some("half"));
        let line = told.take("custom", json!({"token": "one"}));
        assert_eq!(line.as_deref(), Some("{\"token\":\"one\"}\n"));
        assert_eq!(told.take("values", json!({"a": 1})), None);
        assert_eq!(told.take("error", json!({"error": "ValueError"})), None);
        assert_eq!(told.error, Some(json!({"error": "ValueError"})));
    }

    #[test]
    fn usage_is_read_from_a_state_too() {
        let state = json!({"messages": [
            {"type": "human", "content": "q"},
            {"type": "ai", "usage_metadata": {"input_tokens": 4, "output_tokens": 1}},
            {"type": "ai", "usage_metadata": {"input_tokens": 6, "output_tokens": 2}},
        ]});
        assert_eq!(usage_within(&state), Some(Usage { input_tokens: 10, output_tokens: 3 }));
        assert_eq!(usage_within(&json!({"messages": [{"content": "q"}]})), None);
        assert_eq!(usage_within(&json!([1])), None);
    }
}

//! What a job tells while it goes on, in Langflow's own protocol: what its models write, and what
//! each component came to.

use std::collections::HashMap;

use serde_json::Value;

use crate::domain::Usage;
use crate::providers::remote::{Told, take_usage};

/// Everything told so far.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What the flow wrote.
    pub(super) text: String,
    /// What its components consumed.
    pub(super) usage: Option<Usage>,
    /// How much of each message is part of the text.
    written: HashMap<String, usize>,
}

impl Told for Messages {
    fn take(&mut self, _: &str, event: Value) -> Option<String> {
        let data = event.get("data")?;
        match event.get("event")?.as_str()? {
            "token" => self.add(data.get("id")?, data.get("chunk")?.as_str()?),
            // Comes before the first token of a message with what there is of it, and in the end
            // with all of it.
            "add_message" if data.get("sender")? != "User" => {
                let (id, text) = (data.get("id")?, data.get("text")?.as_str()?);
                let known = self.written.get(id.as_str()?).copied().unwrap_or_default();
                self.add(id, text.get(known..)?)
            }
            "end_vertex" => {
                let usage = data.pointer("/build_data/data/token_usage")?;
                if let Some(more) = take_usage(usage, &["input_tokens"], "output_tokens") {
                    *self.usage.get_or_insert_default() += more;
                }
                None
            }
            _ => None,
        }
    }
}

impl Messages {
    fn add(&mut self, message: &Value, more: &str) -> Option<String> {
        *self.written.entry(message.as_str()?.to_owned()).or_default() += more.len();
        self.text.push_str(more);
        Some(more.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::needless_pass_by_value, reason = "the cases read better without a `&`")]
    fn take(told: &mut Messages, event: &str, data: Value) -> Option<String> {
        told.take("", json!({"event": event, "data": data}))
    }

    fn message(told: &mut Messages, sender: &str, text: &str) -> Option<String> {
        take(told, "add_message", json!({"id": "m1", "sender": sender, "text": text}))
    }

    #[test]
    fn a_message_is_passed_on_once_whether_it_comes_in_pieces_or_whole() {
        let mut told = Messages::default();
        assert_eq!(message(&mut told, "User", "hello?"), None);
        assert_eq!(message(&mut told, "Machine", "step").as_deref(), Some("step"));
        let token = take(&mut told, "token", json!({"id": "m1", "chunk": " saw"}));
        assert_eq!(token.as_deref(), Some(" saw"));
        assert_eq!(message(&mut told, "Machine", "step saw hi").as_deref(), Some(" hi"));
        assert_eq!(message(&mut told, "Machine", "step saw hi").as_deref(), Some(""));
        assert_eq!(told.text, "step saw hi");
    }

    #[test]
    fn usage_is_the_sum_of_the_components() {
        let mut told = Messages::default();
        let mut ended = |usage: Value| {
            let data = json!({"build_data": {"data": {"token_usage": usage}}});
            take(&mut told, "end_vertex", data);
            told.usage
        };
        assert_eq!(ended(Value::Null), None);
        ended(json!({"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}));
        let sum = ended(json!({"input_tokens": 1, "output_tokens": null}));
        assert_eq!(sum, Some(Usage { input_tokens: 6, output_tokens: 2 }));
    }

    #[test]
    fn other_events_add_nothing() {
        let mut told = Messages::default();
        for event in [json!(7), json!({}), json!([1]), json!({"event": "end", "data": {}})] {
            assert_eq!(told.take("", event.clone()), None, "{event}");
        }
    }
}

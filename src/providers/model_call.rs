//! What traces tell of a call of a language model: which was called for what, and how it ended;
//! nothing of what was said.
//!
//! What must stay true: whatever stands in an input or an answer, little of it is told.

use serde_json::{Map, Value};

use crate::domain::check_model;

/// The most reasons that are told of one answer: each choice has its own.
const MAX_REASONS: usize = 8;

/// A call of a model, named as the conventions of OpenTelemetry for generative AI have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// What it is asked to do: `chat`, `text_completion`.
    pub operation: &'static str,
    /// Whose API is spoken: `openai`, `anthropic`, `ollama`.
    pub system: &'static str,
    /// The model, where the input names one.
    pub model: Option<String>,
}

/// What a model's answer tells of itself; each at most 128 printable characters, else it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelAnswer {
    /// The model that answered.
    pub model: Option<String>,
    /// The provider's id of the answer.
    pub id: Option<String>,
    /// Why it ended, for each choice; at most 8.
    pub finish_reasons: Vec<String>,
}

impl ModelCall {
    pub(super) fn new(
        operation: &'static str,
        system: &'static str,
        input: &Map<String, Value>,
    ) -> Self {
        let model = input.get("model").and_then(Value::as_str);
        let model = model.filter(|model| check_model(model).is_ok()).map(str::to_owned);
        Self { operation, system, model }
    }

    /// Reads the answer of any of them.
    pub fn answer(output: &Value) -> ModelAnswer {
        let text = |value: &Value, name: &str| {
            let text = value.get(name)?.as_str()?;
            check_model(text).is_ok().then(|| text.to_owned())
        };
        let choices = output.get("choices").and_then(Value::as_array).into_iter().flatten();
        let mut finish_reasons: Vec<_> =
            choices.filter_map(|choice| text(choice, "finish_reason")).take(MAX_REASONS).collect();
        let of_whole = ["stop_reason", "done_reason"].into_iter().find_map(|it| text(output, it));
        let incomplete = || text(output.get("incomplete_details")?, "reason");
        let of_response = || {
            let is_response = text(output, "object").as_deref() == Some("response");
            is_response.then(|| text(output, "status")).flatten()
        };
        finish_reasons.extend(of_whole.or_else(incomplete).or_else(of_response));
        finish_reasons.truncate(MAX_REASONS);
        ModelAnswer { model: text(output, "model"), id: text(output, "id"), finish_reasons }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn why_a_model_stopped_is_read_from_the_answer_of_every_kind() {
        for (answer, reasons) in [
            (
                json!({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}),
                vec!["stop", "length"],
            ),
            (json!({"object": "response", "status": "completed"}), vec!["completed"]),
            (
                json!({"object": "response", "status": "incomplete",
                    "incomplete_details": {"reason": "max_output_tokens"}}),
                vec!["max_output_tokens"],
            ),
            (json!({"stop_reason": "end_turn", "id": "m"}), vec!["end_turn"]),
            (json!({"done_reason": "stop", "done": true}), vec!["stop"]),
            (json!({"status": "sold out"}), vec![]),
        ] {
            assert_eq!(ModelCall::answer(&answer).finish_reasons, reasons, "{answer}");
        }
    }

    #[test]
    fn of_an_answer_without_measure_little_is_told() {
        let long = "x".repeat(129);
        let choices = vec![json!({"finish_reason": "stop"}); 100_000];
        let answer = ModelCall::answer(&json!({
            "model": long, "id": "i".repeat(1 << 20), "choices": choices, "stop_reason": "end_turn",
        }));
        assert_eq!((answer.model, answer.id), (None, None));
        assert_eq!(answer.finish_reasons, ["stop"; MAX_REASONS]);

        let choices = json!([
            {"finish_reason": long}, {"finish_reason": "a\nb"}, {"finish_reason": ""},
            {"finish_reason": "length"},
        ]);
        let told = "y".repeat(128);
        let answer = json!({"model": told, "id": "a\u{7}", "choices": choices});
        let answer = ModelCall::answer(&answer);
        assert_eq!((answer.model, answer.id), (Some(told), None));
        assert_eq!(answer.finish_reasons, ["length"]);
    }

    #[test]
    fn a_call_names_the_model_of_its_input() {
        let input = json!({"model": "tiny", "messages": [{"content": "a secret"}]});
        let Value::Object(input) = input else { unreachable!("an object") };
        let call = ModelCall::new("chat", "openai", &input);
        assert_eq!(call.model.as_deref(), Some("tiny"));
        assert_eq!(ModelCall::new("chat", "openai", &Map::new()).model, None);
    }
}

//! What traces tell of a call of a language model: which was called for what, and how it ended;
//! nothing of what was said.

use serde_json::{Map, Value};

use crate::domain::check_model;

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

/// What a model's answer tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelAnswer {
    /// The model that answered.
    pub model: Option<String>,
    /// The provider's id of the answer.
    pub id: Option<String>,
    /// Why it ended, for each choice.
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
        let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
        let choices = output.get("choices").and_then(Value::as_array).into_iter().flatten();
        let mut finish_reasons: Vec<_> =
            choices.filter_map(|choice| text(choice, "finish_reason")).collect();
        let of_whole = ["stop_reason", "done_reason"].into_iter().find_map(|it| text(output, it));
        let incomplete = || text(output.get("incomplete_details")?, "reason");
        let of_response = || {
            let is_response = text(output, "object").as_deref() == Some("response");
            is_response.then(|| text(output, "status")).flatten()
        };
        finish_reasons.extend(of_whole.or_else(incomplete).or_else(of_response));
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
    fn a_call_names_the_model_of_its_input() {
        let input = json!({"model": "tiny", "messages": [{"content": "a secret"}]});
        let Value::Object(input) = input else { unreachable!("an object") };
        let call = ModelCall::new("chat", "openai", &input);
        assert_eq!(call.model.as_deref(), Some("tiny"));
        assert_eq!(ModelCall::new("chat", "openai", &Map::new()).model, None);
    }
}

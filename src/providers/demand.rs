//! What an input of a language model is expected to take of budgets, before anybody has counted it.

use serde_json::{Map, Value};

use crate::domain::{Demand, check_model};

/// How many bytes of an input make a token, about; more than that in languages written with many
/// bytes a letter, and far more in images, so that those are counted too high rather than too low.
const BYTES_PER_TOKEN: u64 = 4;
/// What is expected to be written where the input sets no cap.
pub(super) const DEFAULT_OUTPUT_TOKENS: u64 = 1_024;

/// The demand of an input of so many bytes, which caps what is written by `cap`.
pub(super) fn demand(input: &Map<String, Value>, bytes: usize, cap: Option<u64>) -> Demand {
    let model = input.get("model").and_then(Value::as_str);
    Demand {
        // One that can have no limits of its own is not worth keeping.
        model: model.filter(|model| check_model(model).is_ok()).map(str::to_owned),
        input_tokens: u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN),
        output_tokens: cap.unwrap_or(DEFAULT_OUTPUT_TOKENS),
    }
}

/// The first of these fields that holds a number of tokens.
pub(super) fn cap(input: &Map<String, Value>, fields: &[&str]) -> Option<u64> {
    fields.iter().find_map(|field| input.get(*field)?.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{Claude, Credential, Ollama, OpenAi, Provider, RemoteConfig};
    use serde_json::json;
    use std::time::Duration;

    fn config() -> RemoteConfig {
        RemoteConfig {
            endpoints: vec!["http://127.0.0.1:1".parse().expect("a URL")],
            key: Credential::None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        }
    }

    fn of(provider: &dyn Provider, input: Value) -> (Option<String>, u64, u64) {
        let bytes = input.to_string().len();
        let Value::Object(input) = input else { unreachable!("tests pass objects") };
        let demand = provider.demand(&input, bytes).expect("these kinds count tokens");
        assert_eq!(demand.input_tokens, u64::try_from(bytes).unwrap().div_ceil(4));
        (demand.model, demand.input_tokens, demand.output_tokens)
    }

    fn written(provider: &dyn Provider, input: Value) -> u64 {
        of(provider, input).2
    }

    #[test]
    fn what_openai_may_write_is_capped_by_chat_and_by_responses_in_fields_of_their_own() {
        let openai = OpenAi::new(config());
        let chat = json!({"model": "gpt-5", "messages": [], "max_completion_tokens": 7});
        let (model, _, tokens) = of(&openai, chat);
        assert_eq!((model.as_deref(), tokens), (Some("gpt-5"), 7));
        let both = json!({"messages": [], "max_tokens": 9, "max_completion_tokens": 7});
        assert_eq!(written(&openai, both), 7);
        assert_eq!(written(&openai, json!({"messages": [], "max_tokens": 9})), 9);
        assert_eq!(written(&openai, json!({"messages": [], "max_tokens": 9, "n": 3})), 27);
        assert_eq!(written(&openai, json!({"input": "hi", "max_output_tokens": 5})), 5);
        assert_eq!(written(&openai, json!({"input": "hi", "max_tokens": 5})), 1_024);
    }

    #[test]
    fn claude_and_ollama_cap_what_they_write_in_their_own_words() {
        let claude = Claude::new(config());
        assert_eq!(written(&claude, json!({"model": "c", "max_tokens": 300})), 300);
        let ollama = Ollama::new(config());
        assert_eq!(written(&ollama, json!({"options": {"num_predict": 64}})), 64);
        // -1 is without an end.
        assert_eq!(written(&ollama, json!({"options": {"num_predict": -1}})), 1_024);
        assert_eq!(written(&ollama, json!({"prompt": "hi"})), 1_024);
    }

    #[test]
    fn a_model_that_can_have_no_limits_is_not_kept() {
        let openai = OpenAi::new(config());
        let long = "x".repeat(129);
        assert_eq!(of(&openai, json!({"model": long, "messages": []})).0, None);
    }
}

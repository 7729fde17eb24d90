//! Keys, and keeping them out of everything that is stored or shown.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::providers::{AttemptFailure, Success};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps `text` to itself.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What stands where a secret stood.
const HIDDEN: &str = "[redacted]";
/// Shorter ones are placeholders for servers that want none: hiding them would garble answers.
const SHORTEST: usize = 8;

/// Takes secrets out of what a server says. Some echo the request, headers and all.
#[derive(Debug, Clone, Default)]
pub(in crate::providers) struct Redactor {
    secrets: Vec<Secret>,
}

impl Redactor {
    /// Hides `secret` from now on, and what follows the scheme in one like `Bearer KEY`.
    pub(super) fn hide(&mut self, secret: &Secret) {
        let text = secret.expose();
        let inner = text.split_once(' ').map(|(_, inner)| inner.trim());
        for text in [Some(text), inner].into_iter().flatten() {
            if text.len() >= SHORTEST {
                self.secrets.push(Secret::new(text));
            }
        }
    }

    pub(in crate::providers) fn text(&self, text: &mut String) {
        for secret in &self.secrets {
            if text.contains(secret.expose()) {
                *text = text.replace(secret.expose(), HIDDEN);
            }
        }
    }

    /// How many bytes at the end of `text` may be the beginning of a secret.
    pub(super) fn held_back(&self, text: &str) -> usize {
        let longest = |secret: &Secret| {
            let secret = secret.expose();
            let most = secret.len().saturating_sub(1).min(text.len());
            let ends = |length: &usize| {
                text.is_char_boundary(text.len() - length)
                    && secret.starts_with(&text[text.len() - length..])
            };
            (1..=most).rev().find(ends).unwrap_or(0)
        };
        self.secrets.iter().map(longest).max().unwrap_or(0)
    }

    pub(in crate::providers) fn value(&self, value: &mut Value) {
        if self.secrets.is_empty() {
            return;
        }
        match value {
            Value::String(text) => self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(object) => {
                let hidden = |name: &String| self.secrets.iter().any(|s| name.contains(s.expose()));
                if object.keys().any(hidden) {
                    let fields = std::mem::take(object).into_iter();
                    object.extend(fields.map(|(mut name, value)| {
                        self.text(&mut name);
                        (name, value)
                    }));
                }
                object.values_mut().for_each(|value| self.value(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    pub(in crate::providers) fn result(
        &self,
        result: Result<Success, AttemptFailure>,
    ) -> Result<Success, AttemptFailure> {
        match result {
            Ok(mut success) => {
                self.value(&mut success.output);
                Ok(success)
            }
            Err(mut failed) => {
                self.text(&mut failed.failure.message);
                failed.failure.details.iter_mut().for_each(|details| self.value(details));
                failed.output.iter_mut().for_each(|output| self.value(output));
                Err(failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        redactor.hide(&Secret::new("Bearer sk-canary-1234"));
        redactor.hide(&Secret::new("x"));
        redactor
    }

    #[test]
    fn a_secret_is_taken_out_wherever_it_stands() {
        let mut value = json!({
            "sk-canary-1234": 1,
            "echo": ["Authorization: Bearer sk-canary-1234", {"x": "=sk-canary-1234="}],
        });
        redactor().value(&mut value);
        let expected = json!({
            "[redacted]": 1,
            "echo": ["Authorization: [redacted]", {"x": "=[redacted]="}],
        });
        assert_eq!(value, expected);
        assert_eq!(format!("{:?}", redactor()), "Redactor { secrets: [[redacted], [redacted]] }");
    }

    #[test]
    fn what_may_become_a_secret_is_held_back() {
        let redactor = redactor();
        assert_eq!(redactor.held_back("my key is sk-can"), "sk-can".len());
        assert_eq!(redactor.held_back("a Bearer sk"), "Bearer sk".len());
        assert_eq!(redactor.held_back("nothing of it"), 0);
        assert_eq!(redactor.held_back("größe ß"), 0);
    }
}

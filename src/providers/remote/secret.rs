//! Keys, and keeping them out of everything that is stored or shown.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

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

/// The most secrets that are looked for; beyond that the oldest are forgotten. There is one more
/// with every exchange of a key.
const MOST: usize = 32;
/// As much of a secret may stand before a cut.
const HARMLESS: usize = 4;

/// Takes secrets out of what a server says. Some echo the request, headers and all. All copies know
/// the same secrets, so that a key that was exchanged meanwhile is not seen either.
#[derive(Clone, Default)]
pub(in crate::providers) struct Redactor(Arc<RwLock<Hidden>>);

#[derive(Default)]
struct Hidden {
    by_age: VecDeque<Secret>,
    /// One may be the beginning of another.
    longest_first: Arc<[Secret]>,
}

impl Redactor {
    /// Hides `secret` from now on, and what follows the scheme in one like `Bearer KEY`.
    pub(super) fn hide(&self, secret: &Secret) {
        let text = secret.expose();
        let inner = text.split_once(' ').map(|(_, inner)| inner.trim());
        for text in [Some(text), inner].into_iter().flatten() {
            let known = self.secrets().iter().any(|secret| secret.expose() == text);
            if text.len() >= SHORTEST && !known {
                self.0.write().unwrap_or_else(PoisonError::into_inner).add(Secret::new(text));
            }
        }
    }

    fn secrets(&self) -> Arc<[Secret]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).longest_first)
    }

    pub(in crate::providers) fn text(&self, text: &mut String) {
        for secret in self.secrets().iter() {
            if text.contains(secret.expose()) {
                *text = text.replace(secret.expose(), HIDDEN);
            }
        }
        // A message that was made shorter may end with half a secret.
        if text.ends_with('…') {
            text.pop();
            self.end(text);
            text.push('…');
        }
    }

    /// Takes half a secret from the end of a text that was cut off.
    pub(super) fn end(&self, text: &mut String) {
        let half = self.held_back(text);
        if half > HARMLESS {
            text.truncate(text.len() - half);
            text.push_str(HIDDEN);
        }
    }

    /// The same for what is no text, or was cut off.
    pub(in crate::providers) fn bytes(&self, bytes: &mut Vec<u8>) {
        for secret in self.secrets().iter() {
            let secret = secret.expose().as_bytes();
            let mut from = 0;
            while let Some(at) = bytes[from..].windows(secret.len()).position(|it| it == secret) {
                bytes.splice(from + at..from + at + secret.len(), HIDDEN.bytes());
                from += at + HIDDEN.len();
            }
        }
        let ends = |length: &usize| {
            let end = &bytes[bytes.len() - length..];
            self.secrets().iter().any(|secret| secret.expose().as_bytes().starts_with(end))
        };
        let most = self.secrets().first().map_or(0, |secret| secret.expose().len());
        if let Some(half) = (HARMLESS + 1..=most.min(bytes.len())).rev().find(ends) {
            bytes.truncate(bytes.len() - half);
            bytes.extend(HIDDEN.bytes());
        }
    }

    /// Takes half a secret from the end of every text of a result that was cut off.
    fn ends(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.end(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.ends(value)),
            Value::Object(object) => object.values_mut().for_each(|value| self.ends(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
        self.secrets().iter().map(longest).max().unwrap_or(0)
    }

    pub(in crate::providers) fn value(&self, value: &mut Value) {
        let secrets = self.secrets();
        if secrets.is_empty() {
            return;
        }
        match value {
            Value::String(text) => self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(object) => {
                let hidden = |name: &String| secrets.iter().any(|s| name.contains(s.expose()));
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
                if let Some(output) = &mut failed.output {
                    self.value(output);
                    self.ends(output);
                }
                Err(failed)
            }
        }
    }
}

impl Hidden {
    fn add(&mut self, secret: Secret) {
        self.by_age.push_back(secret);
        if self.by_age.len() > MOST {
            self.by_age.pop_front();
        }
        let mut secrets: Vec<_> = self.by_age.iter().cloned().collect();
        secrets.sort_by_key(|secret| Reverse(secret.expose().len()));
        self.longest_first = secrets.into();
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redactor").field(&self.secrets()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redactor() -> Redactor {
        let redactor = Redactor::default();
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
        assert_eq!(format!("{:?}", redactor()), "Redactor([[redacted], [redacted]])");
    }

    #[test]
    fn a_secret_that_is_no_text_or_cut_off_is_taken_out_too() {
        let mut bytes = b"\xff sk-canary-1234 \xfe".to_vec();
        redactor().bytes(&mut bytes);
        assert_eq!(bytes, b"\xff [redacted] \xfe");
        let mut bytes = b"\xff sk-canary-12".to_vec();
        redactor().bytes(&mut bytes);
        assert_eq!(bytes, b"\xff [redacted]");
        let mut text = "your key is sk-canary-12…".to_owned();
        redactor().text(&mut text);
        assert_eq!(text, "your key is [redacted]…");
    }

    #[test]
    fn a_secret_is_known_to_all_copies_and_a_longer_one_goes_first() {
        let redactor = Redactor::default();
        let copies = [redactor.clone(), Redactor::default()];
        for secret in ["12345678", "1234567890"] {
            redactor.hide(&Secret::new(secret));
            redactor.hide(&Secret::new(secret));
        }
        let mut text = "1234567890".to_owned();
        copies[0].text(&mut text);
        assert_eq!(text, "[redacted]");
        assert!(copies[1].secrets().is_empty());
        for number in 0..100 {
            redactor.hide(&Secret::new(&format!("another-{number}")));
        }
        assert_eq!(redactor.secrets().len(), MOST);
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

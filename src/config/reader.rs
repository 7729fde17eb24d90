//! Reads single settings, so that what is wrong with one always names its key and its source.

use std::collections::BTreeMap;

use figment::Figment;
use figment::error::Kind;
use serde::de::DeserializeOwned;

use super::ConfigError;

/// The sources, laid over each other.
pub(super) struct Reader {
    figment: Figment,
    variables: BTreeMap<String, String>,
}

impl Reader {
    pub(super) fn new(figment: Figment, variables: BTreeMap<String, String>) -> Self {
        Self { figment, variables }
    }

    /// A variable of the environment that a setting names; one that is empty counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The setting, if any source has it and `check` lets it pass.
    pub(super) fn get<T, U>(
        &self,
        key: &str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<Option<U>, ConfigError>
    where
        T: DeserializeOwned,
    {
        if !self.figment.contains(key) {
            return Ok(None);
        }
        let raw = self
            .figment
            .extract_inner(key)
            .map_err(|error| self.refuse(key, problem(&error.kind)))?;
        check(raw).map(Some).map_err(|problem| self.refuse(key, problem))
    }

    /// The same for a setting that may hold what is not to be seen, if only by mistake: a refusal
    /// says what it must be and nothing of what it is.
    pub(super) fn get_unseen<T, U>(
        &self,
        key: &str,
        must_be: &str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<Option<U>, ConfigError>
    where
        T: DeserializeOwned,
    {
        if !self.figment.contains(key) {
            return Ok(None);
        }
        let raw = self.figment.extract_inner(key);
        let raw = raw.map_err(|_| self.refuse(key, format!("must be {must_be}")))?;
        check(raw).map(Some).map_err(|problem| self.refuse(key, problem))
    }

    /// Whether any source has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.figment.contains(key)
    }

    /// Whether the key is a table.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.figment.find_value(key).is_ok_and(|value| value.as_dict().is_some())
    }

    /// The keys of a table.
    pub(super) fn keys(&self, table: &str) -> Vec<String> {
        let table = self.figment.find_value(table).ok();
        table
            .and_then(figment::value::Value::into_dict)
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
            .collect()
    }

    /// What to say when the key's value cannot be honoured.
    pub(super) fn refuse(&self, key: &str, problem: String) -> ConfigError {
        let metadata = self.figment.find_metadata(key);
        let origin =
            metadata.map_or_else(|| "nowhere".to_owned(), |source| source.name.to_string());
        ConfigError::Invalid { key: key.to_owned(), origin, problem }
    }
}

fn problem(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(found, expected) => {
            let expected = match expected.as_str() {
                "i64" => "a whole number",
                "f64" => "a number",
                expected => expected,
            };
            format!("must be {expected}, not {found}")
        }
        other => format!("cannot be read: {other}"),
    }
}

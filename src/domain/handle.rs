//! How a provider knows the work of an attempt.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object of ids that the provider gave for a piece of work: of a run, a job, a response.
/// With it, an attempt after a crash finds that work again. What stands in it is between the
/// attempts of one provider's kind, and for people to look up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Handle(Arc<str>);

/// A handle that no provider gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handle of {0} bytes, where at most {max} are kept", max = Handle::MAX_BYTES)]
pub struct HandleTooLarge(usize);

impl Handle {
    /// The longest JSON text a handle may be.
    pub const MAX_BYTES: usize = 4_096;

    /// A handle on the work that has these ids.
    pub fn new(ids: Map<String, Value>) -> Result<Self, HandleTooLarge> {
        let text = Value::Object(ids).to_string();
        if text.len() > Self::MAX_BYTES {
            return Err(HandleTooLarge(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The JSON text of it.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The ids in it.
    pub fn ids(&self) -> Map<String, Value> {
        // Made from a map, so it reads as one.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The id under `name`, if it is a text.
    pub fn id(&self, name: &str) -> Option<String> {
        self.ids().get(name).and_then(Value::as_str).map(str::to_owned)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<Map<String, Value>> for Handle {
    type Error = HandleTooLarge;

    fn try_from(ids: Map<String, Value>) -> Result<Self, Self::Error> {
        Self::new(ids)
    }
}

impl From<Handle> for Map<String, Value> {
    fn from(handle: Handle) -> Self {
        handle.ids()
    }
}

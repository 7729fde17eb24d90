//! The contract's messages as proto3 JSON, the way `buf curl` prints them: lowerCamelCase, enum
//! values by full name, 64-bit integers as strings, fields with their default value left out.
//!
//! Every message is taken apart without `..`, so that a new field does not compile until it is
//! printed.

mod executions;
mod log_level;
mod providers;
mod system;
mod values;
mod workers;

pub(super) use executions::{
    cancelled_batch, error_json, execution_reply, executions_page, watched,
};
pub(super) use log_level::log_level;
pub(super) use providers::{limits_changes, limits_set, providers};
pub(super) use system::status;
pub(super) use values::{from_struct, from_value, to_struct};
pub(super) use workers::workers;

use std::collections::BTreeMap;

use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value};

use super::names::{self, Named};

/// A JSON object in the making. Each method leaves out the default of its type.
#[derive(Debug, Default)]
struct Object(Map<String, Value>);

impl Object {
    fn set(mut self, key: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    fn text(self, key: &str, text: &str) -> Self {
        self.set(key, (!text.is_empty()).then(|| text.into()))
    }

    fn boolean(self, key: &str, value: bool) -> Self {
        self.set(key, value.then(|| true.into()))
    }

    fn int32(self, key: &str, number: i32) -> Self {
        self.set(key, (number != 0).then(|| number.into()))
    }

    /// As a string, for readers whose numbers are doubles.
    fn int64(self, key: &str, number: i64) -> Self {
        self.set(key, (number != 0).then(|| number.to_string().into()))
    }

    /// The same for a field that may be absent: 0 is shown.
    fn set_int64(self, key: &str, number: Option<i64>) -> Self {
        self.set(key, number.map(|number| number.to_string().into()))
    }

    fn double(self, key: &str, number: f64) -> Self {
        self.set(key, (number != 0.0).then(|| number.into()))
    }

    fn name<E: Named>(self, key: &str, value: i32) -> Self {
        self.set(key, (value != 0).then(|| enum_name::<E>(value)))
    }

    fn time(self, key: &str, time: Option<&Timestamp>) -> Self {
        self.set(key, time.map(|time| time.to_string().into()))
    }

    fn duration(self, key: &str, duration: Option<&Duration>) -> Self {
        self.set(key, duration.map(|duration| duration.to_string().into()))
    }

    fn list(self, key: &str, items: impl IntoIterator<Item = Value>) -> Self {
        let items: Vec<Value> = items.into_iter().collect();
        self.set(key, (!items.is_empty()).then(|| items.into()))
    }

    fn map(self, key: &str, entries: &BTreeMap<String, String>) -> Self {
        let entries: Map<_, _> =
            entries.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        self.set(key, (!entries.is_empty()).then(|| entries.into()))
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn enum_name<E: Named>(value: i32) -> Value {
    names::full::<E>(value).map_or_else(|| value.into(), Value::from)
}

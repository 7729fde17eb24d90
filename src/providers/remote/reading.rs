//! Reading inputs and answers field by field.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::broken;
use crate::domain::{Handle, Usage};
use crate::providers::{AttemptFailure, Violation};

/// What stands in a path as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An id of a handle as one segment of a path: a provider that gives odd ones leads nowhere else.
pub(in crate::providers) fn id_in_path(
    handle: &Handle,
    name: &str,
) -> Result<String, AttemptFailure> {
    match handle.id(name).as_deref() {
        None | Some("" | "." | "..") => Err(broken(format!("the handle holds no {name}"))),
        Some(id) => Ok(utf8_percent_encode(id, SEGMENT).to_string()),
    }
}

/// A text without the mark that some servers begin theirs with.
pub(in crate::providers) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

/// What kind of value a field takes.
pub(in crate::providers) type Check = fn(&Value) -> bool;

/// Checks the fields of an input whose names are fixed: `known` with what each takes, those in
/// `needed` must be there, others are refused.
pub(in crate::providers) fn fields(
    input: &Map<String, Value>,
    known: &[(&str, Check, &str)],
    needed: &[&str],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, value) in input {
        match known.iter().find(|(known, ..)| known == name) {
            Some((_, check, _)) if check(value) => {}
            Some((_, _, what)) => violations.push(Violation::new(name, format!("must be {what}"))),
            None => {
                let names: Vec<_> = known.iter().map(|(known, ..)| *known).collect();
                let message = format!("is not known; known are {}", names.join(", "));
                violations.push(Violation::new(name, message));
            }
        }
    }
    for name in needed.iter().filter(|name| !input.contains_key(**name)) {
        violations.push(Violation::new(*name, "is missing"));
    }
    violations
}

pub(in crate::providers) fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

/// Checks that `name` is a text that is not empty.
pub(in crate::providers) fn check_string(
    input: &Map<String, Value>,
    name: &str,
    violations: &mut Vec<Violation>,
) {
    match input.get(name) {
        Some(Value::String(text)) if !text.is_empty() => {}
        Some(_) => violations.push(Violation::new(name, "must be a text that is not empty")),
        None => violations.push(Violation::new(name, "is missing")),
    }
}

/// Reads token counts under these names; `None` if neither is there.
pub(in crate::providers) fn take_usage(
    value: &Value,
    inputs: &[&str],
    output: &str,
) -> Option<Usage> {
    let count = |name: &str| value.get(name).and_then(Value::as_i64);
    let read: Vec<_> = inputs.iter().filter_map(|name| count(name)).collect();
    let written = count(output);
    if read.is_empty() && written.is_none() {
        return None;
    }
    let read = read.into_iter().fold(0, i64::saturating_add);
    Some(Usage { input_tokens: read, output_tokens: written.unwrap_or(0) }.believed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_that_cannot_be_true_are_not_believed() {
        let names = ["read", "cached"];
        let told = json!({ "read": i64::MAX, "cached": 5, "written": -7 });
        let usage = take_usage(&told, &names, "written").unwrap();
        assert_eq!(usage, Usage { input_tokens: 1 << 40, output_tokens: 0 });
        assert_eq!(take_usage(&json!({ "read": "3" }), &names, "written"), None);
    }
}

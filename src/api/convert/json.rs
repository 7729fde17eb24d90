//! `google.protobuf.Struct` and `Value` to JSON and back.
//!
//! Whole numbers up to 2^53 go out as integers, because providers tell `1` from `1.0`. Nesting is
//! bounded in both directions: protobuf libraries read at most 100 messages within each other, and
//! one JSON object takes three of them.

use std::collections::BTreeMap;
use std::fmt;

use prost_types::value::Kind;
use prost_types::{ListValue, NullValue, Struct};
use serde_json::{Map, Number, Value};

use super::check::Check;

/// The largest input or output, as JSON text.
pub(crate) const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;
/// Objects and arrays within each other; leaves room for the messages that hold the value.
const MAX_DEPTH: usize = 30;
/// Up to here a double holds every whole number.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The JSON object that a `Struct` stands for. What JSON cannot express is noted in `check`.
pub(crate) fn from_struct(given: Struct, check: &mut Check) -> Map<String, Value> {
    object(given, &Path::Root, 1, check)
}

/// The `Struct` that stands for a JSON object.
pub(crate) fn to_struct(object: Map<String, Value>) -> Struct {
    struct_at(object, 1)
}

/// The `Value` that stands for a JSON value. What is nested too deeply becomes its JSON text.
pub(crate) fn to_value(value: Value) -> prost_types::Value {
    value_at(value, 0)
}

fn object(given: Struct, path: &Path<'_>, depth: usize, check: &mut Check) -> Map<String, Value> {
    let mut object = Map::new();
    for (key, given) in given.fields {
        let value = value(given, &Path::Key(path, &key), depth, check);
        object.insert(key, value);
    }
    object
}

fn value(given: prost_types::Value, path: &Path<'_>, depth: usize, check: &mut Check) -> Value {
    match given.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(given)) => Value::Bool(given),
        Some(Kind::StringValue(given)) => Value::String(given),
        Some(Kind::NumberValue(given)) => {
            let number = number(given).ok_or("must be a finite number");
            check.field(path.to_string(), number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StructValue(_) | Kind::ListValue(_)) if depth == MAX_DEPTH => {
            let description = format!("is nested more than {MAX_DEPTH} deep: use input_json");
            check.add(path.to_string(), description);
            Value::Null
        }
        Some(Kind::StructValue(given)) => Value::Object(object(given, path, depth + 1, check)),
        Some(Kind::ListValue(given)) => {
            let items = given.values.into_iter().enumerate();
            Value::Array(
                items
                    .map(|(index, item)| value(item, &Path::Index(path, index), depth + 1, check))
                    .collect(),
            )
        }
    }
}

fn number(given: f64) -> Option<Number> {
    if given.fract() == 0.0 && given.abs() <= MAX_WHOLE {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
        return Some(Number::from(given as i64));
    }
    Number::from_f64(given)
}

fn struct_at(object: Map<String, Value>, depth: usize) -> Struct {
    let fields = object.into_iter().map(|(key, value)| (key, value_at(value, depth)));
    Struct { fields: fields.collect::<BTreeMap<_, _>>() }
}

fn value_at(value: Value, depth: usize) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        Value::Bool(value) => Kind::BoolValue(value),
        // No JSON number is outside the range of a double: such a text does not parse.
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::MAX)),
        Value::String(value) => Kind::StringValue(value),
        value @ (Value::Array(_) | Value::Object(_)) if depth == MAX_DEPTH => {
            Kind::StringValue(value.to_string())
        }
        Value::Array(items) => {
            let items = items.into_iter().map(|item| value_at(item, depth + 1));
            Kind::ListValue(ListValue { values: items.collect() })
        }
        Value::Object(object) => Kind::StructValue(struct_at(object, depth + 1)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Where a value lies below its input; written out only if something is wrong with it.
pub(crate) enum Path<'a> {
    /// The input itself.
    Root,
    /// A member of an object.
    Key(&'a Path<'a>, &'a str),
    /// An element of an array.
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(parent, key) if is_plain(key) => match parent {
                Path::Root => write!(f, "{key}"),
                parent => write!(f, "{parent}.{key}"),
            },
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn is_plain(key: &str) -> bool {
    let starts_well = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts_well && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use serde_json::json;

    fn given(kind: Kind) -> prost_types::Value {
        prost_types::Value { kind: Some(kind) }
    }

    fn one(key: &str, kind: Kind) -> Struct {
        Struct { fields: [(key.to_owned(), given(kind))].into() }
    }

    fn read(given: Struct) -> Result<Map<String, Value>, String> {
        let mut check = Check::default();
        let object = check.within("input", |check| from_struct(given, check));
        check.finish(Some(object)).map_err(|violations| {
            let fields = violations.kept.into_iter().map(|violation| violation.field);
            fields.collect::<Vec<_>>().join(" ")
        })
    }

    fn text_of(number: f64) -> String {
        let object = read(one("n", Kind::NumberValue(number))).expect("the number is finite");
        object["n"].to_string()
    }

    #[test]
    fn whole_numbers_go_out_as_integers_up_to_2_to_the_53() {
        assert_eq!(text_of(1.0), "1");
        assert_eq!(text_of(-0.0), "0");
        assert_eq!(text_of(-9_007_199_254_740_992.0), "-9007199254740992");
        assert_eq!(text_of(0.25), "0.25");
        assert_eq!(text_of(1e20), "1e20".parse::<f64>().map(|n| json!(n).to_string()).unwrap());
    }

    #[test]
    fn a_number_that_json_cannot_express_is_named_by_its_path() {
        let list = ListValue {
            values: vec![
                given(Kind::NumberValue(1.0)),
                given(Kind::NumberValue(f64::NAN)),
                given(Kind::StructValue(one("odd key", Kind::NumberValue(f64::INFINITY)))),
            ],
        };
        let violations = read(one("args", Kind::ListValue(list)));
        assert_eq!(violations, Err("input.args[1] input.args[2][odd key]".to_owned()));
    }

    #[test]
    fn a_value_survives_the_way_in_and_out() {
        let object = json!({"a": [1, 2.5, null, true, "x", {}, []], "b": {"c": -7}});
        let Value::Object(object) = object else { unreachable!() };
        assert_eq!(read(to_struct(object.clone())), Ok(object));
    }

    fn nested(depth: usize) -> Struct {
        (1..depth).fold(Struct::default(), |inner, _| one("a", Kind::StructValue(inner)))
    }

    #[test]
    fn deep_nesting_is_a_violation_and_never_a_crash() {
        assert!(read(nested(MAX_DEPTH)).is_ok());
        assert!(read(nested(MAX_DEPTH + 1)).is_err_and(|paths| paths.starts_with("input.a.a")));
    }

    #[test]
    fn whatever_is_sent_can_be_decoded_again() {
        let deep = (0..120).fold(json!(1), |inner, _| json!({ "a": inner }));
        let value = to_value(deep);
        let bytes = value.encode_to_vec();
        assert_eq!(prost_types::Value::decode(bytes.as_slice()), Ok(value));
    }
}

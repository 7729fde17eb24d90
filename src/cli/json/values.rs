//! `google.protobuf.Struct` and JSON, both ways.

use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::{Map, Number, Value};

/// The whole numbers up to here are exact in a Struct, whose numbers are doubles.
const MAX_EXACT: u64 = 1 << 53;

/// JSON of a Struct.
pub(in crate::cli) fn from_struct(message: &Struct) -> Value {
    let fields = message.fields.iter().map(|(key, value)| (key.clone(), from_value(value)));
    Value::Object(fields.collect())
}

/// JSON of a Value; whole numbers are written as such.
pub(in crate::cli) fn from_value(message: &prost_types::Value) -> Value {
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(number)) => from_number(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(from_value).collect(),
        Some(Kind::StructValue(message)) => from_struct(message),
    }
}

fn from_number(number: f64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let exact = number.fract() == 0.0 && number.abs() <= MAX_EXACT as f64;
    if exact {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        return Value::from(number as i64);
    }
    // Not a number and infinity do not exist in JSON, and no server sends them.
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// The Struct of a JSON object, or which number in it a Struct cannot hold exactly.
pub(in crate::cli) fn to_struct(object: Map<String, Value>) -> Result<Struct, Number> {
    let fields = object
        .into_iter()
        .map(|(key, value)| to_value(value).map(|value| (key, value)))
        .collect::<Result<_, _>>()?;
    Ok(Struct { fields })
}

fn to_value(value: Value) -> Result<prost_types::Value, Number> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(to_number(number)?),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            let values = items.into_iter().map(to_value).collect::<Result<_, _>>()?;
            Kind::ListValue(prost_types::ListValue { values })
        }
        Value::Object(object) => Kind::StructValue(to_struct(object)?),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}

fn to_number(number: Number) -> Result<f64, Number> {
    let magnitude = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
    match number.as_f64() {
        Some(double) if magnitude.is_none_or(|magnitude| magnitude <= MAX_EXACT) => Ok(double),
        _ => Err(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round_trip(value: Value) -> Result<Value, Number> {
        let Value::Object(object) = value else { unreachable!("tests pass objects") };
        to_struct(object).map(|message| from_struct(&message))
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let value = json!({
            "model": "m", "max_tokens": 1024, "temperature": 0.5, "stream": false, "stop": null,
            "messages": [{"role": "user", "content": "hi"}], "negative": -9_007_199_254_740_992_i64,
        });
        assert_eq!(round_trip(value.clone()), Ok(value));
    }

    #[test]
    fn a_number_beyond_what_a_double_holds_is_refused_and_not_changed() {
        let number = 9_007_199_254_740_993_u64;
        assert_eq!(round_trip(json!({"deep": [{"id": number}]})), Err(number.into()));
        assert_eq!(round_trip(json!({"id": u64::MAX})), Err(u64::MAX.into()));
    }

    #[test]
    fn a_value_without_a_kind_is_null() {
        assert_eq!(from_value(&prost_types::Value { kind: None }), Value::Null);
    }
}

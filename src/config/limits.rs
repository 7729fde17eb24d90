//! Reads what a provider admits: the limits that are in force until an operator sets others.

use std::collections::BTreeMap;
use std::time::Duration;

use figment::value::Dict;

use super::reader::Reader;
use super::{ConfigError, keys, values};
use crate::domain::{
    AdaptiveBounds, Limits, MOST_CONCURRENT, MOST_MODELS, MOST_PENDING, MOST_PER_MINUTE, Rates,
    check_model,
};

/// Reads the limits in `table`; one that says nothing of it admits `max_concurrent` attempts.
pub(super) fn read(
    reader: &Reader,
    table: &str,
    max_concurrent: u32,
) -> Result<Limits, ConfigError> {
    let key = |key: &str| format!("{table}.{key}");
    let stated = reader.get(&key("max_concurrent"), values::count)?;
    let adaptive = adaptive(reader, &key(keys::ADAPTIVE))?;
    if let (Some(stated), Some(AdaptiveBounds { min, max, .. })) = (stated, adaptive)
        && !(min..=max).contains(&stated)
    {
        let problem = format!("must lie within adaptive, which is {min} to {max}, not {stated}");
        return Err(reader.refuse(&key("max_concurrent"), problem));
    }
    let rate = |name: &str| reader.get(&key(name), rate);
    let max_pending = reader.get(&key("max_pending"), |number| {
        let number = values::within(number, 1, i64::from(MOST_PENDING))?;
        u32::try_from(number).map_err(|error| error.to_string())
    })?;
    Ok(Limits {
        max_concurrent: stated.unwrap_or(max_concurrent),
        rates: Rates {
            requests_per_minute: rate("requests_per_minute")?,
            input_tokens_per_minute: rate("input_tokens_per_minute")?,
            output_tokens_per_minute: rate("output_tokens_per_minute")?,
        },
        max_pending,
        adaptive,
        models: reader.get(&key(keys::MODELS), models)?.unwrap_or_default(),
    })
}

fn rate(number: i64) -> Result<u64, String> {
    let most = i64::try_from(MOST_PER_MINUTE).unwrap_or(i64::MAX);
    u64::try_from(values::within(number, 1, most)?).map_err(|error| error.to_string())
}

fn adaptive(reader: &Reader, table: &str) -> Result<Option<AdaptiveBounds>, ConfigError> {
    if !reader.has(table) {
        return Ok(None);
    }
    if !reader.is_table(table) {
        return Err(reader.refuse(table, "must be a table".to_owned()));
    }
    let key = |key: &str| format!("{table}.{key}");
    let within = |least: u32, most: u32| {
        move |number| {
            let number = values::within(number, i64::from(least), i64::from(most))?;
            u32::try_from(number).map_err(|error| error.to_string())
        }
    };
    let max = reader.get(&key("max"), within(1, MOST_CONCURRENT))?;
    let max = max.ok_or_else(|| reader.refuse(table, "needs a max".to_owned()))?;
    let min = reader.get(&key("min"), within(1, max))?.unwrap_or(1);
    let target_latency = reader
        .get(&key("target_latency"), |text| values::duration(text, Duration::from_millis(1)))?;
    Ok(Some(AdaptiveBounds { min, max, target_latency }))
}

/// Reads the table of models as a whole: the dots in their names would read as steps of a path.
fn models(given: BTreeMap<String, Dict>) -> Result<BTreeMap<String, Rates>, String> {
    if given.len() > MOST_MODELS {
        return Err(format!("must name at most {MOST_MODELS} models, not {}", given.len()));
    }
    let mut models = BTreeMap::new();
    for (name, table) in given {
        check_model(&name).map_err(|problem| format!("{problem}, not as {name:?}"))?;
        let rate = |key: &str| {
            let Some(value) = table.get(key) else { return Ok(None) };
            let number = value.to_i128().and_then(|number| i64::try_from(number).ok());
            let checked = number.ok_or_else(|| "must be a whole number".to_owned()).and_then(rate);
            checked.map(Some).map_err(|problem| format!("has for {name:?} a {key} that {problem}"))
        };
        let rates = Rates {
            requests_per_minute: rate("requests_per_minute")?,
            input_tokens_per_minute: rate("input_tokens_per_minute")?,
            output_tokens_per_minute: rate("output_tokens_per_minute")?,
        };
        models.insert(name, rates);
    }
    Ok(models)
}

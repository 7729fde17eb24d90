//! `[providers.NAME.retry]`: how failed attempts of a provider are tried again.

use std::time::Duration;

use super::reader::Reader;
use super::{ConfigError, keys, values};
use crate::domain::{ErrorCode, RetryBudget, RetryPolicy, RetryRules};

/// Retries within a minute that a budget allows however little else is done.
const DEFAULT_BUDGET_MIN: u32 = 10;

/// Reads the rules of the provider in `table`.
pub(super) fn read(reader: &Reader, table: &str) -> Result<RetryRules, ConfigError> {
    let table = format!("{table}.{}", keys::RETRY);
    if reader.has(&table) && !reader.is_table(&table) {
        return Err(reader.refuse(&table, "must be a table".to_owned()));
    }
    let key = |key: &str| format!("{table}.{key}");
    let default = RetryPolicy::default();
    let max_attempts = reader.get(&key("max_attempts"), |number| {
        u32::try_from(values::within(number, 1, 100)?).map_err(|error| error.to_string())
    })?;
    let backoff = |name: &str, default| {
        let backoff = reader.get(&key(name), |text| values::duration(text, Duration::ZERO))?;
        Ok(backoff.unwrap_or(default))
    };
    let multiplier =
        reader.get(&key("backoff_multiplier"), |number| values::factor(number, 1.0, 10.0))?;
    let codes = |name: &str| Ok(reader.get(&key(name), codes)?.unwrap_or_default());
    let (retry_on, no_retry_on) = (codes("retry_on")?, codes("no_retry_on")?);
    if let Some(both) = no_retry_on.iter().find(|code| retry_on.contains(code)) {
        let problem = format!("names {}, which retry_on names too", both.name());
        return Err(reader.refuse(&key("no_retry_on"), problem));
    }
    Ok(RetryRules {
        defaults: RetryPolicy {
            max_attempts: max_attempts.unwrap_or(default.max_attempts),
            initial_backoff: backoff("initial_backoff", default.initial_backoff)?,
            max_backoff: backoff("max_backoff", default.max_backoff)?,
            multiplier: multiplier.unwrap_or(default.multiplier),
            retry_on,
        },
        no_retry_on,
        budget: budget(reader, &key("budget"), &key("budget_min"))?,
    })
}

fn budget(reader: &Reader, share: &str, least: &str) -> Result<Option<RetryBudget>, ConfigError> {
    let given = reader.get(share, |number| values::factor(number, 0.0, 10.0))?;
    let min = reader.get(least, |number| {
        u32::try_from(values::within(number, 0, 100_000)?).map_err(|error| error.to_string())
    })?;
    match (given, min) {
        (Some(share), min) => {
            Ok(Some(RetryBudget { share, least: min.unwrap_or(DEFAULT_BUDGET_MIN) }))
        }
        (None, Some(_)) => Err(reader.refuse(least, "needs budget beside it".to_owned())),
        (None, None) => Ok(None),
    }
}

fn codes(names: Vec<String>) -> Result<Vec<ErrorCode>, String> {
    let mut codes = Vec::new();
    for name in names {
        let code = code(&name)?;
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    Ok(codes)
}

fn code(name: &str) -> Result<ErrorCode, String> {
    let known = ErrorCode::ALL.into_iter().find(|code| code.name().eq_ignore_ascii_case(name));
    let Some(code) = known else {
        let hint = keys::hint(name, &ErrorCode::ALL.map(ErrorCode::name));
        return Err(format!("has the unknown error code {name:?}; {hint}"));
    };
    match code.rule_of_its_own() {
        Some(rule) => Err(format!("must not name {}: {rule}", code.name())),
        None => Ok(code),
    }
}

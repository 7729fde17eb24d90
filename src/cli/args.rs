//! Arguments that several commands share.

use crate::pb::{ExecutionFilter, ExecutionState};
use prost_types::Timestamp;

use super::{names, time};

/// Which executions are meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FilterArgs {
    /// Of this provider; repeat or separate by commas for any of several
    #[arg(long = "provider", value_name = "NAME", value_delimiter = ',')]
    providers: Vec<String>,
    /// In this state; repeat or separate by commas for any of several
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',',
          value_parser = names::parse::<ExecutionState>)]
    states: Vec<ExecutionState>,
    /// With this label; repeat for several, which must all be present
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Created at this time or later: RFC 3339, or from now such as -1h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse_time)]
    created_after: Option<Timestamp>,
    /// Created before this time: RFC 3339, or from now such as -1h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse_time)]
    created_before: Option<Timestamp>,
}

impl FilterArgs {
    pub(super) fn into_filter(self) -> ExecutionFilter {
        ExecutionFilter {
            providers: self.providers,
            states: self.states.into_iter().map(i32::from).collect(),
            labels: self.labels.into_iter().collect(),
            created_after: self.created_after,
            created_before: self.created_before,
        }
    }
}

/// Reads `KEY=VALUE`; the value may be empty or hold further `=`.
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Reads `PROVIDER=N`, or a provider alone.
pub(super) fn parse_limit(text: &str) -> Result<(String, Option<i32>), String> {
    if !text.is_empty() && !text.contains('=') {
        return Ok((text.to_owned(), None));
    }
    let (provider, limit) = parse_label(text).map_err(|_| "must be PROVIDER=N".to_owned())?;
    let limit = limit.parse().map_err(|_| format!("{limit:?} is not a whole number"))?;
    Ok((provider, Some(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_split_at_its_first_equals_sign() {
        assert_eq!(parse_label("q=a=b"), Ok(("q".to_owned(), "a=b".to_owned())));
        assert_eq!(parse_label("empty="), Ok(("empty".to_owned(), String::new())));
        assert!(parse_label("alone").is_err());
        assert!(parse_label("=value").is_err());
    }

    #[test]
    fn a_limit_is_a_whole_number() {
        assert_eq!(parse_limit("claude=5"), Ok(("claude".to_owned(), Some(5))));
        assert_eq!(parse_limit("claude"), Ok(("claude".to_owned(), None)));
        for wrong in ["claude=five", "claude=", "=5", ""] {
            assert!(parse_limit(wrong).is_err(), "{wrong:?}");
        }
    }
}

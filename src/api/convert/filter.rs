//! Which executions a request means, and the labels that executions and filters have in common.

use std::collections::BTreeMap;

use super::check::{Check, Violations};
use super::enums;
use super::scalar::{reason, required, timestamp};
use crate::domain::ProviderName;
use crate::engine::Filter;
use crate::pb;

const MAX_LABELS: usize = 32;
const MAX_LABEL_CHARS: usize = 256;
const MAX_LABEL_KEY_BYTES: usize = 63;
/// Far more than anyone configures; bounds what a query has to look at.
const MAX_PROVIDERS: usize = 1_000;

/// Checks a filter; absent, it means all executions.
pub(crate) fn filter(given: Option<pb::ExecutionFilter>, check: &mut Check) -> Filter {
    let given = given.unwrap_or_default();
    check.within("filter", |check| Filter {
        providers: provider_names(&given.providers, check),
        states: states(&given.states, check),
        labels: labels(given.labels, check),
        created_after: check.optional("created_after", given.created_after, timestamp),
        created_before: check.optional("created_before", given.created_before, timestamp),
    })
}

/// Checks what `BatchCancelExecutions` is to cancel, and why.
pub(crate) fn batch_cancel(
    given: pb::BatchCancelExecutionsRequest,
) -> Result<(Filter, String), Violations> {
    let mut check = Check::default();
    let filter = some_filter(given.filter, &mut check);
    let reason = check.field("reason", reason(given.reason));
    check.finish(reason.map(|reason| (filter, reason)))
}

/// Checks what `BatchRetryExecutions` is to run again.
pub(crate) fn batch_retry(given: pb::BatchRetryExecutionsRequest) -> Result<Filter, Violations> {
    let mut check = Check::default();
    let filter = some_filter(given.filter, &mut check);
    check.finish(Some(filter))
}

/// Checks names of providers; a name given twice counts once.
pub(crate) fn provider_names(given: &[String], check: &mut Check) -> Vec<ProviderName> {
    if given.len() > MAX_PROVIDERS {
        check.add("providers", format!("must hold at most {MAX_PROVIDERS} names"));
        return Vec::new();
    }
    let names = given.iter().enumerate();
    let mut names: Vec<_> = names
        .filter_map(|(index, name)| check.field(format!("providers[{index}]"), required(name)))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Checks labels.
pub(crate) fn labels(
    given: BTreeMap<String, String>,
    check: &mut Check,
) -> BTreeMap<String, String> {
    if given.len() > MAX_LABELS {
        check.add("labels", format!("must hold at most {MAX_LABELS} labels"));
        return BTreeMap::new();
    }
    for (key, value) in &given {
        if !is_label_key(key) {
            check.add(
                format!("labels[{key}]"),
                "must have a key that matches [a-zA-Z0-9][a-zA-Z0-9_./-]{0,62}",
            );
        }
        if value.chars().nth(MAX_LABEL_CHARS).is_some() {
            check.add(format!("labels[{key}]"), "must have at most 256 characters");
        }
        // PostgreSQL cannot store it.
        if value.contains('\0') {
            check.add(format!("labels[{key}]"), "must not hold a NUL character");
        }
    }
    given
}

/// A filter for an rpc that changes what it finds: to mean everything takes a word about it.
fn some_filter(given: Option<pb::ExecutionFilter>, check: &mut Check) -> Filter {
    if given.as_ref().is_none_or(|given| *given == pb::ExecutionFilter::default()) {
        check.add("filter", "must hold at least one criterion");
    }
    filter(given, check)
}

fn states(given: &[i32], check: &mut Check) -> Vec<crate::domain::State> {
    let mut states = Vec::new();
    for (index, given) in given.iter().enumerate() {
        let state = check.field(format!("states[{index}]"), enums::state_from_pb(*given));
        states.extend(state.filter(|state| !states.contains(state)));
    }
    states
}

fn is_label_key(key: &str) -> bool {
    let starts_well = key.starts_with(|first: char| first.is_ascii_alphanumeric());
    let goes_on_well =
        key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte));
    starts_well && goes_on_well && key.len() <= MAX_LABEL_KEY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of(given: pb::ExecutionFilter) -> Vec<String> {
        let mut check = Check::default();
        let filter = filter(Some(given), &mut check);
        match check.finish(Some(filter)) {
            Ok(_) => Vec::new(),
            Err(violations) => violations.kept.into_iter().map(|one| one.field).collect(),
        }
    }

    #[test]
    fn every_malformed_criterion_is_named_at_once() {
        let fields = fields_of(pb::ExecutionFilter {
            providers: vec!["ok".to_owned(), "also-ok".to_owned(), "Not Ok".to_owned()],
            states: vec![1, 0, 77],
            labels: [("bad key", "x"), ("good", "x")].map(|(k, v)| (k.into(), v.into())).into(),
            created_after: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            created_before: None,
        });
        let expected = [
            "filter.providers[2]",
            "filter.states[1]",
            "filter.states[2]",
            "filter.labels[bad key]",
            "filter.created_after",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn labels_keep_to_their_grammar() {
        let mut check = Check::default();
        let good = [("a", ""), ("9/a.b_c-d", "ü"), (&"k".repeat(63), &"ü".repeat(256))];
        labels(good.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), &mut check);
        assert!(check.finish(Some(())).is_ok());
        for (key, value) in [
            ("", ""),
            ("-a", ""),
            ("ä", ""),
            ("a b", ""),
            (&*"k".repeat(64), ""),
            ("a", &*"v".repeat(257)),
            ("a", "\0"),
        ] {
            let mut check = Check::default();
            labels([(key.to_owned(), value.to_owned())].into(), &mut check);
            assert!(check.finish(Some(())).is_err(), "{key:?} {value:?}");
        }
        let many = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
        let mut check = Check::default();
        labels(many, &mut check);
        assert!(check.finish(Some(())).is_err());
    }

    #[test]
    fn a_batch_needs_at_least_one_criterion() {
        for filter in [None, Some(pb::ExecutionFilter::default())] {
            let given = pb::BatchRetryExecutionsRequest { filter, validate_only: false };
            assert!(batch_retry(given).is_err_and(|found| found.kept[0].field == "filter"));
        }
        let filter = pb::ExecutionFilter { states: vec![4], ..pb::ExecutionFilter::default() };
        let given = pb::BatchCancelExecutionsRequest {
            filter: Some(filter),
            reason: "enough".to_owned(),
            validate_only: true,
        };
        assert!(
            batch_cancel(given)
                .is_ok_and(|(filter, reason)| { filter.states.len() == 1 && reason == "enough" })
        );
    }

    #[test]
    fn what_is_named_twice_counts_once() {
        let mut check = Check::default();
        let given = pb::ExecutionFilter {
            providers: vec!["b".to_owned(), "a".to_owned(), "b".to_owned()],
            states: vec![2, 1, 2],
            ..pb::ExecutionFilter::default()
        };
        let filter = filter(Some(given), &mut check);
        assert_eq!((filter.providers.len(), filter.states.len()), (2, 2));
    }
}

use super::tests::Start;
use super::*;
use crate::domain::{ErrorCode, RetryBudget, RetryPolicy, RetryRules};

/// The rules of a simulated provider with these lines in its table.
fn rules(lines: &str) -> RetryRules {
    read(&with(lines))
}

fn with(lines: &str) -> Start {
    Start::with_file(&format!("[providers.x]\nkind = 'simulated'\n[providers.x.retry]\n{lines}"))
}

fn read(start: &Start) -> RetryRules {
    let settings = start.settings();
    let provider = settings.providers.iter().find(|provider| provider.name.as_str() == "x");
    provider.expect("it is configured").retry.clone()
}

#[test]
fn nothing_said_of_retries_means_the_documented_defaults_and_no_budget() {
    assert_eq!(rules(""), RetryRules::default());
    let start = Start::with_file("[providers.x]\nkind = 'simulated'");
    assert_eq!(read(&start), RetryRules::default());
}

#[test]
fn every_key_of_the_table_is_read() {
    let rules = rules(
        "max_attempts = 7\ninitial_backoff = '0s'\nmax_backoff = '5m'\nbackoff_multiplier = 3\n\
         retry_on = ['MODULE_FAILED', 'timeout', 'TIMEOUT']\nno_retry_on = ['TRANSIENT']\n\
         budget = 0.2\nbudget_min = 3",
    );
    let expected = RetryRules {
        defaults: RetryPolicy {
            max_attempts: 7,
            initial_backoff: Duration::ZERO,
            max_backoff: Duration::from_secs(300),
            multiplier: 3.0,
            retry_on: vec![ErrorCode::ModuleFailed, ErrorCode::Timeout],
        },
        no_retry_on: vec![ErrorCode::Transient],
        budget: Some(RetryBudget { share: 0.2, least: 3 }),
    };
    assert_eq!(rules, expected);
    let budget = self::rules("budget = 1").budget;
    assert_eq!(budget, Some(RetryBudget { share: 1.0, least: 10 }));
}

#[test]
fn variables_set_single_keys_of_the_table() {
    let variable = |name: &str| format!("FLOWGATE_PROVIDERS__X__RETRY__{name}");
    let start = with("max_attempts = 7\nmax_backoff = '5m'")
        .variable(&variable("MAX_ATTEMPTS"), "9")
        .variable(&variable("BACKOFF_MULTIPLIER"), "1.5")
        .variable(&variable("RETRY_ON"), "TIMEOUT, RESOURCE")
        .variable(&variable("BUDGET"), "0.5")
        .variable(&variable("BUDGET_MIN"), "0");
    let rules = read(&start);
    assert_eq!(rules.defaults.max_attempts, 9);
    assert_eq!(rules.defaults.max_backoff, Duration::from_secs(300));
    assert!(rules.defaults.multiplier.total_cmp(&1.5).is_eq());
    assert_eq!(rules.defaults.retry_on, [ErrorCode::Timeout, ErrorCode::Resource]);
    assert_eq!(rules.budget, Some(RetryBudget { share: 0.5, least: 0 }));
    let start = with("").variable(&variable("MAX_ATTEMPTS"), "many");
    assert_eq!(
        start.refusal(),
        "providers.x.retry.max_attempts, set by FLOWGATE_PROVIDERS__X__RETRY__MAX_ATTEMPTS, \
         must be a whole number, not string \"many\""
    );
    let start = Start::with_file("[providers.x]\nkind = 'simulated'")
        .variable("FLOWGATE_PROVIDERS__X__RETRY", "4");
    assert_eq!(
        start.refusal(),
        "providers.x.retry, set by FLOWGATE_PROVIDERS__X__RETRY, must be a table"
    );
}

#[test]
fn a_name_may_end_like_the_table() {
    let start = Start::with_file("[providers.x__retry]\nkind = 'simulated'")
        .variable("FLOWGATE_PROVIDERS__X__RETRY__MAX_CONCURRENT", "9");
    let settings = start.settings();
    let provider = settings.providers.iter().find(|it| it.name.as_str() == "x__retry");
    assert_eq!(provider.expect("it is configured").limits.max_concurrent, 9);
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_key_and_the_reason() {
    for (line, said) in [
        (
            "max_attempts = 0",
            "max_attempts, set in flowgate.toml, must be between 1 and 100, not 0",
        ),
        (
            "backoff_multiplier = 0.5",
            "backoff_multiplier, set in flowgate.toml, must be between 1 and 10, not 0.5",
        ),
        (
            "backoff_multiplier = nan",
            "backoff_multiplier, set in flowgate.toml, must be between 1 and 10, not NaN",
        ),
        (
            "max_backoff = 60",
            "max_backoff, set in flowgate.toml, must be a string, not signed int `60`",
        ),
        ("budget = -1", "budget, set in flowgate.toml, must be between 0 and 10, not -1"),
        ("budget = 'some'", "budget, set in flowgate.toml, must be a number, not string \"some\""),
        ("budget_min = 5", "budget_min, set in flowgate.toml, needs budget beside it"),
        (
            "retry_on = ['TIMEOUTS']",
            "retry_on, set in flowgate.toml, has the unknown error code \"TIMEOUTS\"; \
             did you mean TIMEOUT?",
        ),
        (
            "retry_on = ['TIMEOUT']\nno_retry_on = ['TRANSIENT', 'TIMEOUT']",
            "no_retry_on, set in flowgate.toml, names TIMEOUT, which retry_on names too",
        ),
    ] {
        assert_eq!(with(line).refusal(), format!("providers.x.retry.{said}"), "{line}");
    }
    assert_eq!(
        with("max_atempts = 3").refusal(),
        "flowgate.toml has the unknown key providers.x.retry.max_atempts; \
         did you mean max_attempts?"
    );
    assert_eq!(
        Start::with_file("[providers.x]\nkind = 'simulated'\nretry = 3").refusal(),
        "providers.x.retry, set in flowgate.toml, must be a table"
    );
}

#[test]
fn codes_with_a_rule_of_their_own_are_refused_with_that_rule() {
    let own = ["RATE_LIMITED", "CANCELLED", "QUEUE_TIMEOUT", "CRASHED", "LOST", "RELEASED"];
    for name in own {
        for key in ["retry_on", "no_retry_on"] {
            let said = with(&format!("{key} = ['{name}']")).refusal();
            let begins =
                format!("providers.x.retry.{key}, set in flowgate.toml, must not name {name}: ");
            assert!(said.starts_with(&begins) && said.len() > begins.len(), "{said}");
        }
    }
}

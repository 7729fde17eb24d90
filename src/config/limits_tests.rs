use std::time::Duration;

use super::tests::Start;
use crate::domain::{AdaptiveBounds, Limits, Rates};

fn limits(start: &Start) -> Limits {
    let settings = start.settings();
    let mut providers = settings.providers.into_iter();
    providers.find(|provider| provider.name.as_str() == "openai").expect("it is built in").limits
}

fn refusal(table: &str) -> String {
    Start::with_file(&format!("[providers.openai]\n{table}")).refusal()
}

#[test]
fn all_that_a_provider_admits_is_read_from_the_file() {
    let start = Start::with_file(
        "[providers.openai]
         requests_per_minute = 500
         input_tokens_per_minute = 1_000_000_000
         max_pending = 10_000
         adaptive = { min = 2, max = 50, target_latency = '20s' }
         [providers.openai.models.'gpt-4.1 mini']
         output_tokens_per_minute = 9
         [providers.openai.models.gpt-5]",
    );
    let rates = Rates { output_tokens_per_minute: Some(9), ..Rates::default() };
    let expected = Limits {
        rates: Rates {
            requests_per_minute: Some(500),
            input_tokens_per_minute: Some(1_000_000_000),
            output_tokens_per_minute: None,
        },
        max_pending: Some(10_000),
        adaptive: Some(AdaptiveBounds {
            min: 2,
            max: 50,
            target_latency: Some(Duration::from_secs(20)),
        }),
        models: [("gpt-4.1 mini".to_owned(), rates), ("gpt-5".to_owned(), Rates::default())].into(),
        ..Limits::concurrent(3)
    };
    assert_eq!(limits(&start), expected);
    assert_eq!(limits(&Start::new()), Limits::concurrent(3), "none of it by default");
}

#[test]
fn variables_set_limits_too() {
    let start = Start::with_file("[providers.openai]\nrequests_per_minute = 500")
        .variable("FLOWGATE_PROVIDERS__OPENAI__REQUESTS_PER_MINUTE", "60")
        .variable("FLOWGATE_PROVIDERS__OPENAI__MAX_PENDING", "7")
        .variable("FLOWGATE_PROVIDERS__OPENAI__ADAPTIVE__MAX", "9")
        .variable("FLOWGATE_PROVIDERS__OPENAI__ADAPTIVE__TARGET_LATENCY", "2s");
    let limits = limits(&start);
    assert_eq!((limits.rates.requests_per_minute, limits.max_pending), (Some(60), Some(7)));
    let adaptive = limits.adaptive.expect("it is set");
    let target = Some(Duration::from_secs(2));
    assert_eq!((adaptive.min, adaptive.max, adaptive.target_latency), (1, 9, target));
    let wrong = Start::new().variable("FLOWGATE_PROVIDERS__OPENAI__MAX_PENDING", "many");
    assert_eq!(
        wrong.refusal(),
        "providers.openai.max_pending, set by FLOWGATE_PROVIDERS__OPENAI__MAX_PENDING, \
         must be a whole number, not string \"many\""
    );
}

#[test]
fn limits_out_of_range_are_refused_with_their_key() {
    for (table, problem) in [
        ("requests_per_minute = 0", "requests_per_minute, set in flowgate.toml, must be between 1"),
        ("max_pending = 10_000_001", "max_pending, set in flowgate.toml, must be between 1 and"),
        ("adaptive = { min = 2 }", "adaptive, set in flowgate.toml, needs a max"),
        ("adaptive = { min = 9, max = 8 }", "adaptive.min, set in flowgate.toml, must be between"),
        ("adaptive = 5", "adaptive, set in flowgate.toml, must be a table"),
        ("adaptive = { most = 5 }", "has the unknown key providers.openai.adaptive.most"),
        ("max_concurrent = 9\nadaptive = { max = 8 }", "must lie within adaptive, which is 1 to 8"),
        ("models = { gpt = { rpm = 5 } }", "has the unknown key providers.openai.models.gpt.rpm"),
        ("models = { gpt = 5 }", "providers.openai.models.gpt, set in flowgate.toml, must be a"),
        (
            "models = { gpt = { requests_per_minute = 'x' } }",
            "models, set in flowgate.toml, has for \"gpt\" a requests_per_minute that must be a",
        ),
        ("models = { '' = {} }", "must name its model in 1 to 128 characters"),
    ] {
        let refusal = refusal(table);
        assert!(refusal.contains(problem), "{table}: {refusal}");
    }
}

//! How long a provider asks to be left alone, in the headers that the vendors use.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap};

use crate::domain::{Clock as _, LONGEST_HINT, SystemClock};

/// What is left of a budget, and when it is whole again.
const BUDGETS: &[(&str, &str)] = &[
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
];

/// The wait that the headers of an answer ask for: `retry-after-ms`, `retry-after` in seconds or as
/// a date, the same as a gateway passes it on, or the time at which a spent budget is whole again.
pub(super) fn wait_hint(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    // On the server's own clock where it tells the time.
    let date = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    let now = date.unwrap_or_else(present);
    let millis = || seconds(text("retry-after-ms")?).map(|hint| hint / 1_000);
    let given = |name: &str| text(name).and_then(|text| delay(text, now));
    let spent = BUDGETS.iter().filter(|(left, _)| text(left) == Some("0"));
    let budgets = || spent.filter_map(|(_, reset)| delay(text(reset)?, now)).max();
    millis()
        .or_else(|| given("retry-after"))
        .or_else(|| given("llm_provider-retry-after"))
        .or_else(budgets)
        .map(|hint| hint.min(LONGEST_HINT))
}

fn present() -> SystemTime {
    let micros = u64::try_from(SystemClock.now().as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

/// Seconds, a span such as `6m0s`, or a date of either kind.
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    let until = |date: SystemTime| date.duration_since(now).unwrap_or_default();
    seconds(text)
        .or_else(|| humantime::parse_duration(text).ok())
        .or_else(|| httpdate::parse_http_date(text).ok().map(until))
        .or_else(|| humantime::parse_rfc3339(text).ok().map(until))
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn hint(headers: &[(&'static str, &'static str)]) -> Option<f64> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let date = ("date", "Fri, 20 Nov 2026 04:40:00 GMT");
        let headers = headers.iter().chain([&date]).map(header).collect();
        wait_hint(&headers).map(|hint| hint.as_secs_f64())
    }

    #[test]
    fn every_way_to_say_it_is_understood() {
        assert_eq!(hint(&[("retry-after", "2")]), Some(2.0));
        assert_eq!(hint(&[("retry-after", "0.5")]), Some(0.5));
        assert_eq!(hint(&[("retry-after", "Fri, 20 Nov 2026 04:40:51 GMT")]), Some(51.0));
        assert_eq!(hint(&[("retry-after", "Fri, 20 Nov 2026 04:39:00 GMT")]), Some(0.0));
        assert_eq!(hint(&[("retry-after-ms", "1500"), ("retry-after", "9")]), Some(1.5));
        assert_eq!(hint(&[("llm_provider-retry-after", "60")]), Some(60.0));
        let spent = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(hint(&spent), Some(360.0));
        let spent = [
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-20T04:40:07Z"),
        ];
        assert_eq!(hint(&spent), Some(7.0));
    }

    #[test]
    fn a_budget_that_is_not_spent_and_nonsense_say_nothing() {
        let left = [("x-ratelimit-remaining-tokens", "17"), ("x-ratelimit-reset-tokens", "6m0s")];
        assert_eq!(hint(&left), None);
        for nonsense in ["soon", "-1", "NaN", "1e999", ""] {
            let value = HeaderValue::from_static(nonsense);
            let headers = HeaderMap::from_iter([(reqwest::header::RETRY_AFTER, value)]);
            assert_eq!(wait_hint(&headers), None, "{nonsense}");
        }
        assert_eq!(hint(&[("retry-after", "999999999")]), Some(86_400.0));
    }
}

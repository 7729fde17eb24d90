//! How many more requests a provider takes, in the headers that the vendors use.

use reqwest::header::HeaderMap;

use crate::domain::Quota;

/// What is left, and of how many in all: as OpenAI has it, and as Anthropic has it. Gateways and other
/// vendors send one or the other.
const QUOTAS: &[(&str, &str)] = &[
    ("x-ratelimit-remaining-requests", "x-ratelimit-limit-requests"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-limit"),
];

/// What the headers of an answer say; of several the smallest. What is no number says nothing.
pub(super) fn quota(headers: &HeaderMap) -> Option<Quota> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    let told = QUOTAS.iter().filter_map(|(remaining, limit)| {
        Some(Quota { remaining: number(remaining)?, limit: number(limit) })
    });
    told.min_by_key(|quota| quota.remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn told(headers: &[(&'static str, &'static str)]) -> Option<Quota> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        quota(&headers.iter().map(header).collect())
    }

    #[test]
    fn the_headers_of_both_vendors_are_understood() {
        let openai = ("x-ratelimit-remaining-requests", "59");
        let some = |remaining, limit| Some(Quota { remaining, limit });
        assert_eq!(told(&[openai, ("x-ratelimit-limit-requests", "60")]), some(59, Some(60)));
        assert_eq!(told(&[openai]), some(59, None));
        let anthropic = ("anthropic-ratelimit-requests-remaining", " 0 ");
        let limit = ("anthropic-ratelimit-requests-limit", "50");
        assert_eq!(told(&[anthropic, limit]), some(0, Some(50)));
        assert_eq!(told(&[openai, anthropic]), some(0, None), "the smaller one counts");
    }

    #[test]
    fn what_is_no_number_says_nothing() {
        for nonsense in ["", "many", "-1", "1.5", "99999999999999999999", "0x10"] {
            let openai = ("x-ratelimit-remaining-requests", nonsense);
            assert_eq!(told(&[openai, ("x-ratelimit-limit-requests", "60")]), None, "{nonsense}");
            let told = told(&[
                ("x-ratelimit-remaining-requests", "5"),
                ("x-ratelimit-limit-requests", nonsense),
            ]);
            assert_eq!(told, Some(Quota { remaining: 5, limit: None }), "{nonsense}");
        }
        assert_eq!(told(&[("x-ratelimit-limit-requests", "60")]), None);
        assert_eq!(told(&[("x-ratelimit-remaining-tokens", "7")]), None, "tokens are no requests");
    }
}

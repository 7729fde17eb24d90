//! Limits for people.

use crate::cli::output::table;
use crate::cli::time::{show_duration, show_time};
use crate::pb::{AdaptiveLimits, Limits, LimitsChange, Provider, RateLimits, SetLimitsResponse};

/// Every provider on a line, models with rates of their own below it.
pub(super) fn limits(providers: &[Provider]) -> String {
    let headings = [
        "PROVIDER",
        "MAX CONCURRENT",
        "DECLARED",
        "PER MINUTE",
        "MAX PENDING",
        "RUNNING",
        "PENDING",
        "EXPIRES",
        "REVISION",
    ];
    table(headings, providers.iter().flat_map(rows))
}

fn rows(provider: &Provider) -> Vec<[String; 9]> {
    let effective = provider.effective_limits.as_ref();
    let mut rows = vec![[
        provider.name.clone(),
        moving(effective),
        max_concurrent(provider.declared_limits.as_ref()),
        effective.map(|it| per_minute(&whole(it))).unwrap_or_default(),
        effective.and_then(|it| it.max_pending).map(|it| it.to_string()).unwrap_or_default(),
        provider.running_count.to_string(),
        provider.pending_count.to_string(),
        provider.limits_expire_time.as_ref().map(show_time).unwrap_or_default(),
        provider.limits_revision.to_string(),
    ]];
    for (model, rates) in effective.iter().flat_map(|it| &it.models) {
        let mut row = [const { String::new() }; 9];
        row[0] = format!("{} {model}", provider.name);
        row[3] = per_minute(rates);
        rows.push(row);
    }
    rows
}

/// What was set, and what that does.
pub(super) fn set(reply: &SetLimitsResponse) -> String {
    let mut text = limits(&reply.providers);
    for effect in &reply.effects {
        text.push_str(&format!("\n{}: {}", effect.provider, effect.message));
    }
    text
}

/// Every change on a line.
pub(super) fn history(changes: &[LimitsChange]) -> String {
    let headings =
        ["REVISION", "TIME", "MAX CONCURRENT", "PER MINUTE", "MAX PENDING", "EXPIRES", "BY", "WHY"];
    let rows = changes.iter().map(|change| {
        let effective = change.effective.as_ref();
        let models = effective.iter().flat_map(|it| &it.models);
        let models = models.map(|(model, rates)| format!("{model}: {}", per_minute(rates)));
        let whole = effective.map(|it| per_minute(&whole(it))).filter(|it| !it.is_empty());
        let rates: Vec<_> = whole.into_iter().chain(models).collect();
        [
            change.revision.to_string(),
            change.time.as_ref().map(show_time).unwrap_or_default(),
            moving(effective),
            rates.join("; "),
            effective.and_then(|it| it.max_pending).map(|it| it.to_string()).unwrap_or_default(),
            change.expire_time.as_ref().map(show_time).unwrap_or_default(),
            change.actor.clone(),
            change.reason.clone(),
        ]
    });
    table(headings, rows)
}

/// The limit, `-` if the server did not tell one.
pub(in crate::cli) fn max_concurrent(limits: Option<&Limits>) -> String {
    let limit = limits.and_then(|limits| limits.max_concurrent);
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

/// The same with the bounds between which it moves.
fn moving(limits: Option<&Limits>) -> String {
    let limit = max_concurrent(limits);
    match limits.and_then(|limits| limits.adaptive) {
        None => limit,
        Some(AdaptiveLimits { min, max, target_latency: None }) => {
            format!("{limit} ({min}..{max})")
        }
        Some(AdaptiveLimits { min, max, target_latency: Some(target) }) => {
            format!("{limit} ({min}..{max}, {})", show_duration(&target))
        }
    }
}

fn whole(limits: &Limits) -> RateLimits {
    RateLimits {
        requests_per_minute: limits.requests_per_minute,
        input_tokens_per_minute: limits.input_tokens_per_minute,
        output_tokens_per_minute: limits.output_tokens_per_minute,
    }
}

/// What may start within a minute, in words; nothing where that is not limited.
pub(in crate::cli) fn per_minute(rates: &RateLimits) -> String {
    let named = [
        (rates.requests_per_minute, "requests"),
        (rates.input_tokens_per_minute, "tokens in"),
        (rates.output_tokens_per_minute, "tokens out"),
    ];
    let limited = named.into_iter().filter_map(|(rate, what)| Some(format!("{} {what}", rate?)));
    limited.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_models_stand_below_their_provider() {
        let rates = RateLimits { requests_per_minute: Some(60), ..RateLimits::default() };
        let limits = Limits {
            max_concurrent: Some(5),
            input_tokens_per_minute: Some(9_000),
            adaptive: Some(AdaptiveLimits { min: 1, max: 8, target_latency: None }),
            models: [("gpt-5".to_owned(), rates)].into(),
            ..Limits::default()
        };
        let provider = Provider {
            name: "openai".to_owned(),
            effective_limits: Some(limits),
            ..Provider::default()
        };
        let shown = super::limits(&[provider]);
        let lines: Vec<_> = shown
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines, ["openai 5 (1..8) - 9000 tokens in 0 0 0", "openai gpt-5 60 requests"]);
    }
}

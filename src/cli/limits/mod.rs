//! `flowgate limits`: how much providers admit.

mod show;

use std::process::ExitCode;
use std::time::Duration;

use prost_types::Timestamp;

use super::providers::named;
use super::{Context, args, json, time};
use crate::pb::{
    AdaptiveLimits, LimitsChange, ListLimitChangesRequest, ProviderLimits, RateLimits,
    SetLimitsRequest, SetLimitsResponse,
};

pub(super) use show::{max_concurrent, per_minute};

/// The most changes that one request asks for.
const PAGE: i32 = 1_000;

/// What to do about limits.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show limits, declared and in force
    Get {
        /// Providers; all if none is named
        #[arg(value_name = "PROVIDER")]
        providers: Vec<String>,
    },
    /// Override limits, all or none; kept until reset, restarts included
    Set(Box<Set>),
    /// Return to the declared limits
    Reset {
        /// Providers
        #[arg(required = true, value_name = "PROVIDER")]
        providers: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Show how a provider's limits changed, newest first
    History {
        /// Provider
        provider: String,
        /// Show at most this many
        #[arg(long, value_name = "N", default_value_t = 20,
              value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Provider, and how many of its executions may run at the same time
    #[arg(required = true, value_name = "PROVIDER[=N]", value_parser = args::parse_limit)]
    providers: Vec<(String, Option<i32>)>,
    /// Attempts that may start within a minute; `off` for any number
    #[arg(long, value_name = "N", value_parser = rate)]
    requests_per_minute: Option<i64>,
    /// Tokens that attempts started within a minute may read; `off` for any number
    #[arg(long, value_name = "N", value_parser = rate)]
    input_tokens_per_minute: Option<i64>,
    /// Tokens that attempts started within a minute may write; `off` for any number
    #[arg(long, value_name = "N", value_parser = rate)]
    output_tokens_per_minute: Option<i64>,
    /// Set the rates for this model alone
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Executions that may be pending; `off` for any number
    #[arg(long, value_name = "N", value_parser = bound)]
    max_pending: Option<i32>,
    /// Let the number that may run at the same time move by itself between these; `off` to hold it
    #[arg(long, value_name = "MIN..MAX", value_parser = adaptive)]
    adaptive: Option<AdaptiveLimits>,
    /// Mean duration of an attempt above which that number goes down
    #[arg(long, value_name = "DURATION", requires = "adaptive", value_parser = time::parse_duration)]
    target_latency: Option<prost_types::Duration>,
    /// Return to what holds now after this time, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expire_in: Option<Duration>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who, for people [default: USER@HOST]
    #[arg(long, value_name = "TEXT")]
    actor: Option<String>,
    /// Check everything, change nothing, and show what it would do
    #[arg(long)]
    dry_run: bool,
    /// Only if this is still the newest limits revision of these providers
    #[arg(long, value_name = "REVISION")]
    expected_revision: Option<i64>,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Get { providers } => {
            let providers = named(providers, context).await?;
            context.out.result(|| json::providers(&providers), || show::limits(&providers))?;
        }
        Action::Set(set) => {
            let expire_time = set.expire_in.map(from_now).transpose()?;
            let limits = set.limits()?;
            print(&send(limits, expire_time, set.how, context).await?, context)?;
        }
        Action::Reset { providers, how } => {
            let reset = |provider| ProviderLimits { provider, reset: true, ..Default::default() };
            let limits = providers.into_iter().map(reset).collect();
            print(&send(limits, None, how, context).await?, context)?;
        }
        Action::History { provider, limit } => {
            let changes = history(provider, limit, context).await?;
            context.out.result(|| json::limits_changes(&changes), || show::history(&changes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    /// What is set of each provider.
    fn limits(&self) -> anyhow::Result<Vec<ProviderLimits>> {
        let rates = RateLimits {
            requests_per_minute: self.requests_per_minute,
            input_tokens_per_minute: self.input_tokens_per_minute,
            output_tokens_per_minute: self.output_tokens_per_minute,
        };
        let whole = if self.model.is_some() { RateLimits::default() } else { rates };
        let adaptive = self.adaptive.map(|it| match it.max {
            0 => it,
            _ => AdaptiveLimits { target_latency: self.target_latency, ..it },
        });
        let limits = ProviderLimits {
            requests_per_minute: whole.requests_per_minute,
            input_tokens_per_minute: whole.input_tokens_per_minute,
            output_tokens_per_minute: whole.output_tokens_per_minute,
            max_pending: self.max_pending,
            adaptive,
            models: self.model.iter().map(|model| (model.clone(), rates)).collect(),
            ..Default::default()
        };
        let nothing = limits == ProviderLimits::default();
        let of = |(provider, max_concurrent): &(String, Option<i32>)| {
            anyhow::ensure!(
                max_concurrent.is_some() || !nothing,
                "nothing is set of {provider}: give {provider}=N, or a limit such as \
                 --requests-per-minute"
            );
            let (provider, max_concurrent) = (provider.clone(), *max_concurrent);
            Ok(ProviderLimits { provider, max_concurrent, ..limits.clone() })
        };
        self.providers.iter().map(of).collect()
    }
}

async fn send(
    limits: Vec<ProviderLimits>,
    expire_time: Option<Timestamp>,
    how: How,
    context: &Context,
) -> anyhow::Result<SetLimitsResponse> {
    let request = SetLimitsRequest {
        limits,
        reason: how.reason.unwrap_or_default(),
        expected_revision: how.expected_revision,
        validate_only: how.dry_run,
        actor: how.actor.unwrap_or_else(whoever),
        expire_time,
    };
    let mut client = context.server.providers().await?;
    Ok(client.set_limits(request).await?.into_inner())
}

fn print(reply: &SetLimitsResponse, context: &Context) -> std::io::Result<()> {
    context.out.result(|| json::limits_set(reply), || show::set(reply))
}

async fn history(
    provider: String,
    limit: u32,
    context: &Context,
) -> anyhow::Result<Vec<LimitsChange>> {
    let mut client = context.server.providers().await?;
    let mut changes = Vec::new();
    let wanted = usize::try_from(limit)?;
    let page_size = i32::try_from(limit).unwrap_or(PAGE).min(PAGE);
    let mut request = ListLimitChangesRequest { provider, page_size, page_token: String::new() };
    loop {
        let page = client.list_limit_changes(request.clone()).await?.into_inner();
        changes.extend(page.changes);
        if changes.len() >= wanted || page.next_page_token.is_empty() {
            changes.truncate(wanted);
            return Ok(changes);
        }
        request.page_token = page.next_page_token;
    }
}

/// The user of this machine, as far as it is known.
fn whoever() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match std::env::var("USER") {
        Ok(user) if !user.is_empty() => format!("{user}@{host}"),
        Ok(_) | Err(_) => host,
    }
}

fn from_now(term: Duration) -> anyhow::Result<Timestamp> {
    let at = time::now().checked_add(term);
    at.map(Timestamp::from).ok_or_else(|| anyhow::anyhow!("--expire-in is out of range"))
}

/// Reads a rate; `off` is none.
fn rate(text: &str) -> Result<i64, String> {
    if text == "off" {
        return Ok(0);
    }
    text.parse().map_err(|_| format!("{text:?} is neither a whole number nor off"))
}

/// Reads a bound; `off` is none.
fn bound(text: &str) -> Result<i32, String> {
    i32::try_from(rate(text)?).map_err(|_| format!("{text} is too large"))
}

/// Reads `MIN..MAX` or `off`.
fn adaptive(text: &str) -> Result<AdaptiveLimits, String> {
    if text == "off" {
        return Ok(AdaptiveLimits::default());
    }
    let bounds =
        text.split_once("..").and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match bounds {
        Some((min, max)) if max > 0 => Ok(AdaptiveLimits { min, max, target_latency: None }),
        Some(_) | None => Err("must be MIN..MAX, such as 1..50, or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn set(line: &str) -> anyhow::Result<Vec<ProviderLimits>> {
        let words = std::iter::once("set").chain(line.split(' '));
        Line::try_parse_from(words)?.set.limits()
    }

    #[test]
    fn limits_hold_for_every_provider_named() {
        let limits = set("claude=5 openai --requests-per-minute 60 --max-pending off").unwrap();
        let shown: Vec<_> = limits
            .iter()
            .map(|it| (&*it.provider, it.max_concurrent, it.requests_per_minute, it.max_pending))
            .collect();
        let rate = Some(60);
        assert_eq!(shown, [("claude", Some(5), rate, Some(0)), ("openai", None, rate, Some(0))]);
    }

    #[test]
    fn rates_beside_a_model_are_the_models() {
        let limits = set("openai --model gpt-5 --input-tokens-per-minute 1000").unwrap();
        assert_eq!(limits[0].input_tokens_per_minute, None);
        assert_eq!(limits[0].models["gpt-5"].input_tokens_per_minute, Some(1_000));
    }

    #[test]
    fn a_limit_moves_between_two_bounds_or_not_at_all() {
        let bounds = |line: &str| set(line).unwrap()[0].adaptive.unwrap();
        let moving = bounds("claude --adaptive 1..50 --target-latency 2s");
        let latency = moving.target_latency.map(|it| it.seconds);
        assert_eq!((moving.min, moving.max, latency), (1, 50, Some(2)));
        assert_eq!(bounds("claude --adaptive off"), AdaptiveLimits::default());
        for wrong in
            ["claude --adaptive 5", "claude --adaptive 1..0", "claude=5 --target-latency 2s"]
        {
            assert!(set(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn setting_nothing_is_a_mistake() {
        assert!(set("claude=5 openai").is_err());
        assert!(set("claude").is_err());
    }
}

//! `flowgate providers`, `pause` and `resume`.

use std::process::ExitCode;

use anyhow::Context as _;
use prost_types::Timestamp;

use super::limits::{max_concurrent, per_minute};
use super::names::short;
use super::output::table;
use super::time::{self, show_duration, show_time};
use super::{Context, json};
use crate::pb::{
    GateState, GetProviderRequest, Limits, ListProvidersRequest, PauseProviderRequest, Provider,
    RateLimits, ResumeProviderRequest, Usage,
};

/// Which providers to show.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Providers; all if none is named
    #[arg(value_name = "PROVIDER")]
    providers: Vec<String>,
}

/// What to pause.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// Provider
    provider: String,
    /// Why, for people; told to whoever waits
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// End of the pause: RFC 3339, or from now such as +10m [default: until resumed]
    #[arg(long, value_name = "TIME", value_parser = time::parse_time)]
    until: Option<Timestamp>,
}

/// What to resume.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Provider
    provider: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn show(args: ShowArgs, context: &Context) -> anyhow::Result<ExitCode> {
    print(&named(args.providers, context).await?, context)
}

pub(super) async fn pause(args: PauseArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let request = PauseProviderRequest {
        provider: args.provider,
        reason: args.reason.unwrap_or_default(),
        resume_time: args.until,
    };
    let mut client = context.server.providers().await?;
    let provider = client.pause_provider(request).await?.into_inner().provider;
    print(&[provider.context("the server's reply holds no provider")?], context)
}

pub(super) async fn resume(args: ResumeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let request =
        ResumeProviderRequest { provider: args.provider, reason: args.reason.unwrap_or_default() };
    let mut client = context.server.providers().await?;
    let provider = client.resume_provider(request).await?.into_inner().provider;
    print(&[provider.context("the server's reply holds no provider")?], context)
}

/// The providers of these names, all if there are none. An unknown name is the server's error.
pub(super) async fn named(names: Vec<String>, context: &Context) -> anyhow::Result<Vec<Provider>> {
    let mut client = context.server.providers().await?;
    if names.is_empty() {
        return Ok(client.list_providers(ListProvidersRequest {}).await?.into_inner().providers);
    }
    let mut providers = Vec::new();
    for provider in names {
        let reply = client.get_provider(GetProviderRequest { provider }).await?.into_inner();
        providers.push(reply.provider.context("the server's reply holds no provider")?);
    }
    Ok(providers)
}

fn print(providers: &[Provider], context: &Context) -> anyhow::Result<ExitCode> {
    context.out.result(|| json::providers(providers), || providers_table(providers))?;
    Ok(ExitCode::SUCCESS)
}

fn providers_table(providers: &[Provider]) -> String {
    let headings = [
        "PROVIDER",
        "KIND",
        "GATE",
        "RUNNING",
        "PENDING",
        "OLDEST",
        "OK/MIN",
        "FAILED/MIN",
        "TOKENS IN/OUT",
        "NOTE",
    ];
    let rows = providers.iter().map(|provider| {
        let rates = provider.rates.unwrap_or_default();
        let limit = max_concurrent(provider.effective_limits.as_ref());
        [
            provider.name.clone(),
            provider.kind.clone(),
            short::<GateState>(provider.gate_state),
            format!("{}/{limit}", provider.running_count),
            provider.pending_count.to_string(),
            provider.oldest_pending_age.as_ref().map(show_duration).unwrap_or_default(),
            format!("{:.0}", rates.succeeded_per_minute),
            format!("{:.0}", rates.failed_per_minute),
            provider.usage.as_ref().map(tokens).unwrap_or_default(),
            remarks(provider),
        ]
    });
    table(headings, rows)
}

/// Nothing where nothing was ever told.
fn tokens(usage: &Usage) -> String {
    match (usage.input_tokens, usage.output_tokens) {
        (0, 0) => String::new(),
        (read, written) => format!("{read}/{written}"),
    }
}

/// What may start within a minute, by the provider and by its models; nothing where no rate is set.
fn rates(limits: &Limits) -> Option<String> {
    let whole = RateLimits {
        requests_per_minute: limits.requests_per_minute,
        input_tokens_per_minute: limits.input_tokens_per_minute,
        output_tokens_per_minute: limits.output_tokens_per_minute,
    };
    let models = limits.models.iter().map(|(model, rates)| (Some(model), rates));
    let limited = std::iter::once((None, &whole)).chain(models);
    let shown = limited.filter_map(|(model, rates)| {
        let rates = Some(per_minute(rates)).filter(|rates| !rates.is_empty())?;
        Some(model.map_or_else(|| rates.clone(), |model| format!("{model}: {rates}")))
    });
    let shown: Vec<_> = shown.collect();
    (!shown.is_empty()).then(|| format!("per minute {}", shown.join(", ")))
}

fn remarks(provider: &Provider) -> String {
    let mut remarks = Vec::new();
    if !provider.gate_reason.is_empty() {
        remarks.push(provider.gate_reason.clone());
    }
    if let Some(until) = &provider.gate_until {
        remarks.push(format!("until {}", show_time(until)));
    }
    remarks.extend(provider.holds.iter().map(|hold| match &hold.until {
        Some(until) => format!("{} until {}", hold.message, show_time(until)),
        None => hold.message.clone(),
    }));
    remarks.extend(provider.effective_limits.as_ref().and_then(rates));
    if provider.limits_overridden {
        let declared = max_concurrent(provider.declared_limits.as_ref());
        let until = provider.limits_expire_time.as_ref();
        let until = until.map(|until| format!(" until {}", show_time(until)));
        let until = until.unwrap_or_default();
        remarks.push(format!("limits overridden{until}, declared {declared}"));
    }
    if !provider.accepting {
        remarks.push(format!("refuses submissions: {}", provider.unavailable_reason));
    }
    remarks.join("; ")
}

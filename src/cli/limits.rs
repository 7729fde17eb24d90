//! `flowgate limits`: how much providers admit.

use std::process::ExitCode;

use super::output::table;
use super::providers::named;
use super::{Context, args, json};
use crate::pb::{Limits, Provider, ProviderLimits, SetLimitsRequest};

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
    Set {
        /// How many executions of a provider may run at the same time
        #[arg(required = true, value_name = "PROVIDER=N", value_parser = args::parse_limit)]
        limits: Vec<(String, i32)>,
        #[command(flatten)]
        how: How,
    },
    /// Return to the declared limits
    Reset {
        /// Providers
        #[arg(required = true, value_name = "PROVIDER")]
        providers: Vec<String>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, clap::Args)]
struct How {
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Check everything, change nothing, and show how the providers would stand
    #[arg(long)]
    dry_run: bool,
    /// Only if this is still the newest limits revision of these providers
    #[arg(long, value_name = "REVISION")]
    expected_revision: Option<i64>,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let providers = match args.action {
        Action::Get { providers } => named(providers, context).await?,
        Action::Set { limits, how } => {
            let limits = limits.into_iter().map(|(provider, limit)| ProviderLimits {
                provider,
                max_concurrent: Some(limit),
                reset: false,
            });
            set(limits.collect(), how, context).await?
        }
        Action::Reset { providers, how } => {
            let limits = providers.into_iter().map(|provider| ProviderLimits {
                provider,
                max_concurrent: None,
                reset: true,
            });
            set(limits.collect(), how, context).await?
        }
    };
    context.out.result(|| json::providers(&providers), || limits_table(&providers))?;
    Ok(ExitCode::SUCCESS)
}

async fn set(
    limits: Vec<ProviderLimits>,
    how: How,
    context: &Context,
) -> anyhow::Result<Vec<Provider>> {
    let request = SetLimitsRequest {
        limits,
        reason: how.reason.unwrap_or_default(),
        expected_revision: how.expected_revision,
        validate_only: how.dry_run,
    };
    let mut client = context.server.providers().await?;
    Ok(client.set_limits(request).await?.into_inner().providers)
}

fn limits_table(providers: &[Provider]) -> String {
    let headings = ["PROVIDER", "MAX CONCURRENT", "DECLARED", "RUNNING", "PENDING", "REVISION"];
    let rows = providers.iter().map(|provider| {
        [
            provider.name.clone(),
            max_concurrent(provider.effective_limits.as_ref()),
            max_concurrent(provider.declared_limits.as_ref()),
            provider.running_count.to_string(),
            provider.pending_count.to_string(),
            provider.limits_revision.to_string(),
        ]
    });
    table(headings, rows)
}

/// The limit, `-` if the server did not tell one.
pub(super) fn max_concurrent(limits: Option<&Limits>) -> String {
    let limit = limits.and_then(|limits| limits.max_concurrent);
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

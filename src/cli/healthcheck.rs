//! `flowgate healthcheck`: `grpc.health.v1` for probes, bounded in time.
//!
//! What must stay true: with `--live`, trouble of the store's is not the server's: whoever kills what fails this
//! would only add to it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::Context;

/// What to ask about.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Service to ask about, such as flowgate.v1.ExecutionService [default: the server as a whole]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    /// Only whether the server answers at all, ready or not: for what kills a server that fails this
    #[arg(long)]
    live: bool,
    /// Longest time to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let status =
        timeout(args.timeout, check(args.service, context)).await.with_context(|| {
            format!("no answer within {}", humantime::format_duration(args.timeout))
        })??;
    let name = if args.live { "ALIVE" } else { status.as_str_name() };
    context.out.result(|| json!({ "status": name }), || name.to_owned())?;
    let fine = args.live || status == ServingStatus::Serving;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(service: String, context: &Context) -> anyhow::Result<ServingStatus> {
    let mut client = context.server.health().await?;
    Ok(client.check(HealthCheckRequest { service }).await?.into_inner().status())
}

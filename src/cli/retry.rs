//! `flowgate retry`: run a failed or cancelled execution again.

use std::process::ExitCode;

use anyhow::Context as _;

use super::output::note;
use super::{Context, json, tables};
use crate::pb::RetryExecutionRequest;

/// What to run again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of a failed or cancelled execution
    id: String,
    /// Idempotency key of the new execution
    #[arg(long, value_name = "KEY")]
    request_id: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut client = context.server.executions().await?;
    let request =
        RetryExecutionRequest { id: args.id, request_id: args.request_id.unwrap_or_default() };
    let reply = client.retry_execution(request).await?.into_inner();
    let execution = reply.execution.context("the server's reply holds no execution")?;
    if reply.replayed {
        note("this request id is known: nothing new was submitted");
    }
    context.out.result(
        || json::execution_reply(&execution, reply.replayed),
        || tables::executions(std::slice::from_ref(&execution)),
    )?;
    Ok(ExitCode::SUCCESS)
}

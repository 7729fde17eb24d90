//! `flowgate get`: everything about one execution.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{Context, json, tables};
use crate::pb::GetExecutionRequest;

/// What to get.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the execution
    id: String,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut client = context.server.executions().await?;
    let request = GetExecutionRequest { id: args.id, ..Default::default() };
    let reply = client.get_execution(request).await?.into_inner();
    let execution = reply.execution.context("the server's reply holds no execution")?;
    context
        .out
        .result(|| json::execution_reply(&execution, false), || tables::execution(&execution))?;
    Ok(ExitCode::SUCCESS)
}

//! `flowgate cancel`: one execution, or all that match.

use std::process::ExitCode;

use anyhow::Context as _;

use super::args::FilterArgs;
use super::output::note;
use super::{Context, json, tables};
use crate::pb::{BatchCancelExecutionsRequest, CancelExecutionRequest, ExecutionState};

/// What to cancel.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the execution
    #[arg(required_unless_present = "all_matching",
          conflicts_with_all = ["all_matching", "FilterArgs"])]
    id: Option<String>,
    /// Cancel every execution that matches the filter; at least one criterion is needed
    #[arg(long, requires = "FilterArgs")]
    all_matching: bool,
    /// Only count what matches
    #[arg(long, requires = "all_matching")]
    dry_run: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let reason = args.reason.unwrap_or_default();
    match args.id {
        Some(id) => one(CancelExecutionRequest { id, reason }, context).await,
        None => {
            let filter = Some(args.filter.into_filter());
            let request =
                BatchCancelExecutionsRequest { filter, reason, validate_only: args.dry_run };
            matching(request, context).await
        }
    }
}

/// One that ended by itself before was not cancelled, and the exit code says so.
async fn one(request: CancelExecutionRequest, context: &Context) -> anyhow::Result<ExitCode> {
    let mut client = context.server.executions().await?;
    let reply = client.cancel_execution(request).await?.into_inner();
    let execution = reply.execution.context("the server's reply holds no execution")?;
    context.out.result(
        || json::execution_reply(&execution, false),
        || tables::executions(std::slice::from_ref(&execution)),
    )?;
    match execution.state() {
        ExecutionState::Succeeded | ExecutionState::Failed => {
            note(format_args!("not cancelled: it had {} before", tables::state(&execution)));
            Ok(ExitCode::FAILURE)
        }
        ExecutionState::Cancelled
        | ExecutionState::Running
        | ExecutionState::Pending
        | ExecutionState::Unspecified => Ok(ExitCode::SUCCESS),
    }
}

async fn matching(
    request: BatchCancelExecutionsRequest,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let mut client = context.server.executions().await?;
    let dry_run = request.validate_only;
    let reply = client.batch_cancel_executions(request).await?.into_inner();
    context.out.result(
        || json::cancelled_batch(&reply),
        || match dry_run {
            true => format!("{} would be cancelled", reply.matched_count),
            false => format!(
                "{} matched: {} cancelled, {} asked to stop",
                reply.matched_count, reply.cancelled_count, reply.cancel_requested_count
            ),
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

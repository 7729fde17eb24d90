//! `flowgate list`: executions, newest first, a page or all of them.

use std::process::ExitCode;

use super::args::FilterArgs;
use super::output::note;
use super::{Context, json, tables};
use crate::pb::{ExecutionView, ListExecutionsRequest};

/// The most a server puts on a page.
const LARGEST_PAGE: i32 = 1_000;

/// What to list.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Most executions on a page; at most 1000 [default: 100]
    #[arg(long, value_name = "N")]
    page_size: Option<i32>,
    /// Continue after the page that ended with this token
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    /// Every page; as JSON, one object a page
    #[arg(long)]
    all: bool,
    /// With inputs and outputs; only JSON shows them
    #[arg(long)]
    full: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let view = if args.full { ExecutionView::Full } else { ExecutionView::Basic };
    let mut request = ListExecutionsRequest {
        filter: Some(args.filter.into_filter()),
        page_size: args.page_size.unwrap_or(if args.all { LARGEST_PAGE } else { 0 }),
        page_token: args.page_token.unwrap_or_default(),
        view: view.into(),
    };
    let mut client = context.server.executions().await?;
    let mut first = true;
    loop {
        let page = client.list_executions(request.clone()).await?.into_inner();
        // Pages are printed as they come: all of them may be more than fits in memory.
        if first || !page.executions.is_empty() {
            context.out.result(
                || json::executions_page(&page),
                || {
                    let table = tables::executions(&page.executions);
                    match table.split_once('\n') {
                        Some((_headings, rows)) if !first => rows.to_owned(),
                        _ => table,
                    }
                },
            )?;
        }
        first = false;
        if page.next_page_token.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if !args.all {
            if !context.out.is_json() {
                note(format_args!("more: --page-token {}", page.next_page_token));
            }
            return Ok(ExitCode::SUCCESS);
        }
        request.page_token = page.next_page_token;
    }
}

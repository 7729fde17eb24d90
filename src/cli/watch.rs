//! `flowgate watch`: changes as they happen. The `--wait` and `--watch` of submit end here too.

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use tonic::transport::Channel;

use super::args::FilterArgs;
use super::follow::{Cursor, Follow, Subject};
use super::output::{Out, one_line};
use super::{Context, json, tables, time};
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::output_chunk::Content;
use crate::pb::watch_execution_response::Event;
use crate::pb::{Execution, ExecutionState, ExecutionView, OutputChunk, OutputStream};
use crate::pb::{GetExecutionRequest, WatchExecutionResponse};

/// What to watch.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Execution to follow to its end; without it, every one that matches, until interrupted
    #[arg(conflicts_with = "FilterArgs")]
    id: Option<String>,
    /// Begin with the first change after this revision; 0 is the first of all
    #[arg(long, value_name = "REVISION")]
    after_revision: Option<i64>,
    /// The store epoch the revision was seen in
    #[arg(long, value_name = "EPOCH", requires = "after_revision")]
    store_epoch: Option<String>,
    /// Leave out what the execution puts out
    #[arg(long, requires = "id")]
    no_output: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let cursor = args
        .after_revision
        .map(|revision| Cursor { revision, store_epoch: args.store_epoch.unwrap_or_default() });
    let subject = match args.id {
        Some(id) => Subject::One { id, include_output: !args.no_output },
        None => {
            Subject::Many { filter: args.filter.into_filter(), view: ExecutionView::Unspecified }
        }
    };
    let mut screen = Screen::new(context.out, matches!(subject, Subject::Many { .. }));
    let client = context.server.executions().await?;
    let mut follow = Follow::new(client, subject, cursor);
    while let Some(message) = follow.next().await? {
        screen.show(&message)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows a submitted execution to its end, in silence or aloud. Success is its success.
pub(super) async fn to_the_end(
    client: ExecutionServiceClient<Channel>,
    id: String,
    cursor: Option<Cursor>,
    aloud: bool,
    out: Out,
) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new(out, false);
    let subject = Subject::One { id: id.clone(), include_output: aloud };
    let mut follow = Follow::new(client.clone(), subject, cursor);
    let mut last = None;
    while let Some(message) = follow.next().await? {
        if aloud {
            screen.show(&message)?;
        }
        if let Some(Event::Execution(execution)) = message.event {
            last = Some(execution);
        }
    }
    let execution = match last.filter(|execution| execution.end_time.is_some()) {
        Some(execution) => execution,
        None => get(client, id).await?,
    };
    if !aloud {
        out.result(|| json::execution_reply(&execution, false), || tables::execution(&execution))?;
    }
    let succeeded = execution.state() == ExecutionState::Succeeded;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn get(mut client: ExecutionServiceClient<Channel>, id: String) -> anyhow::Result<Execution> {
    let request = GetExecutionRequest { id, ..Default::default() };
    let reply = client.get_execution(request).await?.into_inner();
    reply.execution.context("the server's reply holds no execution")
}

/// Shows messages one after another: as lines of JSON, or as lines for people between which
/// output appears as it comes.
struct Screen {
    out: Out,
    many: bool,
    /// Whether output has left a line incomplete.
    mid_line: bool,
}

impl Screen {
    fn new(out: Out, many: bool) -> Self {
        Self { out, many, mid_line: false }
    }

    fn show(&mut self, message: &WatchExecutionResponse) -> io::Result<()> {
        if self.out.is_json() {
            return self.out.line(json::watched(message));
        }
        match &message.event {
            Some(Event::Execution(execution)) => {
                if std::mem::take(&mut self.mid_line) {
                    self.out.line("")?;
                }
                self.out.line(change_line(message.revision, execution, self.many))
            }
            Some(Event::Output(chunk)) => self.show_output(chunk),
            Some(Event::Heartbeat(_)) | None => Ok(()),
        }
    }

    fn show_output(&mut self, chunk: &OutputChunk) -> io::Result<()> {
        let bytes = match &chunk.content {
            Some(Content::Text(text)) => text.as_bytes(),
            Some(Content::Data(bytes)) => bytes,
            None => return Ok(()),
        };
        match chunk.stream() {
            OutputStream::Stderr => {
                // As with stdout's closed pipe, but nobody asked for these: not an error.
                let _ = io::Write::write_all(&mut io::stderr().lock(), bytes);
            }
            OutputStream::Unspecified | OutputStream::Result | OutputStream::Stdout => {
                self.out.piece(bytes)?;
                self.mid_line = bytes.last().is_some_and(|last| *last != b'\n');
            }
        }
        Ok(())
    }
}

/// `REVISION TIME [ID PROVIDER] STATE attempt N REASON`.
fn change_line(revision: i64, execution: &Execution, many: bool) -> String {
    let time = execution.update_time.as_ref().map(time::show_time).unwrap_or_default();
    let which = match many {
        true => format!("{}  {:<12}  ", execution.id, execution.provider),
        false => String::new(),
    };
    let state = tables::state(execution);
    let attempt = match execution.attempts.len() {
        0 => String::new(),
        number => format!("attempt {number}"),
    };
    let reason = one_line(&tables::reason(execution));
    format!("{revision:>8}  {time}  {which}{state:<9}  {attempt:<10}  {reason}")
        .trim_end()
        .to_owned()
}

//! `flowgate batch`: every line of a file of JSON Lines submitted, every result collected.
//!
//! What must stay true: running it again goes on where it stopped, however it was stopped. A line's
//! `request_id` is made of the batch's name, the line's number and its content, so the server
//! executes nothing twice; results that are in the file already are not written again. Nothing that
//! goes wrong with one line keeps the others from their results.

mod collect;
mod lines;
mod name;
mod patience;
mod plan;
mod report;
mod request;
mod results;
mod submit;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::follow::{Cursor, Follow, Subject};
use super::output::{Out, note};
use super::{Context, connect, signals};
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::system_service_client::SystemServiceClient;
use crate::pb::{BatchCancelExecutionsRequest, GetStatusRequest};
use crate::pb::{ExecutionFilter, ExecutionState, ExecutionView};

use collect::{Begin, Collector};
use name::Name;
use patience::{Meaning, Patience};
use plan::{Plan, Source};
use report::{Report, Share, Summary, Tally};
use request::{LABEL, Reading};
use results::Results;
use submit::{Pace, Submitter};

/// What to submit, and where results go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with one submission a line, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Provider of lines that name none
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Name of the batch, up to 64 of a-z A-Z 0-9 . _ -; under another, every line is executed
    /// anew. Default: from the file's absolute path; for stdin, another each time
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Append results to this file, which tells the next run what is done; default: stdout
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Lines submitted in one message, 1 to 1000; fewer if they are large
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    chunk: u32,
    /// Pause between two messages, such as 500ms
    #[arg(long, value_name = "DURATION", default_value = "0s",
          value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Executions submitted and not ended at a time, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_pending: u32,
    /// Part of the lines that must succeed for exit code 0, such as 99.5%
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = Share::parse)]
    min_success: Share,
    /// How long to go on trying while the server takes nothing or cannot be reached
    #[arg(long, value_name = "DURATION", default_value = "5m",
          value_parser = humantime::parse_duration)]
    retry_for: Duration,
    /// On Ctrl-C, cancel what was submitted and collect how it ended; a second one ends at once
    #[arg(long)]
    cancel_on_interrupt: bool,
}

/// A batch that is ready to begin.
struct Batch {
    args: Args,
    source: Source,
    reading: Reading,
    plan: Plan,
    results: Results,
    tally: Tally,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let batch = Batch::prepare(args)?;
    let channel = context.server.connect().await?;
    Box::pin(batch.run(channel, context.out)).await
}

impl Batch {
    /// Reads what there is to do, and what is done already.
    fn prepare(args: Args) -> anyhow::Result<Self> {
        let source = Source::open(&args.file)?;
        let name = args.name.clone().or_else(|| source.name.clone()).unwrap_or_else(Name::fresh);
        let reading = Reading { name, provider: args.provider.clone() };
        let mut plan = Plan::read(&source, &reading)?;
        let mut tally = Tally::default();
        let results = match &args.output_file {
            None => Results::Stdout,
            Some(path) => Results::open(path, source.file(), &reading.name, &mut plan, &mut tally)?,
        };
        Ok(Self { args, source, reading, plan, results, tally })
    }

    async fn run(self, channel: Channel, out: Out) -> anyhow::Result<ExitCode> {
        let Self { args, source, reading, plan, results, tally } = self;
        let report = Report::new(plan.total, &tally);
        let name = reading.name.clone();
        let again = resumption(&source, &name);
        let (total, earlier) = (plan.total, tally.earlier);
        report.say(format_args!(
            "batch {name}: {total} lines from {}, {earlier} have their result",
            source.shown
        ));
        let client = connect::executions(channel.clone());
        let cursor = head(channel, args.retry_for).await?;
        // No more at a time than there is room for.
        let chunk = args.chunk.min(args.max_pending);
        let room = Arc::new(Semaphore::new(args.max_pending as usize));
        let stop = CancellationToken::new();
        let submitter = Submitter {
            client: client.clone(),
            lines: source.lines().context("cannot read the lines again")?,
            plan: &plan,
            reading,
            pace: Pace { chunk, delay: args.delay, retry_for: args.retry_for },
            room: Arc::clone(&room),
            stop: stop.clone(),
            left_over: None,
            begun: false,
        };
        let mut collector = Collector::new(Begin {
            client: client.clone(),
            submissions: submitter.into_stream(),
            follow: Follow::new(client.clone(), ends_of(&name), Some(cursor.clone())),
            cursor,
            retry_for: args.retry_for,
            name: &name,
            room,
            results,
            report: &report,
            tally,
        });
        let cancel = args.cancel_on_interrupt.then_some(stop);
        let end = to_the_end(&mut collector, &report, cancel, || {
            cancel_all(client, &name, args.retry_for)
        });
        let end = end.await;
        let time = report.finish();
        collector.sync()?;
        let (tally, going_on) = (collector.tally, collector.awaited());
        let summary = Summary { batch: name.to_string(), total, tally, time };
        note(summary.line());
        if args.output_file.is_some() {
            out.result(|| summary.json(), || summary.table())?;
        }
        match end {
            End::Collected => {
                let enough = args.min_success.is_reached(tally.succeeded, total);
                Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            End::Interrupted(code) => {
                note(format_args!(
                    "interrupted; {going_on} executions go on without us. To resume, {again}"
                ));
                Ok(code)
            }
            End::Failed(error) => {
                note(format_args!("not everything was collected. To resume, {again}"));
                Err(error)
            }
        }
    }
}

/// How a batch ended.
enum End {
    /// Every line has its result.
    Collected,
    /// A signal ended it.
    Interrupted(ExitCode),
    /// Not every line could be submitted, or not every result be collected.
    Failed(anyhow::Error),
}

/// Collects until everything is there. A signal ends that: at once, or with `cancel` once everything
/// submitted was cancelled and that is collected. If lines can no longer be submitted, the results of
/// the others are collected all the same.
async fn to_the_end<C: Future<Output = anyhow::Result<()>>>(
    collector: &mut Collector<'_>,
    report: &Report,
    cancel: Option<CancellationToken>,
    cancel_all: impl FnOnce() -> C,
) -> End {
    let mut failure = None;
    let mut signalled = Box::pin(signals::interrupted());
    let mut interrupted = None;
    let mut cancel_all = Some(cancel_all);
    while !collector.is_done() {
        let was_submitting = collector.is_submitting();
        let news = tokio::select! {
            news = collector.news() => news,
            code = &mut signalled => {
                let Some(stop) = cancel.as_ref().filter(|_| interrupted.is_none()) else {
                    return End::Interrupted(code);
                };
                report.say("interrupted; cancelling. Once more to leave at once");
                stop.cancel();
                interrupted = Some(code);
                signalled = Box::pin(signals::interrupted());
                continue;
            }
        };
        if let Err(error) = news.and_then(|news| collector.take(news)) {
            // Only what ends the submissions leaves something to collect.
            if collector.is_submitting() || !was_submitting {
                return End::Failed(error);
            }
            report.say(format_args!("no further line is submitted: {error:#}"));
            failure = Some(error);
        }
        let stopped = interrupted.is_some() && !collector.is_submitting();
        if let Some(cancel_all) = cancel_all.take_if(|_| stopped) {
            let cancelled = tokio::select! {
                cancelled = cancel_all() => cancelled,
                code = &mut signalled => return End::Interrupted(code),
            };
            if let Err(error) = cancelled {
                return End::Failed(error);
            }
        }
    }
    match (failure, interrupted) {
        (_, Some(code)) => End::Interrupted(code),
        (Some(error), None) => End::Failed(error),
        (None, None) => End::Collected,
    }
}

/// What people have to do to go on.
fn resumption(source: &Source, name: &Name) -> String {
    match source.name {
        Some(_) => "run the same command again".to_owned(),
        None => format!("run the same command again with the same lines and --name {name}"),
    }
}

/// Where the store's log ends.
async fn head(channel: Channel, retry_for: Duration) -> anyhow::Result<Cursor> {
    let mut client = SystemServiceClient::new(channel);
    let mut patience = Patience::new("does not answer", retry_for);
    loop {
        match client.get_status(GetStatusRequest::default()).await {
            Ok(reply) => {
                let store = reply.into_inner().store.context("the reply tells of no store")?;
                return Ok(Cursor { revision: store.revision, store_epoch: store.epoch });
            }
            Err(status) if Meaning::of(&status) == Meaning::Wait => patience.wait(&status).await?,
            Err(status) => return Err(status.into()),
        }
    }
}

/// Everything of a batch.
fn filter(name: &Name) -> ExecutionFilter {
    let labels = [(LABEL.to_owned(), name.as_str().to_owned())].into();
    ExecutionFilter { labels, ..Default::default() }
}

/// The ends of a batch's executions.
fn ends_of(name: &Name) -> Subject {
    let ends = [ExecutionState::Succeeded, ExecutionState::Failed, ExecutionState::Cancelled];
    let states = ends.map(i32::from).to_vec();
    let filter = ExecutionFilter { states, ..filter(name) };
    Subject::Many { filter, view: ExecutionView::Basic }
}

async fn cancel_all(
    mut client: ExecutionServiceClient<Channel>,
    name: &Name,
    retry_for: Duration,
) -> anyhow::Result<()> {
    let mut patience = Patience::new("does not cancel", retry_for);
    loop {
        let request = BatchCancelExecutionsRequest {
            filter: Some(filter(name)),
            reason: "the batch was interrupted".to_owned(),
            validate_only: false,
        };
        match client.batch_cancel_executions(request).await {
            Ok(_) => return Ok(()),
            Err(status) if Meaning::of(&status) == Meaning::Wait => patience.wait(&status).await?,
            Err(status) => return Err(status.into()),
        }
    }
}

impl<'a> Submitter<'a> {
    /// Chunk after chunk: what is under way is not lost when nobody waits for it.
    fn into_stream(self) -> collect::Submissions<'a> {
        let next = |mut submitter: Self| async move {
            submitter.next().await.transpose().map(|next| (next, submitter))
        };
        futures_util::stream::unfold(self, next).boxed()
    }
}

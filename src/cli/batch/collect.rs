//! Collecting results while lines are submitted.
//!
//! What must stay true: every line's result is written once, whatever order its submission's reply
//! and the news of its end come in. One watch tells the end of every execution of the batch. It
//! begins at a revision read before the first submission; so an execution either was terminal when
//! its submission was answered, or the watch tells its end. What it led to is then read by itself,
//! a few at a time, so that no more than those few outputs are in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

use super::name::{Digest, Name};
use super::patience::{Meaning, Patience};
use super::report::{Report, Tally};
use super::results::{ResultLine, Results, UsageSum};
use super::submit::{Outcome, Refusal, Submitted};
use crate::cli::follow::{Cursor, Follow};
use crate::cli::{json, tables};
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::watch_execution_response::Event;
use crate::pb::{Execution, ExecutionState, GetExecutionRequest, WatchExecutionResponse};

/// Executions read at the same time: each may hold 16 MiB of input and as much output.
const MAX_FETCHES: usize = 8;
/// A watch that is silent for longer than this and the patience for trouble is given up. It has a
/// heartbeat every 10 s, and a broken one is noticed after 35 s.
const WATCH_SILENCE: Duration = Duration::from_secs(40);

/// Something that happened.
pub(super) enum News {
    /// A chunk was submitted.
    Submitted(Vec<Submitted>),
    /// There is nothing more to submit.
    AllSubmitted,
    /// The watch told something.
    Watched(Box<WatchExecutionResponse>),
    /// An execution was read.
    Fetched(Uuid, Box<Execution>),
}

/// A line that waits for its execution.
#[derive(Debug)]
struct Waiter {
    line: u64,
    digest: Digest,
    request_id: String,
    replayed: bool,
}

/// An execution that lines wait for.
#[derive(Debug, Default)]
struct Awaited {
    lines: Vec<Waiter>,
    /// It is to be read, or being read.
    ended: bool,
}

pub(super) type Submissions<'a> = BoxStream<'a, anyhow::Result<Vec<Submitted>>>;
type Changes = BoxStream<'static, anyhow::Result<WatchExecutionResponse>>;
type Fetch = BoxFuture<'static, anyhow::Result<(Uuid, Box<Execution>)>>;

/// What is under way.
pub(super) struct Collector<'a> {
    client: ExecutionServiceClient<Channel>,
    submissions: Option<Submissions<'a>>,
    changes: Changes,
    fetches: FuturesUnordered<Fetch>,
    retry_for: Duration,
    name: &'a Name,
    room: Arc<Semaphore>,
    results: Results,
    report: &'a Report,
    pub(super) tally: Tally,
    awaited: HashMap<Uuid, Awaited>,
    /// Ended, and not being read yet.
    to_fetch: VecDeque<Uuid>,
    /// Ended while a submission was under way that may turn out to stand for them.
    early: HashSet<Uuid>,
    cursor: Cursor,
}

/// What a [`Collector`] begins with.
pub(super) struct Begin<'a> {
    pub(super) client: ExecutionServiceClient<Channel>,
    pub(super) submissions: Submissions<'a>,
    pub(super) follow: Follow,
    /// Where the watch begins.
    pub(super) cursor: Cursor,
    pub(super) retry_for: Duration,
    pub(super) name: &'a Name,
    pub(super) room: Arc<Semaphore>,
    pub(super) results: Results,
    pub(super) report: &'a Report,
    pub(super) tally: Tally,
}

impl<'a> Collector<'a> {
    pub(super) fn new(begin: Begin<'a>) -> Self {
        let Begin { client, submissions, follow, cursor, .. } = begin;
        Self {
            client,
            submissions: Some(submissions),
            changes: changes(follow, begin.retry_for.saturating_add(WATCH_SILENCE)),
            fetches: FuturesUnordered::new(),
            retry_for: begin.retry_for,
            name: begin.name,
            room: begin.room,
            results: begin.results,
            report: begin.report,
            tally: begin.tally,
            awaited: HashMap::new(),
            to_fetch: VecDeque::new(),
            early: HashSet::new(),
            cursor,
        }
    }

    /// Whether every line that was submitted has its result.
    pub(super) fn is_done(&self) -> bool {
        self.submissions.is_none() && self.awaited.is_empty()
    }

    /// Executions that go on without a result so far.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Waits for what happens next. Can be dropped while it waits.
    pub(super) async fn news(&mut self) -> anyhow::Result<News> {
        while self.fetches.len() < MAX_FETCHES {
            let Some(id) = self.to_fetch.pop_front() else { break };
            self.fetches.push(fetch(self.client.clone(), id, self.retry_for).boxed());
        }
        let submissions = async {
            match &mut self.submissions {
                Some(submissions) => submissions.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            submitted = submissions => match submitted {
                Some(Ok(submitted)) => Ok(News::Submitted(submitted)),
                Some(Err(error)) => {
                    self.submissions = None;
                    Err(error)
                }
                None => Ok(News::AllSubmitted),
            },
            Some(watched) = self.changes.next() => watched.map(|message| News::Watched(Box::new(message))),
            Some(fetched) = self.fetches.next() => {
                fetched.map(|(id, execution)| News::Fetched(id, execution))
            }
        }
    }

    /// Whether lines are still being submitted.
    pub(super) fn is_submitting(&self) -> bool {
        self.submissions.is_some()
    }

    /// Takes in what happened.
    pub(super) fn take(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::Submitted(submitted) => self.take_submitted(submitted),
            News::AllSubmitted => {
                self.submissions = None;
                self.early.clear();
                Ok(())
            }
            News::Watched(message) => self.take_watched(*message),
            News::Fetched(id, execution) => self.take_fetched(id, &execution),
        }
    }

    fn take_submitted(&mut self, submitted: Vec<Submitted>) -> anyhow::Result<()> {
        for one in submitted {
            let Submitted { line, digest, request_id, outcome } = one;
            match outcome {
                Outcome::Refused(refusal) => {
                    self.write_refused(line, digest, &request_id, &refusal)?;
                }
                Outcome::Accepted { execution, replayed } => {
                    let id = uuid(&execution)?;
                    let ended = is_terminal(execution.state()) || self.early.contains(&id);
                    let waiter = Waiter { line, digest, request_id, replayed };
                    self.awaited.entry(id).or_default().lines.push(waiter);
                    if ended {
                        self.ended(id);
                    }
                }
            }
        }
        // Of what ends from now on without being awaited, the next reply will tell.
        self.early.clear();
        Ok(())
    }

    fn take_watched(&mut self, message: WatchExecutionResponse) -> anyhow::Result<()> {
        let seen = Cursor { revision: message.revision, store_epoch: message.store_epoch };
        if seen.store_epoch != self.cursor.store_epoch || seen.revision < self.cursor.revision {
            bail!(
                "the server's store is not the one that the batch was submitted to, or was put back \
                 to an earlier state"
            );
        }
        self.cursor = seen;
        let Some(Event::Execution(execution)) = message.event else { return Ok(()) };
        if !is_terminal(execution.state()) {
            return Ok(());
        }
        let id = uuid(&execution)?;
        if self.awaited.contains_key(&id) {
            self.ended(id);
        } else if self.is_submitting() {
            self.early.insert(id);
        }
        Ok(())
    }

    fn ended(&mut self, id: Uuid) {
        if let Some(awaited) = self.awaited.get_mut(&id)
            && !std::mem::replace(&mut awaited.ended, true)
        {
            self.to_fetch.push_back(id);
        }
    }

    fn take_fetched(&mut self, id: Uuid, execution: &Execution) -> anyhow::Result<()> {
        if !is_terminal(execution.state()) {
            bail!("the server says that execution {id} ended, and shows it as going on");
        }
        let awaited = self.awaited.remove(&id).map(|awaited| awaited.lines);
        for waiter in awaited.into_iter().flatten() {
            self.write_ended(&waiter, execution)?;
        }
        Ok(())
    }

    fn write_ended(&mut self, waiter: &Waiter, execution: &Execution) -> anyhow::Result<()> {
        let state = execution.state();
        if state != ExecutionState::Succeeded {
            let attempts = match execution.attempts.len() {
                1 => "1 attempt".to_owned(),
                number => format!("{number} attempts"),
            };
            let (state, reason) = (tables::state(execution), tables::reason(execution));
            let reason = crate::cli::output::one_line(&reason);
            self.report
                .say(format_args!("line {}: {state} after {attempts}: {reason}", waiter.line));
        }
        self.write(
            &ResultLine {
                line: waiter.line,
                id: Some(&execution.id),
                state: state.as_str_name(),
                output: execution.output.as_ref().map(json::from_value),
                error: execution.error.as_ref().map(json::error_json),
                attempts: execution.attempts.len(),
                usage: usage(execution),
                replayed: waiter.replayed,
                request_id: &waiter.request_id,
                batch: self.name.as_str(),
                digest: waiter.digest.to_string(),
            },
            state,
        )
    }

    fn write_refused(
        &mut self,
        line: u64,
        digest: Digest,
        request_id: &str,
        refusal: &Refusal,
    ) -> anyhow::Result<()> {
        let Refusal { code, reason, message } = refusal;
        let shown = crate::cli::output::one_line(message);
        self.report.say(format_args!("line {line}: refused: {reason} ({code}): {shown}"));
        let error = serde_json::json!({ "code": code, "reason": reason, "message": message });
        let state = ExecutionState::Failed;
        self.write(
            &ResultLine {
                line,
                id: None,
                state: state.as_str_name(),
                output: None,
                error: Some(error),
                attempts: 0,
                usage: None,
                replayed: false,
                request_id,
                batch: self.name.as_str(),
                digest: digest.to_string(),
            },
            state,
        )
    }

    fn write(&mut self, result: &ResultLine<'_>, state: ExecutionState) -> anyhow::Result<()> {
        let results = &mut self.results;
        self.report.aside(|| results.write(result))?;
        self.tally.count(state, result.replayed);
        self.report.progress(&self.tally);
        self.room.add_permits(1);
        Ok(())
    }

    /// Makes the results safe.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        self.results.sync().context("cannot write the results to the disk")
    }
}

/// The watch as a stream: what it waits for is not lost when nobody waits for it.
fn changes(follow: Follow, longest: Duration) -> Changes {
    let next = move |mut follow: Follow| async move {
        let next = match timeout(longest, follow.next()).await {
            Ok(next) => next.map_err(anyhow::Error::new).transpose(),
            Err(_) => Some(Err(anyhow!("gave up watching after {} s", longest.as_secs()))),
        };
        next.map(|next| (next, follow))
    };
    futures_util::stream::unfold(follow, next).boxed()
}

async fn fetch(
    mut client: ExecutionServiceClient<Channel>,
    id: Uuid,
    retry_for: Duration,
) -> anyhow::Result<(Uuid, Box<Execution>)> {
    let mut patience = Patience::new("does not show an execution", retry_for);
    loop {
        let request = GetExecutionRequest { id: id.to_string(), ..Default::default() };
        match client.get_execution(request).await {
            Ok(reply) => {
                let execution = reply.into_inner().execution;
                let execution = execution.context("the server's reply holds no execution")?;
                return Ok((id, Box::new(execution)));
            }
            Err(status) if Meaning::of(&status) == Meaning::Wait => patience.wait(&status).await?,
            Err(status) => return Err(lost(id, status)),
        }
    }
}

fn lost(id: Uuid, status: Status) -> anyhow::Error {
    match status.code() {
        Code::NotFound => anyhow!("the server does not know execution {id} any more"),
        _ => status.into(),
    }
}

fn uuid(execution: &Execution) -> anyhow::Result<Uuid> {
    execution.id.parse().with_context(|| format!("{:?} is no execution id", execution.id))
}

fn is_terminal(state: ExecutionState) -> bool {
    match state {
        ExecutionState::Succeeded | ExecutionState::Failed | ExecutionState::Cancelled => true,
        ExecutionState::Unspecified | ExecutionState::Pending | ExecutionState::Running => false,
    }
}

/// Over all attempts that tell any.
fn usage(execution: &Execution) -> Option<UsageSum> {
    let told = execution.attempts.iter().filter_map(|attempt| attempt.usage.as_ref());
    told.map(|usage| UsageSum {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    })
    .reduce(|sum, more| UsageSum {
        input_tokens: sum.input_tokens.saturating_add(more.input_tokens),
        output_tokens: sum.output_tokens.saturating_add(more.output_tokens),
    })
}

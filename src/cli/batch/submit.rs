//! Submitting the lines, a chunk at a time.
//!
//! What must stay true: every open line comes out once, as an execution or as a refusal. A chunk is
//! stored whole or not at all, so one that has a line at fault is sent again without it; and because
//! every line has a `request_id`, one that may have been stored before the connection broke is simply
//! sent again.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::lines::Lines;
use super::name::Digest;
use super::patience::{Meaning, Patience};
use super::plan::{LineState, Plan};
use super::request::Reading;
use crate::cli::errors::code_name;
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::{BatchSubmitExecutionsRequest, BatchSubmitExecutionsResponse};
use crate::pb::{Execution, SubmitExecutionRequest};

/// A message is at most 20 MiB. One line that is larger goes alone.
const MAX_CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// One open line.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) line: u64,
    pub(super) digest: Digest,
    request: SubmitExecutionRequest,
}

/// What became of a line's submission.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An execution stands for it.
    Accepted { execution: Box<Execution>, replayed: bool },
    /// The server will not take it.
    Refused(Refusal),
}

/// Why the server will not take a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The code as the specification writes it.
    pub(super) code: String,
    /// From the contract's `ErrorReason`.
    pub(super) reason: String,
    pub(super) message: String,
}

/// A line whose submission is settled.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) line: u64,
    pub(super) digest: Digest,
    pub(super) request_id: String,
    pub(super) outcome: Outcome,
}

/// How lines are submitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Lines in one message at most.
    pub(super) chunk: u32,
    /// Between two messages.
    pub(super) delay: Duration,
    /// How long trouble may last.
    pub(super) retry_for: Duration,
}

/// Submits what is open.
pub(super) struct Submitter<'a> {
    pub(super) client: ExecutionServiceClient<Channel>,
    pub(super) lines: Lines<&'a File>,
    pub(super) plan: &'a Plan,
    pub(super) reading: Reading,
    pub(super) pace: Pace,
    /// Room for lines that have no result yet. Who writes a result gives it back.
    pub(super) room: Arc<Semaphore>,
    /// No further chunk is begun once this is set.
    pub(super) stop: CancellationToken,
    /// A line that did not fit the chunk before.
    pub(super) left_over: Option<Entry>,
    pub(super) begun: bool,
}

impl Submitter<'_> {
    /// Submits the next chunk. None once every open line was submitted, or it was stopped.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Submitted>>> {
        let stop = self.stop.clone();
        let entries = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            entries = self.gather() => entries?,
        };
        if entries.is_empty() {
            return Ok(None);
        }
        self.settle(entries).await.map(Some)
    }

    /// Waits until a chunk may be sent, and reads it. Can be dropped while it waits.
    async fn gather(&mut self) -> anyhow::Result<Vec<Entry>> {
        if self.begun && !self.pace.delay.is_zero() {
            sleep(self.pace.delay).await;
        }
        // A whole chunk's room, so that a full window does not lead to chunks of one.
        let room = Arc::clone(&self.room);
        let taken = room.acquire_many(self.pace.chunk).await.context("the batch has ended")?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < self.pace.chunk as usize {
            let Some(entry) = self.next_entry()? else { break };
            bytes += entry.request.encoded_len();
            if bytes > MAX_CHUNK_BYTES && !entries.is_empty() {
                self.left_over = Some(entry);
                break;
            }
            entries.push(entry);
        }
        taken.forget();
        self.room.add_permits(self.pace.chunk as usize - entries.len());
        self.begun = true;
        Ok(entries)
    }

    fn next_entry(&mut self) -> anyhow::Result<Option<Entry>> {
        if let Some(entry) = self.left_over.take() {
            return Ok(Some(entry));
        }
        while let Some(line) = self.lines.next().context("cannot read on")? {
            let LineState::Open(planned) = self.plan.state(line.number) else { continue };
            let digest = line.text.and_then(|text| self.reading.digest(text));
            let (Some(text), Some(digest)) = (line.text, digest.filter(|now| *now == planned))
            else {
                bail!("line {} was changed while the batch ran", line.number);
            };
            let request = self.reading.request(line.number, text, digest);
            let request = request.map_err(anyhow::Error::msg)?;
            return Ok(Some(Entry { line: line.number, digest, request }));
        }
        Ok(None)
    }

    /// Sends entries until each is stored or refused.
    async fn settle(&mut self, entries: Vec<Entry>) -> anyhow::Result<Vec<Submitted>> {
        let mut settled = Vec::with_capacity(entries.len());
        let mut waiting = vec![entries];
        while let Some(entries) = waiting.pop() {
            match self.send(&entries).await? {
                Ok(reply) => settled.extend(accepted(entries, reply)?),
                Err(status) => {
                    let refusals = refusals(&status, entries.len());
                    if refusals.is_empty() {
                        // It does not say which: the half that is not at fault will pass.
                        let mut first = entries;
                        let second = first.split_off(first.len() / 2);
                        waiting.extend([second, first]);
                        continue;
                    }
                    let mut others = Vec::new();
                    for (index, entry) in entries.into_iter().enumerate() {
                        match refusals.get(&index) {
                            Some(refusal) => {
                                settled.push(entry.settled(Outcome::Refused(refusal.clone())));
                            }
                            None => others.push(entry),
                        }
                    }
                    if !others.is_empty() {
                        waiting.push(others);
                    }
                }
            }
        }
        Ok(settled)
    }

    /// Sends one message until it is answered: with what it led to, or with what is wrong with it.
    async fn send(
        &mut self,
        entries: &[Entry],
    ) -> anyhow::Result<Result<BatchSubmitExecutionsResponse, Status>> {
        let mut patience = Patience::new("takes no submissions", self.pace.retry_for);
        loop {
            let requests = entries.iter().map(|entry| entry.request.clone()).collect();
            let request = BatchSubmitExecutionsRequest { requests };
            match self.client.batch_submit_executions(request).await {
                Ok(reply) => return Ok(Ok(reply.into_inner())),
                Err(status) => match Meaning::of(&status) {
                    Meaning::Wait => patience.wait(&status).await?,
                    Meaning::Refused => return Ok(Err(status)),
                    Meaning::Fatal => return Err(status.into()),
                },
            }
        }
    }
}

impl Entry {
    fn settled(self, outcome: Outcome) -> Submitted {
        let Self { line, digest, request } = self;
        Submitted { line, digest, request_id: request.request_id, outcome }
    }
}

fn accepted(
    entries: Vec<Entry>,
    reply: BatchSubmitExecutionsResponse,
) -> anyhow::Result<Vec<Submitted>> {
    if reply.executions.len() != entries.len() {
        bail!("the server's reply to {} lines is {}", entries.len(), reply.executions.len());
    }
    // An older server does not tell what was replayed.
    let replayed = reply.replayed.into_iter().chain(std::iter::repeat(false));
    let answers = reply.executions.into_iter().map(Box::new).zip(replayed);
    let settled = entries.into_iter().zip(answers);
    Ok(settled
        .map(|(entry, (execution, replayed))| {
            entry.settled(Outcome::Accepted { execution, replayed })
        })
        .collect())
}

/// Which of `count` submissions a status is about, and what it says of each. Empty: it does not
/// say which of them.
fn refusals(status: &Status, count: usize) -> BTreeMap<usize, Refusal> {
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
    let refusal = |message: &str| Refusal {
        code: code_name(status.code()),
        reason: reason.clone(),
        message: message.to_owned(),
    };
    let mut found: BTreeMap<usize, Refusal> = BTreeMap::new();
    for violation in details.bad_request().into_iter().flat_map(|bad| &bad.field_violations) {
        let Some((index, field)) = indexed(&violation.field) else { continue };
        let told = match field {
            "" => violation.description.clone(),
            field => format!("{field}: {}", violation.description),
        };
        match found.get_mut(&index) {
            Some(refusal) => refusal.message = format!("{}; {told}", refusal.message),
            None => drop(found.insert(index, refusal(&told))),
        }
    }
    let named = info.and_then(|info| info.metadata.get("field")).and_then(|field| indexed(field));
    if let Some((index, _)) = named.filter(|_| found.is_empty()) {
        let prefix = format!("requests[{index}].");
        let message = status.message();
        found.insert(index, refusal(message.strip_prefix(&prefix).unwrap_or(message)));
    }
    found.retain(|index, _| *index < count);
    if found.is_empty() && count == 1 {
        found.insert(0, refusal(status.message()));
    }
    found
}

/// Splits `requests[7].provider`.
fn indexed(field: &str) -> Option<(usize, &str)> {
    let (index, rest) = field.strip_prefix("requests[")?.split_once(']')?;
    Some((index.parse().ok()?, rest.trim_start_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_is_told_of_every_line_that_is_named() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("requests[7].input.chunks", "is not a number")
            .add_bad_request_violation("requests[7].labels[a b]", "is malformed")
            .add_bad_request_violation("requests[2].run_timeout", "must be more than 0")
            .set_error_info("INVALID_FIELD", "flowgate", []);
        let status = Status::with_error_details(Code::InvalidArgument, "invalid", details);
        let found = refusals(&status, 8);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [2, 7]);
        assert_eq!(found[&2].message, "run_timeout: must be more than 0");
        assert_eq!(found[&7].message, "input.chunks: is not a number; labels[a b]: is malformed");
        assert_eq!(found[&7].code, "INVALID_ARGUMENT");
        assert_eq!(found[&7].reason, "INVALID_FIELD");
    }

    #[test]
    fn a_refusal_without_violations_names_its_line_in_the_details() {
        let mut details = ErrorDetails::new();
        let metadata = [("field".to_owned(), "requests[3].provider".to_owned())];
        details.set_error_info("PROVIDER_NOT_FOUND", "flowgate", metadata);
        let message = "requests[3].provider: there is no provider x";
        let status = Status::with_error_details(Code::NotFound, message, details);
        let found = refusals(&status, 100);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&3].message, "provider: there is no provider x");
    }

    #[test]
    fn a_refusal_that_names_no_line_is_of_the_only_one_or_of_none() {
        let status = Status::resource_exhausted("too large");
        assert!(refusals(&status, 2).is_empty());
        assert_eq!(refusals(&status, 1)[&0].message, "too large");
    }
}

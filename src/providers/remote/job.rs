//! Work that goes on at the provider under an id of its own: what `langflow`, `langgraph`, `n8n` and
//! background responses of `openai` do for an attempt.
//!
//! What must stay true: the handle is stored before the work is waited for; an attempt that has one
//! never starts anything; trouble on the way to the provider is no reason to give up work that goes
//! on there; and whoever is cancelled or out of time stops it there.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::exchange::dropped;
use super::{Pauses, Progress, Remote, permanent, transient};
use crate::domain::{ErrorCode, Failure, FailureKind, Handle, Usage};
use crate::providers::{AttemptFailure, Call, StopReason, Success};

/// How long an attempt may clean up after it was asked to stop.
pub(in crate::providers) const STOP_GRACE: Duration = Duration::from_secs(15);
/// How long to wait, once asked to stop, for the answer that tells the id of what was started.
pub(in crate::providers) const LEARN: Duration = Duration::from_secs(4);
/// How often work is started at most for one attempt.
const STARTS: u32 = 4;
/// How long to wait for the provider to take a cancellation.
const CANCEL: Duration = Duration::from_secs(5);
/// How long to wait for the result of work that turns out to be over.
const COLLECT: Duration = Duration::from_secs(3);
/// How long to wait for what work that failed or was stopped had come to.
const SALVAGE: Duration = Duration::from_secs(1);
/// Pauses between questions after work that could not be asked after.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What became of work by the answer to its start.
#[derive(Debug)]
pub(in crate::providers) enum Started {
    /// It goes on.
    At {
        /// Where it was started.
        endpoint: String,
        /// Ids under which the provider knows it.
        ids: Map<String, Value>,
    },
    /// It is over: the answer was its result.
    Over(Success),
}

impl Started {
    /// Work that the provider knows under these ids.
    pub(in crate::providers) fn at<const N: usize>(endpoint: &str, ids: [(&str, &str); N]) -> Self {
        let ids = ids.into_iter().map(|(name, id)| (name.to_owned(), id.into())).collect();
        Self::At { endpoint: endpoint.to_owned(), ids }
    }
}

/// What the provider said to a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::providers) enum Cancelled {
    /// It stopped the work.
    Confirmed,
    /// It took the request; whether the work stopped is not known.
    Requested,
    /// The work was over already.
    Over,
    /// It knows of no such work.
    Unknown,
}

/// A provider of such work.
#[async_trait]
pub(in crate::providers) trait Job: Send + Sync {
    /// Where it is.
    fn remote(&self) -> &Remote;

    /// Whether [`Job::start`] starts the work only once for one [`Call::key`].
    fn starts_once(&self) -> bool;

    /// How long the answer to a start is waited for once the attempt is asked to stop.
    fn learns_within(&self) -> Duration {
        LEARN
    }

    /// Starts the work.
    async fn start(&self, call: &Call) -> Result<Started, AttemptFailure>;

    /// Waits for the end of the work and reads its result. May be called again after it lost sight
    /// of the work, and by another attempt.
    async fn follow(
        &self,
        handle: &Handle,
        call: &Call,
        progress: &Progress,
    ) -> Result<Success, Lost>;

    /// Stops the work.
    async fn cancel(&self, handle: &Handle) -> Result<Cancelled, AttemptFailure>;

    /// What the work had come to when it failed or was stopped.
    async fn salvage(&self, _handle: &Handle) -> Option<Value> {
        None
    }

    /// What the work consumed, as far as is known.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

/// Why following work ended without its result.
#[derive(Debug)]
pub(in crate::providers) enum Lost {
    /// The work failed, or is not known any more.
    Failed(AttemptFailure),
    /// The provider cannot be asked at present; the work may go on.
    Sight(AttemptFailure),
}

impl Lost {
    /// Whether an error while asking says something of the work or only of the way to it.
    pub(in crate::providers) fn asking(failed: AttemptFailure) -> Self {
        match failed.kind {
            FailureKind::Transient | FailureKind::RateLimited => Self::Sight(failed),
            // Such as a key that is not valid any more.
            FailureKind::Permanent if failed.failure.code == ErrorCode::Permanent => {
                Self::Failed(failed.with_detail("may_run_on", true.into()))
            }
            FailureKind::Permanent | FailureKind::Cancelled => Self::Failed(failed),
        }
    }
}

/// Runs an attempt: takes up what an earlier one began or starts the work, and sees it to its end.
pub(in crate::providers) async fn run(
    job: &dyn Job,
    call: Call,
) -> Result<Success, AttemptFailure> {
    let redactor = job.remote().redactor();
    let progress = Progress::new(call.output.clone(), redactor);
    let mut result = attempt(job, &call, &progress).await;
    progress.finish(result.is_ok()).await;
    if let Err(failed) = &mut result {
        failed.usage = failed.usage.or_else(|| job.usage());
    }
    progress.redactor().result(result)
}

async fn attempt(
    job: &dyn Job,
    call: &Call,
    progress: &Progress,
) -> Result<Success, AttemptFailure> {
    let mut stop = call.stop.clone();
    let handle = match &call.handle {
        Some(handle) => handle.clone(),
        None => {
            let (endpoint, mut ids) = match start(job, call).await? {
                Started::At { endpoint, ids } => (endpoint, ids),
                Started::Over(success) => return Ok(success),
            };
            // Handles are stored and shown, and without the key in it such an id is of no use.
            let mut seen = Value::Object(ids.clone());
            progress.redactor().value(&mut seen);
            if seen != Value::Object(ids.clone()) {
                return Err(permanent("the provider gave an id that holds the key"));
            }
            ids.insert("endpoint".to_owned(), endpoint.into());
            let handle = Handle::new(ids).map_err(|error| transient(error.to_string()))?;
            // If this fails the lease is lost, and another attempt finds the work by its key.
            if call.keeper.keep(&handle).await.is_err() {
                return Err(dropped(StopReason::LeaseLost));
            }
            handle
        }
    };
    let reason = tokio::select! {
        biased;
        reason = stop.requested() => reason,
        result = see_through(job, &handle, call, progress) => return result,
    };
    match reason {
        // Another attempt takes it up.
        StopReason::LeaseLost | StopReason::ShuttingDown => Err(dropped(reason)),
        StopReason::Cancelled | StopReason::TimedOut => {
            stopped(job, &handle, call, progress, reason).await
        }
    }
}

/// Starts the work. Whoever is asked to stop meanwhile waits a little for its id, without which it
/// cannot be stopped.
async fn start(job: &dyn Job, call: &Call) -> Result<Started, AttemptFailure> {
    let mut stop = call.stop.clone();
    if let Some(reason) = stop.reason() {
        return Err(dropped(reason));
    }
    let mut starting = pin!(start_once(job, call));
    tokio::select! {
        biased;
        started = &mut starting => started,
        reason = stop.requested() => {
            let learnt = tokio::time::timeout(job.learns_within(), starting).await;
            learnt.unwrap_or_else(|_| {
                Err(dropped(reason).with_detail("may_run_on", true.into()))
            })
        }
    }
}

/// Starts the work, again where no answer came and that does no harm.
async fn start_once(job: &dyn Job, call: &Call) -> Result<Started, AttemptFailure> {
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    for _ in 1..STARTS {
        match job.start(call).await {
            Err(failed) if job.starts_once() && is_in_doubt(&failed) => pauses.pause(None).await,
            Err(failed) => return Err(doubted(failed)),
            started => return started,
        }
    }
    job.start(call).await.map_err(doubted)
}

/// Whether the work may have been started although this came of it: there was no answer, or one
/// that a gateway may give in the place of the server's.
fn is_in_doubt(failed: &AttemptFailure) -> bool {
    let detail = |name: &str| failed.failure.details.as_ref()?.get(name).cloned();
    let sent = detail("sent") != Some(false.into());
    let status = detail("http_status").and_then(|status| status.as_u64());
    let silent = matches!(status, None | Some(408 | 409 | 500 | 502 | 504));
    failed.kind == FailureKind::Transient && sent && silent
}

fn doubted(failed: AttemptFailure) -> AttemptFailure {
    if is_in_doubt(&failed) { failed.with_detail("may_run_on", true.into()) } else { failed }
}

/// Follows the work to its end, however often the way to it is broken.
async fn see_through(
    job: &dyn Job,
    handle: &Handle,
    call: &Call,
    progress: &Progress,
) -> Result<Success, AttemptFailure> {
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let asked = Instant::now();
        match job.follow(handle, call, progress).await {
            Ok(success) => return Ok(success),
            Err(Lost::Failed(failed)) => return Err(salvaged(job, handle, failed).await),
            Err(Lost::Sight(failed)) => {
                let error = failed.for_log();
                tracing::warn!(error, "cannot ask the provider after its work, trying again");
                if asked.elapsed() > LONGEST_PAUSE {
                    pauses.start_over();
                }
                pauses.pause(failed.retry_after).await;
            }
        }
    }
}

/// A failure with what else is to be known of the work.
async fn salvaged(job: &dyn Job, handle: &Handle, mut failed: AttemptFailure) -> AttemptFailure {
    if failed.output.is_none() {
        let salvage = tokio::time::timeout(SALVAGE, job.salvage(handle)).await;
        failed.output = salvage.ok().flatten();
    }
    if failed.output.is_some() {
        failed.add_detail("partial_output", true.into());
    }
    failed.with_detail("handle", Value::Object(handle.ids()))
}

/// Stops the work at the provider. If it turns out to be over, its result counts.
async fn stopped(
    job: &dyn Job,
    handle: &Handle,
    call: &Call,
    progress: &Progress,
    reason: StopReason,
) -> Result<Success, AttemptFailure> {
    let said = cancel(job, handle).await;
    if matches!(said, Ok(Cancelled::Over)) {
        let result = tokio::time::timeout(COLLECT, job.follow(handle, call, progress)).await;
        match result {
            Ok(Ok(success)) => return Ok(success),
            // That somebody stopped it, perhaps an attempt before this one, is said below.
            Ok(Err(Lost::Failed(failed))) if failed.kind != FailureKind::Cancelled => {
                return Err(salvaged(job, handle, failed).await);
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    let (confirmed, what) = match &said {
        Ok(Cancelled::Confirmed) => (true, "the provider stopped the work".to_owned()),
        Ok(Cancelled::Requested) => (false, "the provider was asked to stop the work".to_owned()),
        Ok(Cancelled::Over) => (true, "the work was over".to_owned()),
        Ok(Cancelled::Unknown) => (true, "the provider knows of no such work".to_owned()),
        Err(failed) => {
            let why = &failed.failure.message;
            (false, format!("the provider could not be asked to stop the work: {why}"))
        }
    };
    let (code, kind, word) = match reason {
        StopReason::TimedOut => (ErrorCode::Timeout, FailureKind::Transient, "timed out"),
        StopReason::Cancelled | StopReason::LeaseLost | StopReason::ShuttingDown => {
            (ErrorCode::Cancelled, FailureKind::Cancelled, "cancelled")
        }
    };
    let failure = Failure::new(code, code == ErrorCode::Timeout, format!("{word}; {what}"));
    let stopped = json!({"by": "provider", "confirmed": confirmed});
    let mut failed = AttemptFailure::new(kind, failure).with_detail("stopped", stopped);
    if !confirmed {
        failed.add_detail("may_run_on", true.into());
    }
    Err(salvaged(job, handle, failed).await)
}

/// Asks the provider to stop the work, again for a while where it cannot be asked.
async fn cancel(job: &dyn Job, handle: &Handle) -> Result<Cancelled, AttemptFailure> {
    let mut pauses = Pauses::polling();
    let mut last = transient("the provider did not answer");
    let asking = async {
        loop {
            match job.cancel(handle).await {
                Err(failed) if failed.kind != FailureKind::Permanent => last = failed,
                said => return said,
            }
            pauses.pause(None).await;
        }
    };
    match tokio::time::timeout(CANCEL, asking).await {
        Ok(said) => said,
        Err(_) => Err(last),
    }
}

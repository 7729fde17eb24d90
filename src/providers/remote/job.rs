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
use super::{Progress, Remote, transient};
use crate::domain::{ErrorCode, Failure, FailureKind, Handle};
use crate::providers::{AttemptFailure, Call, StopReason, Success};

/// How long an attempt may clean up after it was asked to stop.
pub(in crate::providers) const STOP_GRACE: Duration = Duration::from_secs(15);
/// How long to wait, once asked to stop, for the answer that tells the id of what was started.
const LEARN: Duration = Duration::from_secs(4);
/// How often work is started at most for one attempt.
const STARTS: u32 = 4;
/// How long to wait for the provider to take a cancellation.
const CANCEL: Duration = Duration::from_secs(5);
/// How long to wait for the result of work that turns out to be over.
const COLLECT: Duration = Duration::from_secs(3);
/// Pauses between questions after work that could not be asked after.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Ids under which the provider knows the work, its endpoint left out.
#[derive(Debug)]
pub(in crate::providers) struct Started {
    /// Where it was started.
    pub(in crate::providers) endpoint: String,
    /// The ids.
    pub(in crate::providers) ids: Map<String, Value>,
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
            FailureKind::Transient | FailureKind::RateLimited { .. } => Self::Sight(failed),
            FailureKind::Permanent | FailureKind::Cancelled => Self::Failed(failed),
        }
    }
}

/// Runs an attempt: takes up what an earlier one began or starts the work, and sees it to its end.
pub(in crate::providers) async fn run(
    job: &dyn Job,
    call: Call,
) -> Result<Success, AttemptFailure> {
    let redactor = job.remote().redactor().await;
    let progress = Progress::new(call.output.clone(), redactor);
    let result = attempt(job, &call, &progress).await;
    progress.finish().await;
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
            let started = start(job, call).await?;
            let mut ids = started.ids;
            ids.insert("endpoint".to_owned(), started.endpoint.into());
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
            let learnt = tokio::time::timeout(LEARN, starting).await;
            learnt.unwrap_or_else(|_| {
                Err(dropped(reason).with_detail("may_run_on", true.into()))
            })
        }
    }
}

/// Starts the work, again where no answer came and that does no harm.
async fn start_once(job: &dyn Job, call: &Call) -> Result<Started, AttemptFailure> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..STARTS {
        match job.start(call).await {
            Err(failed) if job.starts_once() && has_no_answer(&failed) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
    job.start(call).await
}

fn has_no_answer(failed: &AttemptFailure) -> bool {
    let answered =
        failed.failure.details.as_ref().is_some_and(|it| it.get("http_status").is_some());
    failed.kind == FailureKind::Transient && !answered
}

/// Follows the work to its end, however often the way to it is broken.
async fn see_through(
    job: &dyn Job,
    handle: &Handle,
    call: &Call,
    progress: &Progress,
) -> Result<Success, AttemptFailure> {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = Instant::now();
        match job.follow(handle, call, progress).await {
            Ok(success) => return Ok(success),
            Err(Lost::Failed(failed)) => {
                let ids = Value::Object(handle.ids());
                return Err(failed.with_detail("handle", ids));
            }
            Err(Lost::Sight(failed)) => {
                let error = &failed.failure.message;
                tracing::warn!(error, "cannot ask the provider after its work, trying again");
                if asked.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Stops the work at the provider. If it turns out to be over, its result counts.
async fn stopped(
    job: &dyn Job,
    handle: &Handle,
    call: &Call,
    progress: &Progress,
    reason: StopReason,
) -> Result<Success, AttemptFailure> {
    let said = tokio::time::timeout(CANCEL, job.cancel(handle)).await;
    let said = said.unwrap_or_else(|_| Err(transient("the provider did not answer")));
    if matches!(said, Ok(Cancelled::Over)) {
        let result = tokio::time::timeout(COLLECT, job.follow(handle, call, progress)).await;
        match result {
            Ok(Ok(success)) => return Ok(success),
            Ok(Err(Lost::Failed(failed))) => return Err(failed),
            Ok(Err(Lost::Sight(_))) | Err(_) => {}
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
    Err(AttemptFailure::new(kind, failure)
        .with_detail("stopped", stopped)
        .with_detail("handle", Value::Object(handle.ids())))
}

//! One attempt, from its claim to its settlement:
//!
//! 1. register it, so that it can be cancelled, renewed and drained;
//! 2. run the provider, passing its output on, until it ends or is stopped;
//! 3. read from the result what it means for the execution;
//! 4. settle that under the lease, as often as it takes the store to hear it.
//!
//! What must stay true: whatever the provider does, panics included, the attempt is settled or
//! known to have lost its lease, and nothing of it outlives its registration.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::active::ActiveAttempt;
use super::figures::Counted;
use super::lease::{next_pause, passed};
use super::{ConfiguredProvider, Engine, Inner};
use crate::domain::{Chunk, Ending, ErrorCode, Failure, FailureKind, Lease, Spec};
use crate::providers::{
    AttemptFailure, Call, Output, OutputChunk, Stop, StopReason, Stopper, Success, stop_pair,
};
use crate::store::{Claimed, Settlement, StoreError};
use crate::telemetry;

/// Pieces of output that may wait for the store before the provider is slowed.
const OUTPUT_QUEUE: usize = 64;
/// Output is put together up to this long and this large before it is stored.
const COALESCE_TIME: Duration = Duration::from_millis(50);
const COALESCE_BYTES: usize = 4 * 1024;
/// The largest result that is stored.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;
/// How long an attempt may clean up after itself when the whole server is stopping.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// What the provider said, or why it could not.
enum Outcome {
    Returned(Result<Success, AttemptFailure>),
    Panicked,
    /// It did not end within its grace and was dropped.
    Dropped,
    /// Its time was over before it could begin: the claim took too long.
    NotBegun,
}

impl Engine {
    /// Registers a claimed execution and spawns its attempt.
    pub(super) fn start_attempt(&self, claimed: Claimed, sent: Instant) {
        let (stopper, stop) = stop_pair();
        let deadline = watch::channel(sent + self.0.settings.work_deadline()).0;
        let provider = claimed.spec.provider.clone();
        let attempt = ActiveAttempt { lease: claimed.lease.clone(), provider, stopper, deadline };
        self.0.active.insert(attempt.clone());
        self.0.counters.started(claimed.waited);
        let span = tracing::info_span!(
            "attempt",
            execution.id = %claimed.lease.id,
            provider = %claimed.spec.provider,
            attempt = claimed.attempt,
            worker.id = %self.0.worker,
        );
        if let Some(submitted) = &claimed.spec.traceparent {
            // Fails without an OpenTelemetry layer: then there is no trace to continue.
            let _ = span.set_parent(telemetry::remote_parent(submitted));
        }
        let engine = self.clone();
        let task = async move {
            engine.attempt(claimed, &attempt, stop).await;
            engine.0.active.remove(&attempt.lease);
        };
        self.0.tasks.spawn(task.instrument(span));
    }

    async fn attempt(&self, claimed: Claimed, attempt: &ActiveAttempt, stop: Stop) {
        let started = Instant::now();
        let spec = &claimed.spec;
        let Some(configured) = self.0.providers.get(&spec.provider) else {
            // Claims name only configured providers.
            tracing::error!("claimed an execution of a provider that is not configured");
            return;
        };
        tracing::debug!("attempt started");
        let outcome = if started < *attempt.deadline.borrow() {
            self.run(&claimed, configured, attempt, stop.clone()).await
        } else {
            Outcome::NotBegun
        };
        let ending = ending(&claimed, outcome, stop.reason());
        let how = counted(&ending);
        self.0.active.work_over(&attempt.lease);
        if self.settle(&attempt.lease, ending).await {
            self.0.counters.ended(&spec.provider, how, started.elapsed(), self.now());
        }
        tracing::debug!(outcome = ?how, "attempt ended");
    }

    /// Runs the provider until it ends or its grace after a stop is over.
    async fn run(
        &self,
        claimed: &Claimed,
        configured: &ConfiguredProvider,
        attempt: &ActiveAttempt,
        mut stop: Stop,
    ) -> Outcome {
        let spec = &claimed.spec;
        let input = match serde_json::from_str(&spec.input.json) {
            Ok(input) => input,
            Err(error) => {
                let failure = Failure::new(ErrorCode::Internal, false, error.to_string());
                let failure = AttemptFailure::new(FailureKind::Permanent, failure);
                return Outcome::Returned(Err(failure));
            }
        };
        let (output, chunks) = Output::channel(OUTPUT_QUEUE);
        let call = Call {
            execution: spec.id,
            attempt: claimed.attempt,
            input,
            run_timeout: spec.run_timeout,
            stop: stop.clone(),
            lease_deadline: attempt.deadline.subscribe(),
            output,
            // The attempt's own span where there is one, else what the client sent.
            traceparent: telemetry::current_traceparent().or_else(|| spec.traceparent.clone()),
        };
        let work = AssertUnwindSafe(configured.provider.execute(call)).catch_unwind();
        let stopped = async {
            tokio::select! {
                () = watchdog(&attempt.stopper, spec, attempt.deadline.subscribe()) => {}
                () = grace_over(&mut stop, configured.provider.stop_grace()) => {}
            }
        };
        let work = async {
            tokio::select! {
                biased;
                outcome = work => match outcome {
                    Ok(result) => Outcome::Returned(result),
                    Err(_) => Outcome::Panicked,
                },
                () = stopped => Outcome::Dropped,
            }
        };
        let deadline = attempt.deadline.subscribe();
        // The provider's end of the output is dropped with its call, which ends the pump.
        let (outcome, ()) = tokio::join!(work, self.pump_output(claimed, chunks, deadline));
        outcome
    }

    /// Stores output while it is produced, put together into fewer and larger pieces.
    async fn pump_output(
        &self,
        claimed: &Claimed,
        mut chunks: tokio::sync::mpsc::Receiver<OutputChunk>,
        deadline: watch::Receiver<Instant>,
    ) {
        let mut index = 0;
        while let Some(first) = chunks.recv().await {
            let mut pending = vec![first];
            let mut bytes = pending[0].content.len();
            let flush_at = Instant::now() + COALESCE_TIME;
            while bytes < COALESCE_BYTES {
                match tokio::time::timeout_at(flush_at, chunks.recv()).await {
                    Ok(Some(chunk)) => {
                        bytes += chunk.content.len();
                        merge(&mut pending, chunk);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            let stored: Vec<_> = (index..)
                .zip(pending)
                .map(|(index, OutputChunk { stream, content })| Chunk {
                    attempt: claimed.attempt,
                    index,
                    stream,
                    content,
                })
                .collect();
            let pieces = i64::try_from(stored.len()).unwrap_or(i64::MAX);
            tokio::select! {
                kept = self.store_output(&claimed.lease, stored) => {
                    // What was not stored leaves no hole in the numbers.
                    index += if kept { pieces } else { 0 };
                }
                () = passed(deadline.clone()) => return,
            }
        }
    }

    /// Stores pieces of output, as often as it takes; `false` if the lease is lost.
    async fn store_output(&self, lease: &Lease, chunks: Vec<Chunk>) -> bool {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.0.store.append_output(lease.clone(), chunks.clone()).await {
                Ok(Ok(())) => return true,
                // Its keeper stops the work.
                Ok(Err(_)) => {
                    self.0.counters.stale();
                    return false;
                }
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    tracing::warn!(%error, "cannot store output, trying again");
                    tokio::time::sleep(pause).await;
                    pause = next_pause(pause);
                }
            }
        }
    }

    /// Records how the attempt ended, as often as it takes; `false` if the lease was lost.
    async fn settle(&self, lease: &Lease, ending: Ending) -> bool {
        let Inner { store, counters, .. } = &*self.0;
        let settlement = Settlement { lease: lease.clone(), ending };
        let mut pause = Duration::from_millis(50);
        loop {
            match store.settle(settlement.clone()).await {
                Ok(Ok(())) => return true,
                Ok(Err(_)) => {
                    counters.stale();
                    tracing::warn!("the lease was lost, the result of the attempt is discarded");
                    return false;
                }
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    tracing::warn!(%error, "cannot settle the attempt, trying again");
                    tokio::time::sleep(pause).await;
                    pause = next_pause(pause);
                }
            }
        }
    }
}

/// Asks for the stop when the attempt has run too long or its lease is about to end. Never ends.
async fn watchdog(stopper: &Stopper, spec: &Spec, deadline: watch::Receiver<Instant>) {
    let timeout = async {
        tokio::time::sleep(spec.run_timeout).await;
        stopper.stop(StopReason::TimedOut);
        std::future::pending::<()>().await;
    };
    let lease = async {
        passed(deadline).await;
        stopper.stop(StopReason::LeaseLost);
        std::future::pending::<()>().await;
    };
    let ((), ()) = tokio::join!(timeout, lease);
}

/// Ends when a stop was asked for and the grace after it is over.
async fn grace_over(stop: &mut Stop, grace: Duration) {
    stop.requested().await;
    let asked_at = Instant::now();
    loop {
        let grace = match stop.requested().await {
            StopReason::LeaseLost => Duration::ZERO,
            StopReason::ShuttingDown => grace.min(SHUTDOWN_GRACE),
            StopReason::Cancelled | StopReason::TimedOut if !stop.hurry() => grace,
            // Begun before the shutdown: what is left of it, and no more than the shutdown gives.
            StopReason::Cancelled | StopReason::TimedOut => {
                grace.min(asked_at.elapsed() + SHUTDOWN_GRACE)
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(asked_at + grace) => return,
            () = stop.more() => {}
        }
    }
}

/// What the outcome means for the execution.
fn ending(claimed: &Claimed, outcome: Outcome, reason: Option<StopReason>) -> Ending {
    match (outcome, reason) {
        (Outcome::Panicked, _) => {
            let failure = Failure::new(ErrorCode::Crashed, true, "the attempt panicked");
            Ending::Crashed { failure }
        }
        (Outcome::NotBegun, _) => Ending::Released,
        (Outcome::Returned(Ok(success)), _) => succeeded(success),
        // Fenced if the store has given the execution to another; if it only could not be reached
        // for too long, this says that nobody works on it any more.
        (_, Some(StopReason::LeaseLost)) => {
            let message = "the lease could not be renewed, the work was stopped";
            Ending::Crashed { failure: Failure::new(ErrorCode::Crashed, true, message) }
        }
        (_, Some(StopReason::ShuttingDown)) => Ending::Released,
        (Outcome::Returned(Err(failed)), Some(StopReason::Cancelled)) => cancelled(failed),
        (Outcome::Returned(Err(failed)), Some(StopReason::TimedOut) | None) => {
            failed_or_retry(claimed, failed)
        }
        (Outcome::Dropped, Some(StopReason::Cancelled)) => {
            let message = "cancelled; the work was dropped";
            let failure = Failure::new(ErrorCode::Cancelled, false, message);
            Ending::Cancelled { failure, output: None, usage: None }
        }
        (Outcome::Dropped, Some(StopReason::TimedOut) | None) => {
            let seconds = claimed.spec.run_timeout.as_secs_f64();
            let message = format!("timed out after {seconds}s");
            let failure = Failure::new(ErrorCode::Timeout, true, message);
            failed_or_retry(claimed, AttemptFailure::new(FailureKind::Transient, failure))
        }
    }
}

fn succeeded(success: Success) -> Ending {
    let Success { output, usage } = success;
    match json_text(&output) {
        Ok(output) => Ending::Succeeded { output, usage },
        Err(failure) => Ending::Failed { failure, output: None, usage },
    }
}

fn cancelled(failed: AttemptFailure) -> Ending {
    let AttemptFailure { failure, output, usage, .. } = failed;
    let message = failure.message;
    let failure = Failure { code: ErrorCode::Cancelled, retryable: false, message, ..failure };
    Ending::Cancelled { failure, output: kept(output.as_ref()), usage }
}

fn failed_or_retry(claimed: &Claimed, failed: AttemptFailure) -> Ending {
    let AttemptFailure { kind, failure, output, usage } = failed;
    if failure.code == ErrorCode::Crashed {
        return Ending::Crashed { failure };
    }
    if kind == FailureKind::Cancelled {
        return Ending::Cancelled { failure, output: kept(output.as_ref()), usage };
    }
    let jitter = rand::random::<f64>();
    match claimed.spec.retry.next_delay(claimed.charged, claimed.attempt, kind, &failure, jitter) {
        Some(delay) => {
            let charged = !matches!(kind, FailureKind::RateLimited { .. });
            Ending::Retry { failure, delay, charged, usage }
        }
        None => Ending::Failed { failure, output: kept(output.as_ref()), usage },
    }
}

/// What there is of a result, unless it is too large.
fn kept(output: Option<&Value>) -> Option<Arc<str>> {
    output.and_then(|output| json_text(output).ok())
}

fn json_text(output: &Value) -> Result<Arc<str>, Failure> {
    let text = output.to_string();
    if text.len() > MAX_OUTPUT_BYTES {
        let bytes = text.len();
        let message = format!("the result has {bytes} bytes, at most {MAX_OUTPUT_BYTES} are kept");
        return Err(Failure::new(ErrorCode::OutputTooLarge, false, message));
    }
    Ok(text.into())
}

const fn counted(ending: &Ending) -> Counted {
    match ending {
        Ending::Succeeded { .. } => Counted::Succeeded,
        Ending::Failed { .. } => Counted::Failed,
        Ending::Retry { .. } => Counted::Retried,
        Ending::Cancelled { .. } => Counted::Cancelled,
        Ending::Crashed { .. } => Counted::Crashed,
        Ending::Released => Counted::Released,
    }
}

/// Appends to the newest piece if it continues it.
fn merge(pending: &mut Vec<OutputChunk>, next: OutputChunk) {
    use crate::domain::ChunkContent::{Data, Text};
    let Some(last) = pending.last_mut().filter(|last| last.stream == next.stream) else {
        return pending.push(next);
    };
    match (&mut last.content, next.content) {
        (Text(text), Text(more)) => text.push_str(&more),
        (Data(data), Data(more)) => data.extend(more),
        (Text(_) | Data(_), content) => pending.push(OutputChunk { stream: next.stream, content }),
    }
}

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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use opentelemetry::trace::SpanContext;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::active::ActiveAttempt;
use super::ending::{Found, Outcome, Retries, counted, ending, quota, signal};
use super::lease::passed;
use super::outflow::AttemptKeeper;
use super::spans::{CallSpan, QueueWait};
use super::{ConfiguredProvider, Engine, spans};
use crate::domain::{
    Ending, ErrorCode, ExecutionId, Failure, FailureKind, Lease, Observation, Signal, Spec,
};
use crate::metrics::Example;
use crate::providers::{AttemptFailure, Call, Output, Stop, StopReason, Stopper, stop_pair};
use crate::store::{Claimed, Payload, ProviderNews, Settlement};
use crate::telemetry;

/// Pieces of output that may wait for the store before the provider is slowed.
const OUTPUT_QUEUE: usize = 64;
/// How long an attempt may clean up after itself when the whole server is stopping.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

impl Engine {
    /// Registers a claimed execution and spawns its attempt.
    pub(super) fn start_attempt(
        &self,
        claimed: Claimed,
        sent: Instant,
        claim: Option<&SpanContext>,
    ) {
        let (stopper, stop) = stop_pair();
        let deadline = watch::channel(sent + self.0.settings.work_deadline()).0;
        let provider = claimed.spec.provider.clone();
        let attempt = ActiveAttempt { lease: claimed.lease.clone(), provider, stopper, deadline };
        self.0.active.insert(attempt.clone());
        if claimed.cancel_requested {
            attempt.stopper.stop(StopReason::Cancelled);
        }
        let example = self.example(&claimed.spec);
        self.0.instruments().started(&claimed.spec.provider, claimed.waited, example);
        let (span, wait) = spans::attempt(&claimed, self.0.worker, claim);
        if claimed.interrupted {
            let (id, provider) = (claimed.lease.id, &claimed.spec.provider);
            tracing::info!(
                parent: &span, execution.id = %id, %provider,
                "Resuming interrupted execution: {id} (provider: {provider})"
            );
        }
        let engine = self.clone();
        let task = async move {
            let work = async {
                engine.attempt(claimed, &attempt, stop).await;
                engine.0.active.remove(&attempt.lease);
            };
            work.instrument(span).await;
            if let Some(wait) = wait {
                engine.record_wait(wait).await;
            }
        };
        self.0.tasks.spawn(task);
    }

    /// Records how long an attempt was waited for, when there is nothing more urgent to do.
    async fn record_wait(&self, wait: QueueWait) {
        let mut put_back = None;
        if wait.is_of_a_retry() {
            // Where it cannot be read, the wait seems as long as the execution has been due.
            let found = self.0.store.execution(wait.execution, Payload::Without).await;
            put_back = found.ok().flatten().and_then(|execution| wait.put_back(&execution));
        }
        wait.record(put_back);
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
        let budget = configured.retry.budget;
        if budget.is_some() && claimed.attempt == 1 {
            self.0.lately.first_attempt(&spec.provider, self.now());
        }
        let outcome = if started < *attempt.deadline.borrow() {
            self.run(&claimed, configured, attempt, stop.clone()).await
        } else {
            Outcome::NotBegun
        };
        let ran = started.elapsed();
        let patient = spec.run_timeout >= configured.run_timeout;
        let found = signal(&outcome, stop.reason(), patient);
        let seen = found.as_ref().filter(|_| claimed.adaptive).and_then(|found| {
            let (name, quota) = (&spec.provider, quota(&outcome));
            self.0.pulse.beat(name, found, quota, claimed.at, ran)
        });
        let room = || {
            let fits = |budget| self.0.lately.retry_fits(&spec.provider, budget, self.now());
            budget.is_none_or(fits)
        };
        let retries = Retries { rules: &configured.retry, room: &room };
        let ending = ending(&claimed, outcome, stop.reason(), &retries);
        let how = counted(&ending);
        self.measure(spec, found.as_ref(), &ending, stop.reason());
        self.0.active.work_over(&attempt.lease);
        let news = self.worth_telling(&claimed, configured, found, seen);
        let error = spans::error_of(&ending);
        let settling = spans::settle();
        let settled = self.settle(&attempt.lease, ending, news).instrument(settling.clone()).await;
        spans::ended(&Span::current(), &settling, settled.then_some((how, error)));
        drop(settling);
        if settled {
            let (provider, example) = (&spec.provider, self.example(spec));
            self.0.lately.ended(provider, how, self.now());
            self.0.instruments().attempt_ended(provider, how, ran, example);
            tracing::debug!(outcome = ?how, "attempt ended");
        } else {
            tracing::debug!(refused = ?how, "attempt ended, but its lease was lost");
        }
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
        if let Some(lack) = self.0.resources.refuses(&spec.provider) {
            return Outcome::Returned(Err(configured.provider.refuse(input, lack)));
        }
        let (output, chunks) = Output::channel(OUTPUT_QUEUE);
        let attached = Arc::new(AtomicBool::new(claimed.handle.is_some()));
        let call_span = CallSpan::new(configured, &input);
        let call = Call {
            execution: spec.id,
            attempt: claimed.attempt,
            input,
            run_timeout: spec.run_timeout,
            stop: stop.clone(),
            lease_deadline: attempt.deadline.subscribe(),
            output,
            key: call_key(spec.id, claimed.charged),
            handle: claimed.handle.clone(),
            keeper: Arc::new(AttemptKeeper {
                engine: self.clone(),
                lease: claimed.lease.clone(),
                deadline: attempt.deadline.subscribe(),
                attached: Arc::clone(&attached),
            }),
            // The call's own span where there is one, else what the client sent.
            trace: telemetry::trace_of(&call_span.span).or_else(|| spec.trace.clone()),
        };
        let work = AssertUnwindSafe(configured.provider.execute(call)).catch_unwind();
        let work = work.instrument(call_span.span.clone());
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
                () = stopped => Outcome::Dropped { attached: attached.load(Ordering::Relaxed) },
            }
        };
        let deadline = attempt.deadline.subscribe();
        // The provider's end of the output is dropped with its call, which ends the pump.
        let (outcome, ()) = tokio::join!(work, self.pump_output(claimed, chunks, deadline));
        call_span.ended(&outcome, stop.reason());
        outcome
    }

    /// Counts what an attempt met with and consumed.
    fn measure(
        &self,
        spec: &Spec,
        found: Option<&Found>,
        ending: &Ending,
        stopped: Option<StopReason>,
    ) {
        let instruments = self.0.instruments().of(&spec.provider);
        if matches!(found, Some(Found::RateLimited { .. })) {
            instruments.rate_limited();
        }
        if stopped == Some(StopReason::LeaseLost) {
            instruments.lease_lost();
        }
        if let Some(usage) = ending.usage() {
            instruments
                .consumed(usage.input_tokens.unsigned_abs(), usage.output_tokens.unsigned_abs());
        }
    }

    /// The trace that shows what an execution went through, if it is kept.
    fn example(&self, spec: &Spec) -> Option<Example> {
        spec.trace.as_ref().and_then(|it| Example::of(it, self.now()))
    }

    /// What its provider is to hear of an attempt.
    fn worth_telling(
        &self,
        claimed: &Claimed,
        configured: &ConfiguredProvider,
        found: Option<Found>,
        observed: Option<Observation>,
    ) -> Option<ProviderNews> {
        let signal = self.signal(claimed, configured, found);
        let reserved = claimed.reserved.clone();
        let provider = claimed.spec.provider.clone();
        let worth = signal.is_some() || reserved.is_some() || observed.is_some();
        let lane = claimed.lane.clone();
        worth.then_some(ProviderNews { provider, lane, signal, observed, reserved })
    }

    /// What the gate is to hear of an attempt. That it does its work is of interest only
    /// from one that was let through to see; and failures count only while they are at least half of
    /// what is seen here, so that a busy provider's gate does not close over a few.
    fn signal(
        &self,
        claimed: &Claimed,
        configured: &ConfiguredProvider,
        found: Option<Found>,
    ) -> Option<Signal> {
        let provider = &claimed.spec.provider;
        let Some(found) = found else {
            return claimed.probe.then_some(Signal::Unseen);
        };
        let answers = found == Found::Answered;
        let troubled = self.0.lately.troubled(provider, !answers, self.now());
        Some(match found {
            Found::Answered if claimed.probe => Signal::Answered,
            Found::RateLimited { retry_after, message } => {
                Signal::RateLimited { retry_after, message }
            }
            Found::Failed { message } if claimed.probe || troubled => {
                Signal::Failed { message, breaker: configured.breaker }
            }
            Found::Answered | Found::Failed { .. } => return None,
        })
    }

    /// Records how the attempt ended, as often as it takes; `false` if the lease was lost.
    async fn settle(&self, lease: &Lease, ending: Ending, news: Option<ProviderNews>) -> bool {
        let settlement = Settlement { lease: lease.clone(), ending, news };
        let settled =
            self.until_answered("settle the attempt", || self.0.store.settle(settlement.clone()));
        settled.await
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

/// What a provider may be told to do the same work only once: equal for an attempt and the one that
/// follows its crash, another for one that follows its failure.
fn call_key(id: ExecutionId, charged: u32) -> Uuid {
    Uuid::new_v5(&id.into(), charged.to_string().as_bytes())
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

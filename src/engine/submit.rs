//! Taking submissions: what their provider accepts is stored, all of a batch or none.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use super::view::{plain, seen_by};
use super::{Draft, Engine, Submission, SubmitError, spans};
use crate::domain::{Change, Event, Execution, ExecutionId, GateState, Spec, TraceContext};
use crate::providers::Violation;
use crate::store::{NewExecution, Payload, StoreError, SubmitRefused, Submitted};
use crate::telemetry;

/// When to try again where as much is pending as may be: when some of it has ended, as far as can be
/// told from how much ended within the last minute.
fn until_room(ended_per_minute: f64) -> Duration {
    const SOONEST: Duration = Duration::from_secs(1);
    const LATEST: Duration = Duration::from_secs(30);
    const UNKNOWN: Duration = Duration::from_secs(5);
    if ended_per_minute < 1.0 {
        return UNKNOWN;
    }
    Duration::from_secs_f64(60.0 / ended_per_minute).clamp(SOONEST, LATEST)
}

impl Engine {
    /// Stores new executions, all or none. Answers in order, after they are durable.
    pub async fn submit(&self, drafts: Vec<Draft>) -> Result<Vec<Submission>, SubmitError> {
        self.submit_again(drafts, &[]).await
    }

    /// Stores new executions that run `earlier` ones again.
    pub(super) async fn submit_again(
        &self,
        mut drafts: Vec<Draft>,
        earlier: &[TraceContext],
    ) -> Result<Vec<Submission>, SubmitError> {
        let span = spans::submit(&drafts, earlier);
        if let Some(own) = telemetry::trace_of(&span) {
            drafts.iter_mut().for_each(|draft| draft.trace = Some(own.clone()));
        }
        let result = self.store_all(drafts).instrument(span.clone()).await;
        spans::submitted(&span, &result);
        result
    }

    async fn store_all(&self, drafts: Vec<Draft>) -> Result<Vec<Submission>, SubmitError> {
        if !self.is_accepting() {
            return Err(SubmitError::ShuttingDown);
        }
        let mut executions = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            executions.push(self.accept(index, draft)?);
        }
        let specs: Vec<_> = executions.iter().map(|new| Arc::clone(&new.spec)).collect();
        let answers = self.0.store.submit(executions).await?;
        let answers = answers.map_err(|refused| self.refusal(&specs, refused))?;
        let mut submissions = Vec::with_capacity(specs.len());
        for (spec, answer) in specs.into_iter().zip(answers) {
            submissions.push(self.submission(spec, answer).await?);
        }
        Ok(submissions)
    }

    fn accept(&self, index: usize, draft: Draft) -> Result<NewExecution, SubmitError> {
        let Some(configured) = self.0.providers.get(&draft.provider) else {
            let known = self.0.providers.keys().cloned().collect();
            return Err(SubmitError::UnknownProvider { index, name: draft.provider, known });
        };
        if let Some(reason) = configured.provider.unavailable() {
            let name = draft.provider;
            return Err(SubmitError::ProviderUnavailable { index, name, reason });
        }
        let demand = serde_json::from_str(&draft.input.json)
            .map_err(|error| vec![Violation::new("", error.to_string())])
            .and_then(|input| {
                configured.provider.check(&input)?;
                Ok(configured.provider.demand(&input, draft.input.json.len()))
            })
            .map_err(|violations| SubmitError::InvalidInput { index, violations })?;
        let spec = Spec {
            id: ExecutionId::new(),
            provider: draft.provider,
            input: draft.input,
            demand,
            request_id: draft.request_id,
            priority: draft.priority,
            labels: draft.labels,
            schedule_at: draft.schedule_at,
            queue_timeout: draft.queue_timeout,
            run_timeout: draft.run_timeout.unwrap_or(configured.run_timeout),
            retry: draft.retry.over(&configured.retry.defaults),
            on_lost: draft.on_lost,
            retry_of: draft.retry_of,
            trace: draft.trace,
            created_at: self.now(),
        };
        Ok(NewExecution {
            spec: Arc::new(spec),
            request_hash: draft.request_hash,
            head_start: self.0.settings.priority_head_start,
        })
    }

    fn refusal(&self, specs: &[Arc<Spec>], refused: SubmitRefused) -> SubmitError {
        match refused {
            SubmitRefused::RequestIdConflict { index, first } => {
                SubmitError::RequestIdConflict { index, first }
            }
            SubmitRefused::TooManyPending { index, max, pending } => {
                let name = specs[index].provider.clone();
                let (succeeded, failed) = self.0.lately.rates(&name, self.now());
                // Where nothing is pending, what is submitted at once is too much at any time.
                let retry_after = (pending > 0).then(|| until_room(succeeded + failed));
                SubmitError::TooManyPending { index, name, max, pending, retry_after }
            }
        }
    }

    async fn submission(
        &self,
        spec: Arc<Spec>,
        answer: Submitted,
    ) -> Result<Submission, SubmitError> {
        match answer {
            Submitted::New { wait, revision, at } => {
                if let Some(timeout) = spec.queue_timeout {
                    let due = spec.schedule_at.unwrap_or(spec.created_at).max(spec.created_at);
                    self.0.alarm.ring_at(due + timeout);
                }
                let event = Event {
                    revision,
                    at,
                    provider: spec.provider.clone(),
                    execution: Some(spec.id),
                    change: Change::Submitted { wait },
                };
                let mut execution = Execution::unlogged(spec);
                execution.apply(&event);
                let gate = seen_by(&execution, self.gate_before(&execution.spec, revision));
                let view = super::View { gate, ..plain(execution) };
                Ok(Submission { view, replayed: false })
            }
            Submitted::Replayed(id) => {
                let view = self.get(id, Payload::With).await?;
                // Gone between the answer and the read: only a closing store does that.
                let view = view.ok_or(StoreError::Closed)?;
                Ok(Submission { view, replayed: true })
            }
        }
    }

    /// The gate that a fresh submission found at its provider, as far as this worker has heard.
    fn gate_before(&self, spec: &Spec, revision: i64) -> GateState {
        let gate = self.0.hub.gate(&spec.provider);
        if gate.revision < revision { gate.state } else { GateState::Open }
    }
}

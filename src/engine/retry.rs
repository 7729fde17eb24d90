//! Running finished executions again, as new ones that name the old.

use super::{BulkRetried, Draft, Engine, Filter, RetryError, Submission, SubmitError};
use crate::domain::{Execution, ExecutionId, OWN_REQUEST_ID, ProviderName, State, TraceContext};
use crate::store::{ListQuery, Payload};

/// The most executions one call runs again.
const AT_ONCE: u32 = 1_000;
/// How many of them are in memory at once, and how much of them is stored at once: no lease is to
/// wait for a thousand large inputs.
const READ_AT_ONCE: usize = 16;
const SUBMIT_BYTES: usize = 4 * 1_024 * 1_024;

impl Engine {
    /// Runs one failed or cancelled execution again, as part of the caller's trace if there is one and
    /// of the first one's else.
    pub async fn retry(
        &self,
        id: ExecutionId,
        request_id: Option<String>,
        trace: Option<TraceContext>,
    ) -> Result<Submission, RetryError> {
        let execution = self.0.store.execution(id, Payload::With).await;
        let execution = execution.map_err(SubmitError::from)?.ok_or(RetryError::NotFound(id))?;
        match execution.state {
            State::Failed | State::Cancelled => {}
            state @ (State::Pending | State::Running | State::Succeeded) => {
                return Err(RetryError::NotRetryable { id, state });
            }
        }
        let mut draft = again(&execution, request_id);
        let earlier = draft.trace.take();
        draft.trace = trace.or_else(|| earlier.clone());
        let mut submissions = self.submit_again(vec![draft], earlier.as_slice()).await?;
        submissions.pop().ok_or_else(|| SubmitError::ShuttingDown.into())
    }

    /// Runs every matching execution again that failed or was cancelled and was not run again yet.
    pub async fn retry_matching(
        &self,
        filter: &Filter,
        trace: Option<&TraceContext>,
        validate_only: bool,
    ) -> Result<BulkRetried, SubmitError> {
        let ended = [State::Failed, State::Cancelled];
        let states: Vec<_> = ended
            .into_iter()
            .filter(|state| filter.states.is_empty() || filter.states.contains(state))
            .collect();
        if states.is_empty() {
            return Ok(BulkRetried::default());
        }
        // Of providers that take work here; the others' stay as they are.
        let takes_work = |name: &&ProviderName| {
            self.0.providers.get(*name).is_some_and(|known| known.provider.unavailable().is_none())
        };
        let providers: Vec<_> = match filter.providers.as_slice() {
            [] => self.0.providers.keys().filter(takes_work).cloned().collect(),
            named => named.iter().filter(takes_work).cloned().collect(),
        };
        if providers.is_empty() {
            return Ok(BulkRetried::default());
        }
        let query = ListQuery { states, providers, not_retried: true, ..filter.query(AT_ONCE) };
        let matched = self.count(query.clone()).await?;
        let more = matched > u64::from(AT_ONCE);
        if validate_only {
            return Ok(BulkRetried { matched, created: Vec::new(), more });
        }
        let mut created = Vec::new();
        for ids in self.0.store.list(&query).await?.chunks(READ_AT_ONCE) {
            created.extend(self.retry_once(ids, trace).await?);
        }
        Ok(BulkRetried { matched, created, more })
    }

    /// Runs each of these again unless that was done before, also by a call at the same moment.
    async fn retry_once(
        &self,
        ids: &[ExecutionId],
        trace: Option<&TraceContext>,
    ) -> Result<Vec<ExecutionId>, SubmitError> {
        let mut created = Vec::with_capacity(ids.len());
        let mut drafts = Vec::with_capacity(ids.len());
        let mut bytes = 0;
        for old in self.0.store.executions(ids, Payload::With).await? {
            bytes += old.spec.input.json.len();
            drafts.push(again(&old, Some(format!("{OWN_REQUEST_ID}retry of {}", old.spec.id))));
            if bytes > SUBMIT_BYTES {
                created.extend(self.submit_earlier(std::mem::take(&mut drafts), trace).await?);
                bytes = 0;
            }
        }
        created.extend(self.submit_earlier(drafts, trace).await?);
        let new = created.into_iter().filter(|submission| !submission.replayed);
        Ok(new.map(|submission| submission.view.execution.spec.id).collect())
    }

    /// Stores drafts that still have the traces of what they run again; they keep those only if the call has none.
    async fn submit_earlier(
        &self,
        mut drafts: Vec<Draft>,
        trace: Option<&TraceContext>,
    ) -> Result<Vec<Submission>, SubmitError> {
        let earlier: Vec<_> = drafts.iter().filter_map(|draft| draft.trace.clone()).collect();
        if let Some(trace) = trace {
            drafts.iter_mut().for_each(|draft| draft.trace = Some(trace.clone()));
        }
        self.submit_again(drafts, &earlier).await
    }

    /// How many executions match in all.
    async fn count(&self, mut query: ListQuery) -> Result<u64, SubmitError> {
        let mut matched = 0;
        loop {
            let page = self.0.store.list(&query).await?;
            matched += u64::try_from(page.len()).unwrap_or(u64::MAX);
            match page.last() {
                Some(last) => query.before = Some(*last),
                None => return Ok(matched),
            }
        }
    }
}

fn again(old: &Execution, request_id: Option<String>) -> Draft {
    let spec = &*old.spec;
    Draft {
        provider: spec.provider.clone(),
        input: spec.input.clone(),
        request_id,
        request_hash: format!("retry of {}", spec.id),
        priority: spec.priority,
        labels: spec.labels.clone(),
        schedule_at: None,
        queue_timeout: spec.queue_timeout,
        run_timeout: Some(spec.run_timeout),
        retry: spec.retry.clone().into(),
        on_lost: spec.on_lost,
        retry_of: Some(spec.id),
        trace: spec.trace.clone(),
    }
}

//! Cancelling: one execution by its id, or all that match.

use super::{BulkCancelled, Engine, Filter, View};
use crate::domain::{ExecutionId, State};
use crate::store::{CancelAnswer, ListQuery, Payload, Result};

/// How many executions of a bulk cancellation share a transaction.
const AT_ONCE: u32 = 500;

impl Engine {
    /// Cancels an execution, or asks it to stop if it runs; `None` if there is none.
    pub async fn cancel(&self, id: ExecutionId, reason: String) -> Result<Option<View>> {
        self.0.store.cancel(vec![id], reason).await?;
        self.get(id, Payload::With).await
    }

    /// Cancels every matching execution that is not over.
    pub async fn cancel_matching(
        &self,
        filter: &Filter,
        reason: String,
        validate_only: bool,
    ) -> Result<BulkCancelled> {
        let live = [State::Pending, State::Running];
        let states: Vec<_> = live
            .into_iter()
            .filter(|state| filter.states.is_empty() || filter.states.contains(state))
            .collect();
        let mut done = BulkCancelled::default();
        if states.is_empty() {
            return Ok(done);
        }
        let mut query = ListQuery { states, ..filter.query(AT_ONCE) };
        loop {
            let ids = self.0.store.list(&query).await?;
            let Some(last) = ids.last() else { return Ok(done) };
            query.before = Some(*last);
            if validate_only {
                done.matched += u64::try_from(ids.len()).unwrap_or(u64::MAX);
                continue;
            }
            for (_, answer) in self.0.store.cancel(ids, reason.clone()).await? {
                done.matched += 1;
                match answer {
                    CancelAnswer::Cancelled => done.cancelled += 1,
                    CancelAnswer::Requested => done.requested += 1,
                    CancelAnswer::Unchanged => {}
                }
            }
        }
    }
}

impl Filter {
    /// The first page of what the filter means.
    pub(super) fn query(&self, limit: u32) -> ListQuery {
        ListQuery {
            providers: self.providers.clone(),
            states: self.states.clone(),
            labels: self.labels.clone(),
            created_after: self.created_after,
            created_before: self.created_before,
            not_retried: false,
            before: None,
            limit,
        }
    }
}

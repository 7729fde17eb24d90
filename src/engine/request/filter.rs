//! Many executions at once: which are meant, and what was done to them.

use std::collections::BTreeMap;

use crate::domain::{Execution, ProviderName, State, Timestamp};

/// Which executions are meant. Empty means all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Any of these.
    pub providers: Vec<ProviderName>,
    /// Any of these.
    pub states: Vec<State>,
    /// Every one of these.
    pub labels: BTreeMap<String, String>,
    /// Not before this.
    pub created_after: Option<Timestamp>,
    /// Before this.
    pub created_before: Option<Timestamp>,
}

impl Filter {
    /// Whether the filter names nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the execution, as it stands, is meant.
    pub fn matches(&self, execution: &Execution) -> bool {
        let spec = &execution.spec;
        (self.providers.is_empty() || self.providers.contains(&spec.provider))
            && (self.states.is_empty() || self.states.contains(&execution.state))
            && self.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
            && self.created_after.is_none_or(|after| spec.created_at >= after)
            && self.created_before.is_none_or(|before| spec.created_at < before)
    }
}

/// What became of a bulk cancellation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkCancelled {
    /// Executions that matched and were not over.
    pub matched: u64,
    /// Of these, pending ones that are cancelled now.
    pub cancelled: u64,
    /// Of these, running ones that were asked to stop.
    pub requested: u64,
}

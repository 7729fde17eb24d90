//! What is checked, and what was found to be wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::domain::{Event, ExecutionId, ProviderName};

/// One of the promises that the log must show to have been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Revisions are dense (P5).
    Revisions,
    /// A claim leaves no more running than the limit in force (P1).
    Limits,
    /// What begins within any minute is within the budgets in force.
    Rates,
    /// A provider that is paused, or whose gate is closed, admits nothing.
    Gate,
    /// Only what is ready is claimed.
    Readiness,
    /// Tokens grow; an attempt is ended under the token and by the worker it was claimed with (P4).
    Fencing,
    /// An execution is submitted once, goes from state to state as it may, and ends once.
    Transitions,
    /// What was cancelled is not claimed again and ends (P6).
    Cancel,
    /// An attempt after one that was interrupted goes on with what the provider knows of its work.
    Handles,
    /// Attempts, charged attempts and crashes are counted as the attempts ended (P8).
    Counters,
    /// Output comes from the attempt that runs, and its pieces are numbered without gaps.
    Output,
    /// The rows that claims are made on say what the log says.
    Records,
}

impl Rule {
    /// The rule in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revisions => "revisions are dense",
            Self::Limits => "limits are kept",
            Self::Rates => "budgets of the minute are kept",
            Self::Gate => "closed gates admit nothing",
            Self::Readiness => "only the ready is claimed",
            Self::Fencing => "tokens fence",
            Self::Transitions => "states follow each other as they may",
            Self::Cancel => "the cancelled ends",
            Self::Handles => "work known to its provider is taken up again",
            Self::Counters => "attempts and crashes are counted",
            Self::Output => "output is in order",
            Self::Records => "rows say what the log says",
        }
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// The entry that shows it, or the head of the log.
    pub revision: i64,
    /// Of which execution, if of one.
    #[serde(serialize_with = "as_text")]
    pub execution: Option<ExecutionId>,
    /// Of which provider, if of one.
    #[serde(serialize_with = "as_text")]
    pub provider: Option<ProviderName>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at revision {}, ", self.revision)?;
        if let Some(id) = self.execution {
            write!(f, "execution {id}: ")?;
        } else if let Some(provider) = &self.provider {
            write!(f, "provider {provider}: ")?;
        }
        f.write_str(&self.message)
    }
}

fn as_text<T: fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(T::to_string).serialize(serializer)
}

/// The checks of one entry: counted, and the first that failed kept.
pub(super) struct Findings<'c> {
    checks: &'c mut BTreeMap<Rule, u64>,
    first: Option<(Rule, String)>,
}

impl<'c> Findings<'c> {
    pub(super) fn new(checks: &'c mut BTreeMap<Rule, u64>) -> Self {
        Self { checks, first: None }
    }

    /// Counts a check, and keeps its message if it is the first that fails.
    pub(super) fn expect(&mut self, rule: Rule, holds: bool, message: impl FnOnce() -> String) {
        *self.checks.entry(rule).or_default() += 1;
        if !holds && self.first.is_none() {
            self.first = Some((rule, message()));
        }
    }

    /// What was wrong with this entry.
    pub(super) fn conclude(self, event: &Event) -> Result<(), Violation> {
        let Some((rule, message)) = self.first else { return Ok(()) };
        let (revision, execution) = (event.revision, event.execution);
        let provider = Some(event.provider.clone());
        Err(Violation { rule, revision, execution, provider, message })
    }

    /// What was wrong where the log ends.
    pub(super) fn conclude_at_end(
        self,
        revision: i64,
        execution: Option<ExecutionId>,
    ) -> Option<Violation> {
        let (rule, message) = self.first?;
        Some(Violation { rule, revision, execution, provider: None, message })
    }
}

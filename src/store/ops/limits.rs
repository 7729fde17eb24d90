//! What a provider admits: declared limits, overrides, pause and resume. All of them take the
//! lock that claims take.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{
    Change, Health, LimitUpdate, Limits, MOST_MODELS, Pause, ProviderName, Timestamp, Told,
};
use crate::store::batch::{Batch, Needs};
use crate::store::{BackendError, ProviderRow};

/// Records the configured limits.
#[derive(Debug)]
pub(in crate::store) struct Declare {
    pub(in crate::store) limits: Vec<(ProviderName, Limits)>,
}

#[async_trait]
impl Operation for Declare {
    type Answer = Vec<(ProviderName, Limits)>;

    const PHASE: Phase = Phase::Limits;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.declared.extend(self.limits.iter().cloned());
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let mut changed = Vec::new();
        for (name, declared) in &self.limits {
            let Some(mut record) = batch.provider(name).cloned() else { continue };
            // One that was never logged was added just now.
            if record.declared == *declared && record.limits_revision > 0 {
                continue;
            }
            record.declared = declared.clone();
            record.limits_were_changed(false);
            let change = record.limits_change(Told::by_itself("declared by the configuration"));
            batch.put_provider(record, change);
            changed.push((name.clone(), declared.clone()));
        }
        Ok(changed)
    }
}

/// What becomes of one provider's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// Which provider.
    pub provider: ProviderName,
    /// What becomes of its overrides.
    pub update: LimitUpdate,
    /// When what was in force before returns; what is set holds for good where absent.
    pub expires_at: Option<Timestamp>,
}

/// What the caller believes about the limits it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedRevision {
    /// Nothing.
    Any,
    /// That this is the revision of the newest change to any of them, those that are kept as they
    /// are included.
    Newest(i64),
}

/// Why limits were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetLimitsError {
    /// The store does not know the provider.
    #[error("unknown provider {0}")]
    UnknownProvider(ProviderName),
    /// It would have limits for more models than a provider may.
    #[error("too many models of provider {0}")]
    TooManyModels(ProviderName),
    /// They were changed meanwhile.
    #[error("limits changed at revision {current}")]
    Changed {
        /// The revision of the newest change.
        current: i64,
    },
}

/// Overrides or resets limits, all or none.
#[derive(Debug)]
pub(in crate::store) struct SetLimits {
    pub(in crate::store) changes: Vec<LimitChange>,
    pub(in crate::store) told: Told,
    pub(in crate::store) expected: ExpectedRevision,
    pub(in crate::store) validate_only: bool,
}

#[async_trait]
impl Operation for SetLimits {
    type Answer = Result<Vec<ProviderRow>, SetLimitsError>;

    const PHASE: Phase = Phase::Limits;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.providers.extend(self.changes.iter().map(|change| change.provider.clone()));
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let mut newest = 0;
        for change in &self.changes {
            match batch.provider(&change.provider) {
                Some(record) => newest = newest.max(record.limits_revision),
                None => return Ok(Err(SetLimitsError::UnknownProvider(change.provider.clone()))),
            }
        }
        if let ExpectedRevision::Newest(expected) = self.expected
            && (newest != expected || self.changed_in_this_batch(batch))
        {
            return Ok(Err(SetLimitsError::Changed { current: newest }));
        }
        let mut rows = Vec::with_capacity(self.changes.len());
        let mut changed = Vec::new();
        for change in &self.changes {
            let Some(mut record) = batch.provider(&change.provider).cloned() else { continue };
            let before = record.clone();
            record.set_limits(&change.update, change.expires_at);
            let models = record.effective().models.len();
            if models > MOST_MODELS && models > before.effective().models.len() {
                return Ok(Err(SetLimitsError::TooManyModels(change.provider.clone())));
            }
            if !self.validate_only && record != before {
                changed.push(record.clone());
            }
            rows.push(ProviderRow::idle(record));
        }
        for record in changed {
            let entry = record.limits_change(self.told.clone());
            batch.put_provider(record, entry);
        }
        Ok(Ok(rows))
    }
}

impl SetLimits {
    /// Whether another operation of the same batch, whose revision is not known yet, came first.
    fn changed_in_this_batch(&self, batch: &Batch<'_>) -> bool {
        let names: BTreeSet<_> = self.changes.iter().map(|change| &change.provider).collect();
        names.into_iter().any(|name| batch.limits_changed(name))
    }
}

/// A change of a provider's gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateChange {
    /// Admit nothing from now on.
    Pause {
        /// Why.
        reason: String,
        /// When to resume by itself.
        until: Option<Timestamp>,
    },
    /// Admit again.
    Resume {
        /// Why.
        reason: String,
    },
}

/// Pauses or resumes a provider.
#[derive(Debug)]
pub(in crate::store) struct SetGate {
    pub(in crate::store) provider: ProviderName,
    pub(in crate::store) change: GateChange,
}

#[async_trait]
impl Operation for SetGate {
    type Answer = bool;

    const PHASE: Phase = Phase::Limits;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.providers.insert(self.provider.clone());
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let Some(mut record) = batch.provider(&self.provider).cloned() else { return Ok(false) };
        let (pause, entry) = match self.change.clone() {
            GateChange::Pause { reason, until } => {
                let entry = Change::Paused { reason: reason.clone(), until };
                (Some(Pause { reason, until }), entry)
            }
            GateChange::Resume { reason } => (None, Change::Resumed { reason }),
        };
        let nothing_closed = record.health.closure().is_none() && !record.flow.has_closed();
        if record.pause == pause && (pause.is_some() || nothing_closed) {
            return Ok(false);
        }
        record.pause = pause;
        // The newest entry says all there is to say of a gate.
        record.shortage = None;
        // An operator who resumes knows better; one who pauses does not say that all is well.
        if record.pause.is_none() {
            record.health = Health::default();
            record.flow.forgive();
        }
        batch.put_provider(record, entry);
        Ok(true)
    }
}

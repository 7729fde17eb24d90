//! Providers as operators see and steer them.

use std::collections::HashMap;

use super::{Engine, LimitsDraft, ProviderError, ProviderView};
use crate::domain::{LimitUpdate, ProviderName, Timestamp};
use crate::store::{ExpectedRevision, GateChange, ProviderRow, SetLimitsError};

impl Engine {
    /// Configured providers by name; `names` empty means all.
    pub async fn providers(
        &self,
        names: &[ProviderName],
    ) -> Result<Vec<ProviderView>, ProviderError> {
        for name in names {
            self.must_know(name)?;
        }
        let rows = self.0.store.providers().await?;
        let wanted =
            rows.into_iter().filter(|row| names.is_empty() || names.contains(&row.record.name));
        Ok(wanted.filter_map(|row| self.provider_view(row)).collect())
    }

    /// Keeps, overrides or resets limits, all or none; tells the named providers, in order, as they
    /// then stand.
    pub async fn set_limits(&self, draft: LimitsDraft) -> Result<Vec<ProviderView>, ProviderError> {
        for change in &draft.changes {
            self.must_know(&change.provider)?;
        }
        let names: Vec<_> = draft.changes.iter().map(|change| change.provider.clone()).collect();
        let updates: HashMap<_, _> =
            draft.changes.iter().map(|it| (it.provider.clone(), it.update.clone())).collect();
        let LimitsDraft { changes, told, expected, validate_only } = draft;
        let reason = told.reason.clone();
        let rows = self
            .0
            .store
            .set_limits(changes, told.clone(), expected, validate_only)
            .await?
            .map_err(|error| self.limits_error(error, expected))?;
        let mut views = self.providers(&names).await?;
        if validate_only {
            // The counts as they are, the limits as they would be.
            let mut would: HashMap<_, _> =
                rows.into_iter().map(|row| (row.record.name.clone(), row.record)).collect();
            for view in &mut views {
                if let Some(record) = would.remove(&view.row.record.name) {
                    view.row.record = record;
                }
            }
        } else {
            for view in &views {
                let record = &view.row.record;
                if updates.get(&record.name) == Some(&LimitUpdate::Keep) {
                    continue;
                }
                let (provider, limit) = (&record.name, record.effective().max_concurrent);
                tracing::info!(%provider, reason, "Limit of provider {provider} is now {limit}");
            }
        }
        let place = |view: &ProviderView| names.iter().position(|it| *it == view.row.record.name);
        views.sort_by_key(place);
        Ok(views)
    }

    /// Admits nothing of this provider until it is resumed, or until `until`.
    pub async fn pause(
        &self,
        provider: ProviderName,
        reason: String,
        until: Option<Timestamp>,
    ) -> Result<ProviderView, ProviderError> {
        self.must_know(&provider)?;
        let change = GateChange::Pause { reason: reason.clone(), until };
        if self.0.store.set_gate(provider.clone(), change).await? {
            tracing::info!(%provider, reason, "Provider {provider} is paused");
        }
        if let Some(until) = until {
            self.0.alarm.ring_at(until);
        }
        self.provider(&provider).await
    }

    /// Admits this provider's work again.
    pub async fn resume(
        &self,
        provider: ProviderName,
        reason: String,
    ) -> Result<ProviderView, ProviderError> {
        self.must_know(&provider)?;
        let change = GateChange::Resume { reason: reason.clone() };
        if self.0.store.set_gate(provider.clone(), change).await? {
            tracing::info!(%provider, reason, "Provider {provider} is resumed");
        }
        self.provider(&provider).await
    }

    async fn provider(&self, name: &ProviderName) -> Result<ProviderView, ProviderError> {
        let mut views = self.providers(std::slice::from_ref(name)).await?;
        views.pop().ok_or_else(|| self.unknown(name))
    }

    fn provider_view(&self, row: ProviderRow) -> Option<ProviderView> {
        let configured = self.0.providers.get(&row.record.name)?;
        let now = self.now();
        let (succeeded_per_minute, failed_per_minute) =
            self.0.counters.rates(&row.record.name, now);
        Some(ProviderView {
            kind: configured.kind.clone(),
            unavailable: configured.provider.unavailable(),
            succeeded_per_minute,
            failed_per_minute,
            oldest_pending_age: row.oldest_ready.map(|due| now.since(due)),
            retry: configured.retry.defaults.clone(),
            retryable: configured.retry.retryable(configured.provider.transient_codes()),
            row,
        })
    }

    fn must_know(&self, name: &ProviderName) -> Result<(), ProviderError> {
        if self.0.providers.contains_key(name) { Ok(()) } else { Err(self.unknown(name)) }
    }

    fn unknown(&self, name: &ProviderName) -> ProviderError {
        let known = self.0.providers.keys().cloned().collect();
        ProviderError::Unknown { name: name.clone(), known }
    }

    fn limits_error(&self, error: SetLimitsError, expected: ExpectedRevision) -> ProviderError {
        match error {
            SetLimitsError::UnknownProvider(name) => self.unknown(&name),
            SetLimitsError::Changed { current } => {
                let expected = match expected {
                    ExpectedRevision::Any => 0,
                    ExpectedRevision::Newest(revision) => revision,
                };
                ProviderError::LimitsChanged { current, expected }
            }
        }
    }
}

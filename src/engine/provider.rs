//! Providers as operators see and steer them.

use super::{Engine, LimitsDraft, ProviderError, ProviderView};
use crate::domain::{Effect, Event, LimitUpdate, ProviderName, Timestamp, Told};
use crate::store::{ExpectedRevision, GateChange, LimitChange, ProviderRow, SetLimitsError};

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
    /// then stand, and what that does to the work that was found there.
    pub async fn set_limits(
        &self,
        draft: LimitsDraft,
    ) -> Result<Vec<(ProviderView, Effect)>, ProviderError> {
        let names: Vec<_> = draft.changes.iter().map(|change| change.provider.clone()).collect();
        // What is found afterwards may have started by the new limits already.
        let found = self.providers(&names).await?;
        let LimitsDraft { changes, told, expected, validate_only } = draft;
        let set = self.0.store.set_limits(changes.clone(), told.clone(), expected, validate_only);
        let rows = set.await?.map_err(|error| self.limits_error(error, expected))?;
        if !validate_only {
            self.tell_of_limits(&changes, &rows, &told);
        }
        let mut views = if validate_only { found.clone() } else { self.providers(&names).await? };
        let place = |view: &ProviderView| names.iter().position(|it| *it == view.row.record.name);
        views.sort_by_key(place);
        let now = self.now();
        let effects = views.into_iter().zip(rows).filter_map(|(mut view, row)| {
            let before = found.iter().find(|it| it.row.record.name == row.record.name)?;
            let effect =
                Effect::of(&row.record, before.row.running, before.row.ready_in_common(), now);
            if validate_only {
                // The counts as they are, the limits as they would be.
                view.row.record = row.record;
            }
            Some((view, effect))
        });
        Ok(effects.collect())
    }

    /// Notes who set which limits, and wakes the server when that is to be taken back.
    fn tell_of_limits(&self, changes: &[LimitChange], rows: &[ProviderRow], told: &Told) {
        for (change, row) in changes.iter().zip(rows) {
            if change.update == LimitUpdate::Keep {
                continue;
            }
            let (provider, limits) = (&row.record.name, row.record.effective());
            let Told { reason, actor } = told;
            tracing::info!(%provider, reason, actor, "Limit of provider {provider} is now {limits}");
            if let Some(at) = change.expires_at {
                self.0.alarm.ring_at(at);
            }
        }
    }

    /// The changes of a provider's limits below the revision `before`, newest first.
    pub async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>, ProviderError> {
        self.must_know(provider)?;
        Ok(self.0.store.limit_changes(provider, before, limit).await?)
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

    pub(super) fn provider_view(&self, row: ProviderRow) -> Option<ProviderView> {
        let configured = self.0.providers.get(&row.record.name)?;
        let now = self.now();
        let (succeeded_per_minute, failed_per_minute) = self.0.lately.rates(&row.record.name, now);
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
            SetLimitsError::TooManyModels(name) => ProviderError::TooManyModels(name),
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

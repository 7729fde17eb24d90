//! That no worker which lives does a provider's work, told on the provider.

use async_trait::async_trait;

use super::{Operation, Phase};
use crate::domain::{Heard, ProviderName};
use crate::store::BackendError;
use crate::store::batch::{Batch, Needs};

/// Tells whether some worker serves a provider of which work is waiting.
#[derive(Debug)]
pub(in crate::store) struct TellUnserved {
    pub(in crate::store) provider: ProviderName,
    /// Whether none does.
    pub(in crate::store) unserved: bool,
}

#[async_trait]
impl Operation for TellUnserved {
    /// Whether that was news.
    type Answer = bool;

    const PHASE: Phase = Phase::Limits;

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        needs.providers.insert(self.provider.clone());
    }

    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError> {
        let loads = batch.fresh_loads(std::slice::from_ref(&self.provider)).await?;
        let waits = loads.get(&self.provider).is_some_and(|load| load.has_ready);
        let Some(mut record) = batch.provider(&self.provider).cloned() else { return Ok(false) };
        if !record.flow.is_unserved(self.unserved && waits, batch.now()) {
            return Ok(false);
        }
        match record.told_of_holds() {
            Heard::Changed(change) => batch.put_provider(record, change),
            Heard::Noted | Heard::Nothing => batch.touch_provider(record),
        }
        Ok(true)
    }
}

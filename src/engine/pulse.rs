//! What this worker sees of providers whose limit moves by itself, told with the ends of attempts: a
//! rate limit at once, all else four times a second, so that a busy provider's row is not written
//! with every attempt.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ending::Found;
use crate::domain::{Observation, ProviderName, Quota, Timestamp};

/// How often what was seen is told.
const TELLING_PAUSE: Duration = Duration::from_millis(250);

/// What was seen of each provider and not told yet.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<HashMap<ProviderName, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    completed: u32,
    spent: Duration,
    quota: Option<Quota>,
    told_at: Option<Instant>,
}

impl Pulse {
    /// Notes what an attempt found that was claimed at `claimed_at` and took so long; returns what is to
    /// be told now.
    pub(super) fn beat(
        &self,
        provider: &ProviderName,
        found: &Found,
        quota: Option<Quota>,
        claimed_at: Timestamp,
        took: Duration,
    ) -> Option<Observation> {
        let mut seen = lock(&self.0);
        let seen = seen.entry(provider.clone()).or_default();
        if *found == Found::Answered {
            seen.completed += 1;
            seen.spent += took;
        }
        seen.quota = quota.or(seen.quota);
        let rate_limited = match found {
            Found::RateLimited { .. } => Some(claimed_at),
            Found::Failed { .. } | Found::Answered => None,
        };
        let now = Instant::now();
        let due = seen.told_at.is_none_or(|told| now - told >= TELLING_PAUSE);
        if rate_limited.is_none() && (!due || seen.completed == 0) {
            return None;
        }
        let Seen { completed, spent, quota, .. } = std::mem::take(seen);
        seen.told_at = Some(now);
        let mean_latency = (completed > 0).then(|| spent / completed);
        Some(Observation { completed, mean_latency, rate_limited, quota })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

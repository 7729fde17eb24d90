//! What this worker goes by of what it counts about itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Figures;
use crate::domain::{ProviderName, RetryBudget, RetryMeter, Timestamp};
use crate::metrics::{Instruments, Outcome};

/// The window over which rates are told.
const WINDOW: Duration = Duration::from_secs(60);
const WINDOW_SECONDS: usize = 60;

/// What attempts found lately, as far as this worker goes by it.
#[derive(Debug, Default)]
pub(super) struct Lately {
    rates: Mutex<HashMap<ProviderName, [Window; 2]>>,
    found: Mutex<HashMap<ProviderName, [Window; 2]>>,
    /// Of the providers that have a retry budget.
    meters: Mutex<HashMap<ProviderName, RetryMeter>>,
}

/// Counts of the last sixty seconds, a slot each.
#[derive(Debug, Clone, Copy)]
struct Window {
    slots: [u32; WINDOW_SECONDS],
    newest: i64,
}

impl Default for Window {
    fn default() -> Self {
        Self { slots: [0; WINDOW_SECONDS], newest: 0 }
    }
}

impl Window {
    fn turn_to(&mut self, second: i64) {
        let passed = second.saturating_sub(self.newest).clamp(0, 60);
        for step in 1..=passed {
            self.slots[slot(second - passed + step)] = 0;
        }
        self.newest = self.newest.max(second);
    }

    fn count(&mut self, second: i64) {
        self.turn_to(second);
        self.slots[slot(second)] += 1;
    }

    fn sum(&mut self, second: i64) -> f64 {
        self.turn_to(second);
        self.slots.iter().map(|count| f64::from(*count)).sum()
    }
}

fn slot(second: i64) -> usize {
    usize::try_from(second.rem_euclid(60)).unwrap_or(0)
}

impl Lately {
    /// Notes how an attempt ended.
    pub(super) fn ended(&self, provider: &ProviderName, how: Outcome, now: Timestamp) {
        let which = match how {
            Outcome::Succeeded => 0,
            Outcome::Failed => 1,
            Outcome::Retried | Outcome::Crashed | Outcome::Cancelled | Outcome::Released => return,
        };
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.entry(provider.clone()).or_default()[which].count(now.as_micros() / 1_000_000);
    }

    /// Counts what an attempt found of its provider; whether at least half of those of the last minute
    /// found it failing.
    pub(super) fn troubled(&self, provider: &ProviderName, failed: bool, now: Timestamp) -> bool {
        let second = now.as_micros() / 1_000_000;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = found.entry(provider.clone()).or_default();
        windows[usize::from(failed)].count(second);
        let [answered, failed] = windows;
        failed.sum(second) >= answered.sum(second)
    }

    /// Counts an execution's first attempt for the retry budget of its provider.
    pub(super) fn first_attempt(&self, provider: &ProviderName, now: Timestamp) {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.entry(provider.clone()).or_default().first(now);
    }

    /// Whether a retry finds room in the budget of its provider, which it then takes.
    pub(super) fn retry_fits(
        &self,
        provider: &ProviderName,
        budget: RetryBudget,
        now: Timestamp,
    ) -> bool {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.entry(provider.clone()).or_default().take(budget, now)
    }

    /// Succeeded and failed executions of a provider within the last minute.
    pub(super) fn rates(&self, provider: &ProviderName, now: Timestamp) -> (f64, f64) {
        let second = now.as_micros() / 1_000_000;
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let per_minute = 60.0 / WINDOW.as_secs_f64();
        rates.get_mut(provider).map_or((0.0, 0.0), |[succeeded, failed]| {
            (succeeded.sum(second) * per_minute, failed.sum(second) * per_minute)
        })
    }
}

/// What this worker counted since it booted, while it runs `active` attempts.
pub(super) fn figures(instruments: &Instruments, active: usize) -> Figures {
    let counts = instruments.counts();
    let attempts = |outcome| instruments.attempts(outcome);
    let millis = |mean: Option<Duration>| mean.unwrap_or_default().as_secs_f64() * 1_000.0;
    Figures {
        started: counts.waits.count(),
        succeeded: attempts(Outcome::Succeeded),
        failed: attempts(Outcome::Failed),
        cancelled: attempts(Outcome::Cancelled),
        retried: attempts(Outcome::Retried),
        crashed: attempts(Outcome::Crashed),
        stale_writes_rejected: instruments.stale_writes(),
        active: u64::try_from(active).unwrap_or(u64::MAX),
        watchers: instruments.watchers(),
        watch_resyncs: instruments.watch_resyncs(),
        mean_execution_ms: millis(counts.runs.mean()),
        mean_wait_ms: millis(counts.waits.mean()),
    }
}

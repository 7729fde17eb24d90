//! What this worker counts about itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Figures;
use crate::domain::{ProviderName, RetryBudget, RetryMeter, Timestamp};

/// The window over which rates are told.
const WINDOW: Duration = Duration::from_secs(60);
const WINDOW_SECONDS: usize = 60;

/// Counters since the worker booted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    started: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    retried: AtomicU64,
    crashed: AtomicU64,
    stale: AtomicU64,
    ended: AtomicU64,
    ran_micros: AtomicU64,
    waited_micros: AtomicU64,
    watchers: AtomicI64,
    resyncs: AtomicU64,
    rates: Mutex<HashMap<ProviderName, [Window; 2]>>,
    found: Mutex<HashMap<ProviderName, [Window; 2]>>,
    /// Of the providers that have a retry budget.
    meters: Mutex<HashMap<ProviderName, RetryMeter>>,
}

/// How much was started, waited for and ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) started: u64,
    pub(super) ended: u64,
    pub(super) waited: Duration,
}

/// How an attempt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Succeeded,
    Failed,
    Cancelled,
    Retried,
    Crashed,
    Released,
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

impl Counters {
    pub(super) fn started(&self, waited: Duration) {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.waited_micros.fetch_add(micros(waited), Ordering::Relaxed);
    }

    pub(super) fn ended(
        &self,
        provider: &ProviderName,
        how: Counted,
        ran: Duration,
        now: Timestamp,
    ) {
        let counter = match how {
            Counted::Succeeded => &self.succeeded,
            Counted::Failed => &self.failed,
            Counted::Cancelled => &self.cancelled,
            Counted::Retried => &self.retried,
            Counted::Crashed => &self.crashed,
            Counted::Released => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.ran_micros.fetch_add(micros(ran), Ordering::Relaxed);
        let which = match how {
            Counted::Succeeded => 0,
            Counted::Failed => 1,
            Counted::Retried | Counted::Crashed | Counted::Cancelled | Counted::Released => return,
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

    pub(super) fn stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn watch_opened(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn watch_closed(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
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

    pub(super) fn tally(&self) -> Tally {
        Tally {
            started: self.started.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn figures(&self, active: usize) -> Figures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mean_ms = |sum: &AtomicU64, count: u64| match count {
            0 => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
            count => get(sum) as f64 / count as f64 / 1_000.0,
        };
        Figures {
            started: get(&self.started),
            succeeded: get(&self.succeeded),
            failed: get(&self.failed),
            cancelled: get(&self.cancelled),
            retried: get(&self.retried),
            crashed: get(&self.crashed),
            stale_writes_rejected: get(&self.stale),
            active: u64::try_from(active).unwrap_or(u64::MAX),
            watchers: u64::try_from(self.watchers.load(Ordering::Relaxed)).unwrap_or(0),
            watch_resyncs: get(&self.resyncs),
            mean_execution_ms: mean_ms(&self.ran_micros, get(&self.ended)),
            mean_wait_ms: mean_ms(&self.waited_micros, get(&self.started)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

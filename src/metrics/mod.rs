//! One set of instruments: what Flowgate counts and measures of itself, for Prometheus, for a
//! collector and for `GetStatus` alike.
//!
//! What must stay true: the labels of a series are known when the server starts (names of configured
//! providers, states, methods of the contract), so that nothing a client sends makes a new one;
//! recording takes no lock that a reader holds for long.

mod catalogue;
mod expose;
mod figures;
mod history;
mod otlp;
mod process;
mod provider;
mod service;
mod timing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::domain::{ProviderName, Timestamp};
use catalogue::{Catalogue, Names, Retractable};
use history::History;

pub use expose::Format;
pub use figures::{Ended, GateLabel, Outcome, ProviderFigures, Tally};
pub use history::{Counts, KEPT, Level, Sample, Window};
pub use process::Runtimes;
pub use provider::ProviderInstruments;
pub use timing::{Distribution, Example, Timing};

use provider::Families;
use service::{BuildLabels, CallLabels, LaneLabel, Service, StatusLabel};
use timing::WORK_BOUNDS;

/// What is said of calls of a method that the contract does not have, as the conventions want it.
const OTHER: &str = "_OTHER";

/// Everything that is counted and measured. One for each server.
#[derive(Debug)]
pub struct Instruments {
    /// Whether more is kept than the counters that the server itself goes by.
    full: bool,
    registry: Registry,
    names: Names,
    families: Families,
    providers: RwLock<BTreeMap<ProviderName, Arc<ProviderInstruments>>>,
    /// Of providers that are not configured here.
    others: Arc<ProviderInstruments>,
    service: Service,
    runtimes: Runtimes,
    history: Mutex<History>,
    /// How much waited when the store was last looked at.
    queue_depth: AtomicU64,
    commits: AtomicU64,
    operations: AtomicU64,
    busy_micros: AtomicU64,
}

/// How transactions of the store fared, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: u64,
    /// Operations they carried.
    pub operations: u64,
    /// Time they took in all.
    pub busy: Duration,
}

/// What the store, all replicas together, looks like at a moment.
#[derive(Debug, Clone)]
pub struct StoreFigures {
    /// Each configured provider.
    pub providers: Vec<(ProviderName, ProviderFigures)>,
    /// Replicas that claim work.
    pub active_workers: u64,
    /// Replicas that are shutting down.
    pub draining_workers: u64,
    /// How many replicas there are to be.
    pub desired_replicas: u32,
    /// Executions that more replicas could start at once.
    pub scaling_pending: u64,
    /// The newest revision.
    pub revision: i64,
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Instruments {
    /// New ones. If they are not `full`, nothing is timed and no history is kept: only what a server
    /// goes by itself, and tells other replicas.
    pub fn new(full: bool) -> Self {
        let mut all = Catalogue::default();
        let families = Families::register(&mut all);
        let service = Service::register(&mut all);
        let runtimes = Runtimes::default();
        let (registry, names) = all.finish(process::Collector::new(runtimes.clone()));
        Self {
            full,
            registry,
            names,
            others: Arc::new(families.of(OTHER)),
            families,
            providers: RwLock::default(),
            service,
            runtimes,
            history: Mutex::default(),
            queue_depth: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            busy_micros: AtomicU64::new(0),
        }
    }

    /// Tells what serves the store, and with what.
    pub fn describe(&mut self, version: &'static str, store: &'static str) {
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version, store }).set(1);
        let help = "Always 1: which version this replica runs, on which kind of store";
        self.names.add("flowgate.build_info");
        self.registry.register("flowgate_build_info", help, build);
    }

    /// Makes the series of these providers, from 0.
    pub fn serve(&self, names: impl IntoIterator<Item = ProviderName>) {
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let made = || Arc::new(self.families.of(name.as_str()));
            providers.entry(name.clone()).or_insert_with(made);
        }
    }

    /// Those of one provider; of all that are not configured here together.
    pub fn of(&self, provider: &ProviderName) -> Arc<ProviderInstruments> {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(providers.get(provider).unwrap_or(&self.others))
    }

    /// Whether anything is timed, kept and shown.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// An attempt began that had been due for `waited`.
    pub fn started(&self, provider: &ProviderName, waited: Duration, example: Option<Example>) {
        self.of(provider).started(waited, example.filter(|_| self.full));
    }

    /// An attempt ended.
    pub fn attempt_ended(
        &self,
        provider: &ProviderName,
        outcome: Outcome,
        ran: Duration,
        example: Option<Example>,
    ) {
        self.of(provider).attempt_ended(outcome, ran, example.filter(|_| self.full));
    }

    /// A write was refused because its lease was lost.
    pub fn stale_write(&self) {
        self.service.stale_writes.inc();
    }

    /// How many were.
    pub fn stale_writes(&self) -> u64 {
        self.service.stale_writes.get()
    }

    /// So many loops were started again since the server started.
    pub fn loops_restarted(&self, count: u64) {
        self.service.loop_restarts.inc_by(count.saturating_sub(self.service.loop_restarts.get()));
    }

    /// A watch began.
    pub fn watch_opened(&self) {
        self.service.watchers.inc();
    }

    /// A watch ended.
    pub fn watch_closed(&self) {
        self.service.watchers.dec();
    }

    /// Watches open now.
    pub fn watchers(&self) -> u64 {
        u64::try_from(self.service.watchers.get()).unwrap_or(0)
    }

    /// A change reached a watch that was up to date.
    pub fn watch_delivered(&self, lag: Duration) {
        if self.full {
            self.service.watch_lag.observe(lag, None);
        }
    }

    /// The watches fell behind.
    pub fn watch_resynced(&self) {
        self.service.watch_resyncs.inc();
    }

    /// How often they did.
    pub fn watch_resyncs(&self) -> u64 {
        self.service.watch_resyncs.get()
    }

    /// Makes the series of a lane that transactions take, from 0: of a failure that is the first its
    /// counter shows, nobody would see that it rose.
    pub fn open_lane(&self, lane: &'static str) {
        let lane = LaneLabel { lane };
        let _ = self.service.store_errors.get_or_create(&lane);
        if self.full {
            let _ = self.service.commits.get_or_create(&lane);
            let _ = self.service.batches.get_or_create(&lane);
        }
    }

    /// A transaction was committed.
    pub fn committed(&self, lane: &'static str, operations: usize, took: Duration) {
        let count = u64::try_from(operations).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(count, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.busy_micros.fetch_add(micros, Ordering::Relaxed);
        if !self.full {
            return;
        }
        let lane = LaneLabel { lane };
        self.service.commits.get_or_create(&lane).observe(took, None);
        #[expect(clippy::cast_precision_loss, reason = "it is at most some hundreds")]
        self.service.batches.get_or_create(&lane).observe(operations as f64);
    }

    /// How transactions fared.
    pub fn commit_stats(&self) -> CommitStats {
        CommitStats {
            commits: self.commits.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            busy: Duration::from_micros(self.busy_micros.load(Ordering::Relaxed)),
        }
    }

    /// A transaction failed for good.
    pub fn store_failed(&self, lane: &'static str) {
        self.service.store_errors.get_or_create(&LaneLabel { lane }).inc();
    }

    /// A call of a method of the contract ended, or one of none (`None`).
    pub fn called(
        &self,
        method: Option<&'static str>,
        code: &'static str,
        took: Duration,
        example: Option<Example>,
    ) {
        if !self.full {
            return;
        }
        let labels =
            CallLabels { rpc_method: method.unwrap_or(OTHER), rpc_response_status_code: code };
        self.service.calls.get_or_create(&labels).observe(took, example);
    }

    /// Whether this replica is ready.
    pub fn set_ready(&self, ready: bool) {
        self.service.ready.set(ready.into());
    }

    /// The runtimes that are to be told of.
    pub fn runtimes(&self) -> &Runtimes {
        &self.runtimes
    }

    /// What the store looks like; `None` if it cannot be read, which takes what was told of it back.
    pub fn store_is(&self, figures: Option<&StoreFigures>) {
        let Some(figures) = figures else {
            self.families.forget_store();
            let Service { desired, scaling_pending, revision, .. } = &self.service;
            [desired, scaling_pending, revision].into_iter().for_each(Retractable::retract);
            self.queue_depth.store(0, Ordering::Relaxed);
            self.service.workers.clear();
            return;
        };
        let depth = figures.providers.iter().map(|(_, figures)| figures.queue_depth).sum();
        self.queue_depth.store(depth, Ordering::Relaxed);
        for (name, figures) in &figures.providers {
            self.families.store_is(name.as_str(), figures);
        }
        for (status, count) in
            [("active", figures.active_workers), ("draining", figures.draining_workers)]
        {
            self.service.workers.get_or_create(&StatusLabel { status }).set(to_i64(count));
        }
        self.service.desired.set(figures.desired_replicas.into());
        self.service.scaling_pending.set(to_i64(figures.scaling_pending));
        self.service.revision.set(figures.revision);
    }

    /// How large the store is.
    pub fn store_size(&self, bytes: u64) {
        self.service.size.set(to_i64(bytes));
    }

    /// Takes the sample of this second.
    pub fn sample(&self, now: Timestamp, active: u64, slots: u64) {
        let queue_depth = self.queue_depth.load(Ordering::Relaxed);
        let sample = Sample { counts: self.counts(), queue_depth, active, slots };
        self.service.active.set(to_i64(active));
        self.service.slots.set(to_i64(slots));
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        self.service.utilisation.set(if slots == 0 { 0.0 } else { active as f64 / slots as f64 });
        let mut history = self.history();
        history.take(now, sample);
        let Some(window) = history.last_minute() else { return };
        drop(history);
        self.service.throughput.set(window.throughput());
        self.service.error_ratio.set(window.counts.error_ratio());
        let seconds = |mean: Option<Duration>| mean.unwrap_or_default().as_secs_f64();
        self.service.mean_run.set(seconds(window.counts.runs.mean()));
        self.service.mean_wait.set(seconds(window.counts.waits.mean()));
    }

    /// What was counted since the server started.
    pub fn counts(&self) -> Counts {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        let all = providers.values().chain([&self.others]);
        all.fold(Counts::default(), |counts, provider| provider.add_to(counts))
    }

    /// What was started and ended since the server started.
    pub fn tally(&self) -> Tally {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        let tallies = providers.values().chain([&self.others]).map(|it| it.tally());
        tallies.fold(Tally::default(), |all, one| Tally {
            started: all.started + one.started,
            ended: all.ended + one.ended,
            waited: all.waited + one.waited,
        })
    }

    /// How many attempts ended like this since the server started.
    pub fn attempts(&self, outcome: Outcome) -> u64 {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        providers.values().chain([&self.others]).map(|it| it.attempts(outcome)).sum()
    }

    /// The last sixty seconds; `None` in the first.
    pub fn last_minute(&self) -> Option<Window> {
        self.history().last_minute()
    }

    /// The minutes that ended after `since`, oldest first, of the last 24 hours.
    pub fn minutes(&self, since: Timestamp) -> Vec<Window> {
        self.history().minutes(since)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bounds in seconds of [`Counts::runs`] and [`Counts::waits`].
pub const fn work_bounds() -> &'static [f64] {
    WORK_BOUNDS
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

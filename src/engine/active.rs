//! The attempts that run in this process right now, and the means to stop each of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::domain::{AttemptEnd, EndCause, ExecutionId, Lease, ProviderName};
use crate::providers::{StopReason, Stopper};

/// The most early cancellations that are remembered; beyond that the next renewal tells.
const MAX_EARLY: usize = 10_000;
/// How long after its claim an attempt may start at the latest for them to count.
const EARLY: Duration = Duration::from_secs(10);

/// Every attempt running here.
#[derive(Debug)]
pub(super) struct Active {
    state: Mutex<State>,
    count: watch::Sender<usize>,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    attempts: HashMap<ExecutionId, Entry>,
    /// How many of each provider are at work; those without any are left out.
    working: BTreeMap<ProviderName, u32>,
    /// Cancellations heard of between the commit of a claim and the start of its attempt, and when. Most
    /// are of executions that run elsewhere.
    early: HashMap<ExecutionId, Instant>,
}

#[derive(Debug)]
struct Entry {
    attempt: ActiveAttempt,
    /// Whether its work goes on; false once all that is left is to record how it ended.
    works: bool,
}

/// One attempt, as its keepers see it.
#[derive(Debug, Clone)]
pub(super) struct ActiveAttempt {
    pub(super) lease: Lease,
    pub(super) provider: ProviderName,
    pub(super) stopper: Stopper,
    /// By when the work must be over unless the lease is renewed.
    pub(super) deadline: watch::Sender<Instant>,
}

impl State {
    fn insert(&mut self, attempt: ActiveAttempt) {
        // An execution may be claimed again before its lost attempt is cleared away.
        self.remove(attempt.lease.id);
        *self.working.entry(attempt.provider.clone()).or_default() += 1;
        self.attempts.insert(attempt.lease.id, Entry { attempt, works: true });
    }

    fn work_over(&mut self, id: ExecutionId) {
        let Some(entry) = self.attempts.get_mut(&id).filter(|entry| entry.works) else { return };
        entry.works = false;
        if let Some(count) = self.working.get_mut(&entry.attempt.provider) {
            *count -= 1;
            if *count == 0 {
                self.working.remove(&entry.attempt.provider);
            }
        }
    }

    fn remove(&mut self, id: ExecutionId) {
        self.work_over(id);
        self.attempts.remove(&id);
    }

    fn get(&self, lease: &Lease) -> Option<&ActiveAttempt> {
        let attempt = &self.attempts.get(&lease.id)?.attempt;
        Some(attempt).filter(|attempt| attempt.lease == *lease)
    }

    fn all(&self) -> impl Iterator<Item = &ActiveAttempt> {
        self.attempts.values().map(|entry| &entry.attempt)
    }
}

impl Default for Active {
    fn default() -> Self {
        Self { state: Mutex::default(), count: watch::channel(0).0, room: Notify::new() }
    }
}

impl Active {
    /// Adds an attempt; stops it at once if it was cancelled since its claim.
    pub(super) fn insert(&self, attempt: ActiveAttempt) {
        let mut state = self.state();
        if state.early.remove(&attempt.lease.id).is_some() {
            attempt.stopper.stop(StopReason::Cancelled);
        }
        state.insert(attempt);
        self.count.send_replace(state.attempts.len());
    }

    /// The work of an attempt is over: its slot is free, also while its end is yet to be recorded,
    /// so that the next can be claimed in the transaction that records it.
    pub(super) fn work_over(&self, lease: &Lease) {
        let mut state = self.state();
        if state.get(lease).is_some() {
            state.work_over(lease.id);
        }
        drop(state);
        self.room.notify_one();
    }

    /// Removes an attempt that is over, unless a newer one of the same execution took its place.
    pub(super) fn remove(&self, lease: &Lease) {
        let mut state = self.state();
        if state.get(lease).is_some() {
            state.remove(lease.id);
        }
        self.count.send_replace(state.attempts.len());
        drop(state);
        self.room.notify_one();
    }

    /// Asks the attempt at this execution to stop because a client cancelled it. One that has not
    /// started yet is stopped when it does.
    pub(super) fn cancel(&self, id: ExecutionId) {
        let mut state = self.state();
        match state.attempts.get(&id) {
            Some(entry) => entry.attempt.stopper.stop(StopReason::Cancelled),
            None => {
                if state.early.len() >= MAX_EARLY {
                    state.early.retain(|_, heard| heard.elapsed() < EARLY);
                }
                if state.early.len() < MAX_EARLY {
                    state.early.insert(id, Instant::now());
                }
            }
        }
    }

    /// Stops the attempt at this execution if it is one whose lease was taken away: by the clock
    /// of the store it had run out, whatever the clock of this process says.
    pub(super) fn lost(&self, id: ExecutionId, ended: Option<&AttemptEnd>) {
        let Some(ended) = ended.filter(|ended| ended.cause == EndCause::Lost) else { return };
        if let Some(Entry { attempt, .. }) = self.state().attempts.get(&id)
            && attempt.lease.token == ended.token
        {
            attempt.stopper.stop(StopReason::LeaseLost);
        }
    }

    /// Forgets an early cancellation: the execution is over or will be claimed afresh.
    pub(super) fn forget(&self, id: ExecutionId) {
        self.state().early.remove(&id);
    }

    /// The attempt at this execution, if it runs under this lease.
    pub(super) fn get(&self, lease: &Lease) -> Option<ActiveAttempt> {
        self.state().get(lease).cloned()
    }

    /// Every lease held.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.state().all().map(|attempt| attempt.lease.clone()).collect()
    }

    /// Every execution that runs here.
    pub(super) fn ids(&self) -> Vec<ExecutionId> {
        self.state().attempts.keys().copied().collect()
    }

    /// Asks every attempt to stop; returns how many there are.
    pub(super) fn stop_all(&self, reason: StopReason) -> usize {
        let state = self.state();
        state.all().for_each(|attempt| attempt.stopper.stop(reason));
        state.attempts.len()
    }

    /// How many attempts there are of each provider; providers without any are left out.
    pub(super) fn by_provider(&self) -> BTreeMap<ProviderName, u32> {
        let mut counts = BTreeMap::new();
        for attempt in self.state().all() {
            *counts.entry(attempt.provider.clone()).or_default() += 1;
        }
        counts
    }

    /// How many attempts of each provider are at work; providers without any are left out.
    pub(super) fn working(&self) -> BTreeMap<ProviderName, u32> {
        self.state().working.clone()
    }

    /// Waits until an attempt's work has ended since this last returned. For one waiter only.
    pub(super) async fn room_made(&self) {
        self.room.notified().await;
    }

    /// How many run.
    pub(super) fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until none runs.
    pub(super) async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

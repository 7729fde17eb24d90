//! The hub: turns the feed of commits, of this replica and of others, into wake-ups for whoever waits for them.
//!
//! What must stay true: a wake-up is a hint and carries no data. Each waiter holds one number, the
//! newest revision that concerns it, so a frozen one costs nothing and delays nobody; when the hub
//! itself falls behind the feed it wakes everybody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::{Engine, Inner};
use crate::domain::{Change, ExecutionId, GateState, HeldBy, ProviderName, Shortage};
use crate::store::{Commit, Result, Store};

/// Who waits for what.
pub(super) struct Hub {
    head: watch::Sender<i64>,
    watched: Mutex<HashMap<ExecutionId, Watched>>,
    gates: Mutex<HashMap<ProviderName, Gate>>,
    /// Taken by the hub's loop; subscribed before the head was read, so that nothing is missed.
    feed: tokio::sync::Mutex<broadcast::Receiver<Arc<Commit>>>,
}

#[derive(Debug)]
struct Watched {
    provider: ProviderName,
    newest: watch::Sender<i64>,
}

/// A provider's gate as last heard of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Gate {
    /// Whether it admits work.
    pub(super) state: GateState,
    /// The revision of the change that made it so.
    pub(super) revision: i64,
}

/// Wakes one watch; unregisters when dropped.
pub(super) struct Wake {
    engine: Engine,
    id: ExecutionId,
    /// Always there until it is dropped.
    newest: Option<watch::Receiver<i64>>,
}

impl Hub {
    pub(super) async fn start(store: &Store) -> Result<Self> {
        let feed = tokio::sync::Mutex::new(store.commits());
        let head = watch::channel(store.head().await?.revision).0;
        let hub = Self { head, watched: Mutex::default(), gates: Mutex::default(), feed };
        hub.read_gates(store).await?;
        Ok(hub)
    }

    /// The newest revision heard of.
    pub(super) fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// The gate of a provider as last heard of.
    pub(super) fn gate(&self, provider: &ProviderName) -> Gate {
        lock(&self.gates).get(provider).cloned().unwrap_or_default()
    }

    /// Every provider of which something is held back by this, as last heard of.
    pub(super) fn held_by(&self, by: &HeldBy) -> BTreeSet<ProviderName> {
        let gates = lock(&self.gates);
        let held = gates.iter().filter(|(_, gate)| match &gate.state {
            GateState::Held(holds) => holds.iter().any(|hold| hold.by == *by),
            GateState::Open
            | GateState::Short(_)
            | GateState::Paused(_)
            | GateState::Closed { .. }
            | GateState::Probing { .. } => false,
        });
        held.map(|(name, _)| name.clone()).collect()
    }

    /// Every provider that is short of a machine as last heard of, and of whose.
    pub(super) fn shortages(&self) -> Vec<(ProviderName, Shortage)> {
        let gates = lock(&self.gates);
        let short = gates.iter().filter_map(|(name, gate)| match gate.state {
            GateState::Short(shortage) => Some((name.clone(), shortage)),
            GateState::Open
            | GateState::Held(_)
            | GateState::Paused(_)
            | GateState::Closed { .. }
            | GateState::Probing { .. } => None,
        });
        short.collect()
    }

    async fn read_gates(&self, store: &Store) -> Result<()> {
        let rows = store.providers().await?;
        for row in rows {
            let gate = Gate { state: row.record.gate(), revision: row.record.gate_revision };
            self.note_gate(row.record.name, gate);
        }
        Ok(())
    }

    fn note(&self, commit: &Commit) {
        for entry in &commit.entries {
            if let Some(state) = entry.change.as_ref().and_then(GateState::after) {
                self.note_gate(entry.provider.clone(), Gate { state, revision: entry.revision });
            }
        }
        let watched = lock(&self.watched);
        for entry in &commit.entries {
            match entry.execution {
                Some(id) => {
                    if let Some(watch) = watched.get(&id) {
                        watch.newest.send_replace(entry.revision);
                    }
                }
                None if entry.change.as_ref().is_some_and(Change::is_gate) => {
                    for watch in watched.values().filter(|w| w.provider == entry.provider) {
                        watch.newest.send_replace(entry.revision);
                    }
                }
                None => {}
            }
        }
        drop(watched);
        self.note_head(commit.newest);
    }

    /// Commits of other replicas may be heard of late.
    fn note_gate(&self, provider: ProviderName, gate: Gate) {
        let mut gates = lock(&self.gates);
        let known = gates.entry(provider).or_default();
        if known.revision < gate.revision {
            *known = gate;
        }
    }

    fn note_head(&self, revision: i64) {
        self.head.send_if_modified(|head| {
            let newer = revision > *head;
            *head = revision.max(*head);
            newer
        });
    }

    fn wake_everybody(&self, head: i64) {
        for entry in lock(&self.watched).values() {
            entry.newest.send_replace(head);
        }
        self.note_head(head);
    }
}

impl Engine {
    /// Waits for changes of one execution. Subscribe before reading the log.
    pub(super) fn subscribe(&self, id: ExecutionId, provider: &ProviderName) -> Wake {
        let mut watched = lock(&self.0.hub.watched);
        let entry = watched
            .entry(id)
            .or_insert_with(|| Watched { provider: provider.clone(), newest: watch::channel(0).0 });
        let newest = entry.newest.subscribe();
        drop(watched);
        self.0.instruments().watch_opened();
        Wake { engine: self.clone(), id, newest: Some(newest) }
    }

    /// The hub's loop.
    pub(super) async fn follow_commits(self) {
        let hub = &self.0.hub;
        let mut feed = hub.feed.lock().await;
        loop {
            match feed.recv().await {
                // So much happened that only looking tells.
                Ok(commit) if commit.entries.is_empty() => self.resync().await,
                Ok(commit) => {
                    self.hear_cancellations(&commit);
                    hub.note(&commit);
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "the hub fell behind the commits, every watch rereads");
                    self.0.instruments().watch_resynced();
                    self.resync().await;
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Tells attempts that run here of their cancellation, without waiting for the next renewal.
    fn hear_cancellations(&self, commit: &Commit) {
        for entry in &commit.entries {
            let (Some(id), Some(change)) = (entry.execution, &entry.change) else { continue };
            match change {
                Change::CancelRequested { .. } => self.0.active.cancel(id),
                Change::Finished { ended, .. } => {
                    self.0.active.forget(id);
                    self.0.active.lost(id, ended.as_ref());
                }
                Change::Requeued { ended, .. } => {
                    self.0.active.forget(id);
                    self.0.active.lost(id, Some(ended));
                }
                _ => {}
            }
        }
    }

    async fn resync(&self) {
        let Inner { store, hub, .. } = &*self.0;
        match store.head().await {
            Ok(head) => hub.wake_everybody(head.revision),
            Err(error) => tracing::warn!(%error, "cannot read where the log stands"),
        }
        if let Err(error) = hub.read_gates(store).await {
            tracing::warn!(%error, "cannot read the providers' gates");
        }
        // Cancellations that were not heard of are told with the renewals.
        self.renew_all().await;
    }
}

impl Wake {
    /// Waits until something changed since the last call.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.newest {
            Some(newest) => newest.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // The entry is removed only with its last subscriber.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let mut watched = lock(&self.engine.0.hub.watched);
        // Under the lock, so that of two that end together one is the last.
        self.newest = None;
        if watched.get(&self.id).is_some_and(|entry| entry.newest.receiver_count() == 0) {
            watched.remove(&self.id);
        }
        drop(watched);
        self.engine.0.instruments().watch_closed();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The sampler: looks at this worker every second, and at the store as often as that costs little.
//!
//! What must stay true: looking at the store takes no more than a twentieth of the time, however large
//! it is; what could not be read for a while is shown no longer.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{Engine, ProviderView, Scaling};
use crate::domain::GateState;
use crate::metrics::{GateLabel, ProviderFigures, StoreFigures};
use crate::store::{Result, WorkerStatus};

const EVERY: Duration = Duration::from_secs(1);
/// What a look at the store costs is waited for so many times before the next.
const REST: u32 = 20;
/// The size of the store is asked for this rarely: it means to count all that was ever submitted.
const SIZE_EVERY: Duration = Duration::from_secs(60);
/// A look that takes longer is given up, and what was last seen is believed no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// When something is looked at next.
struct Turn {
    next: Instant,
    every: Duration,
}

impl Turn {
    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Notes that it was looked at from `began` until now.
    fn took(&mut self, began: Instant) {
        // The ticks that lead to it are not exact.
        let rest = (began.elapsed() * REST).max(self.every) - EVERY / 10;
        self.next = began + rest;
    }
}

impl Engine {
    /// The sampler's loop.
    pub(super) async fn sample(self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut store = Turn { next: Instant::now(), every: EVERY };
        let mut seen = Instant::now();
        let mut size = Turn { next: Instant::now(), every: SIZE_EVERY };
        loop {
            ticks.tick().await;
            let instruments = self.0.instruments();
            if store.is_due() {
                let began = Instant::now();
                match tokio::time::timeout(PATIENCE, self.store_figures()).await {
                    Ok(Ok(figures)) => {
                        seen = Instant::now();
                        instruments.store_is(Some(&figures));
                    }
                    // Whether the store can be used is told elsewhere.
                    Ok(Err(_)) | Err(_) if seen.elapsed() > PATIENCE => instruments.store_is(None),
                    Ok(Err(_)) | Err(_) => {}
                }
                store.took(began);
            }
            if size.is_due() {
                let began = Instant::now();
                if let Ok(totals) = self.0.store.totals().await {
                    instruments.store_size(totals.size_bytes);
                }
                size.took(began);
            }
            instruments.loops_restarted(self.0.tasks.loops_restarted());
            let active = u64::try_from(self.0.active.len()).unwrap_or(u64::MAX);
            let slots = self.pool().slots();
            instruments.sample(self.now(), active, slots.into());
        }
    }

    async fn store_figures(&self) -> Result<StoreFigures> {
        let (rows, workers) = (self.0.store.providers().await?, self.workers().await?);
        let Scaling { desired_replicas, pending_for_replicas, .. } =
            super::scaling::scaling(&rows, &workers, self.now());
        let live = |status| {
            let live = workers.iter().filter(|it| !it.lost && it.row.status == status).count();
            u64::try_from(live).unwrap_or(u64::MAX)
        };
        let views = rows.into_iter().filter_map(|row| self.provider_view(row));
        Ok(StoreFigures {
            providers: views.map(|view| (view.row.record.name.clone(), figures(&view))).collect(),
            active_workers: live(WorkerStatus::Serving),
            draining_workers: live(WorkerStatus::Stopping),
            desired_replicas,
            scaling_pending: pending_for_replicas,
            revision: self.0.store.head().await?.revision,
        })
    }
}

fn figures(view: &ProviderView) -> ProviderFigures {
    let row = &view.row;
    ProviderFigures {
        pending: row.pending,
        running: row.running,
        queue_depth: row.ready,
        oldest_age: view.oldest_pending_age.unwrap_or_default(),
        limit: row.record.effective().max_concurrent,
        gate: match row.record.gate() {
            GateState::Open | GateState::Short(_) | GateState::Held(_) => GateLabel::Open,
            GateState::Paused(_) => GateLabel::Paused,
            GateState::Closed { .. } => GateLabel::Closed,
            GateState::Probing { .. } => GateLabel::Probing,
        },
    }
}

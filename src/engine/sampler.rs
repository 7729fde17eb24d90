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
/// How often the size of the store is asked for.
const SIZE_EVERY: Duration = Duration::from_secs(60);
/// A look that takes longer is given up, and what was last seen is believed no longer than this unless looks are farther
/// apart.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// The sampler's loop.
    pub(super) async fn sample(self) {
        // A store that does not answer keeps nobody from looking at the worker.
        let ((), (), ()) =
            tokio::join!(self.look_at_itself(), self.look_at_store(), self.look_at_size());
    }

    async fn look_at_itself(&self) {
        let instruments = self.0.instruments();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            instruments.loops_restarted(self.0.tasks.loops_restarted());
            let active = u64::try_from(self.0.active.len()).unwrap_or(u64::MAX);
            let slots = self.pool().slots();
            instruments.sample(self.now(), active, slots.into());
        }
    }

    async fn look_at_store(&self) {
        let (mut seen, mut believed) = (Instant::now(), PATIENCE);
        loop {
            let began = Instant::now();
            // Whether the store can be used is told elsewhere.
            if let Ok(Ok(figures)) = tokio::time::timeout(PATIENCE, self.store_figures()).await {
                self.0.instruments().store_is(Some(&figures));
                let rest = (began.elapsed() * REST).max(EVERY);
                (seen, believed) = (Instant::now(), PATIENCE.max(rest * 2));
                tokio::time::sleep_until(began + rest).await;
            } else {
                if seen.elapsed() > believed {
                    self.0.instruments().store_is(None);
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    async fn look_at_size(&self) {
        loop {
            let totals = tokio::time::timeout(PATIENCE, self.0.store.totals()).await;
            if let Ok(Ok(totals)) = totals {
                self.0.instruments().store_size(totals.size_bytes);
            }
            tokio::time::sleep(SIZE_EVERY).await;
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

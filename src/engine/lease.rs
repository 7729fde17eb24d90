//! The lease keeper: renews every lease held here, and stops work whose lease is lost.
//!
//! What must stay true (promise P4): the deadline of the work is counted from when a renewal was
//! *sent*, so that work ends before the store can give it to another, however slow the answer.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Engine, Inner};
use crate::domain::Lease;
use crate::providers::StopReason;
use crate::store::Renewed;

/// The most leases one request renews.
const AT_ONCE: usize = 500;

impl Engine {
    /// The lease keeper's loop.
    pub(super) async fn keep_leases(self) {
        let lease = self.0.settings.lease;
        let mut pause = lease / 3;
        loop {
            tokio::time::sleep(pause).await;
            pause = if self.renew_all().await { lease / 3 } else { lease / 30 };
        }
    }

    /// Renews everything; `false` if the store could not be asked.
    pub(super) async fn renew_all(&self) -> bool {
        let Inner { store, settings, active, .. } = &*self.0;
        let leases = active.leases();
        let mut asked = true;
        for chunk in leases.chunks(AT_ONCE) {
            let sent = Instant::now();
            match store.renew(chunk.to_vec(), settings.lease).await {
                Ok(answers) => {
                    let answers: HashMap<_, _> = answers.into_iter().collect();
                    for lease in chunk {
                        if let Some(renewed) = answers.get(&lease.id) {
                            self.renewed(lease, *renewed, sent);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, leases = chunk.len(), "cannot renew leases");
                    asked = false;
                }
            }
        }
        asked
    }

    fn renewed(&self, lease: &Lease, renewed: Renewed, sent: Instant) {
        // One that ended meanwhile needs nothing.
        let Some(attempt) = self.0.active.get(lease) else { return };
        match renewed {
            Renewed::Held { cancel_requested } => {
                attempt.deadline.send_replace(sent + self.0.settings.work_deadline());
                if cancel_requested {
                    attempt.stopper.stop(StopReason::Cancelled);
                }
            }
            // Also said of an attempt whose settlement is on its way: it is past stopping then.
            Renewed::Lost => attempt.stopper.stop(StopReason::LeaseLost),
        }
    }
}

/// Waits until the deadline has passed without being moved on.
pub(super) async fn passed(mut deadline: watch::Receiver<Instant>) {
    loop {
        let until = *deadline.borrow_and_update();
        if Instant::now() >= until {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            moved = deadline.changed() => {
                if moved.is_err() {
                    // Nobody can move it any more.
                    tokio::time::sleep_until(until).await;
                }
            }
        }
    }
}

/// A short pause between tries to reach the store.
pub(super) fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(Duration::from_secs(1))
}

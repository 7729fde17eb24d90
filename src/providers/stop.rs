//! One signal, with its reason, from the engine to a running attempt.

use tokio::sync::watch;

/// Why an attempt is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A client cancelled the execution.
    Cancelled,
    /// `run_timeout` passed.
    TimedOut,
    /// The lease is lost or about to end: stop at once, no grace.
    LeaseLost,
    /// The worker shuts down and hands the execution back.
    ShuttingDown,
}

/// What was asked of the attempt so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    reason: Option<StopReason>,
    /// Whether the worker is shutting down, so that there is little time left whatever the reason.
    hurry: bool,
}

/// The engine's end: asks for the stop. The first reason stands, except that a lost lease
/// overrides it.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<Asked>);

/// The attempt's end: hears of it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Asked>);

/// The two ends of a fresh signal.
pub fn stop_pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Asked::default());
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks for the stop.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|asked| {
            let before = *asked;
            if asked.reason.is_none() || reason == StopReason::LeaseLost {
                asked.reason = Some(reason);
            }
            asked.hurry |= reason == StopReason::ShuttingDown;
            *asked != before
        });
    }
}

impl Stop {
    /// The reason, if a stop was asked for.
    pub fn reason(&self) -> Option<StopReason> {
        self.0.borrow().reason
    }

    /// Whether a stop was asked for and has to be a quick one.
    pub fn hurry(&self) -> bool {
        self.0.borrow().hurry
    }

    /// Waits until a stop is asked for. Waits for ever if the engine's end is gone without a word.
    pub async fn requested(&mut self) -> StopReason {
        match self.0.wait_for(|asked| asked.reason.is_some()).await.map(|asked| asked.reason) {
            Ok(Some(reason)) => reason,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until more is asked than what has been seen.
    pub async fn more(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the reason is something other than `seen`.
    pub async fn changed_from(&mut self, seen: StopReason) -> StopReason {
        let other = |asked: &Asked| asked.reason.is_some_and(|reason| reason != seen);
        match self.0.wait_for(other).await.map(|asked| asked.reason) {
            Ok(Some(reason)) => reason,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands_unless_the_lease_is_lost() {
        let (stopper, stop) = stop_pair();
        stopper.stop(StopReason::Cancelled);
        stopper.stop(StopReason::TimedOut);
        assert_eq!((stop.reason(), stop.hurry()), (Some(StopReason::Cancelled), false));
        stopper.stop(StopReason::ShuttingDown);
        assert_eq!((stop.reason(), stop.hurry()), (Some(StopReason::Cancelled), true));
        stopper.stop(StopReason::LeaseLost);
        assert_eq!(stop.reason(), Some(StopReason::LeaseLost));
    }
}

//! Whether the dispatcher turns: it notes every turn that went well, and twice a second while it waits.
//!
//! What must stay true: a turn that hangs, and turns that fail, are silence; so is a loop that nobody
//! runs. One that has nothing to do is not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;

/// How often it is noted while the dispatcher waits.
const BEAT: Duration = Duration::from_millis(500);

/// When the dispatcher was last known to turn.
#[derive(Debug)]
pub(super) struct Beats {
    born: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
    /// Since a turn failed, none has looked at everything.
    failing: AtomicBool,
    /// A turn is under way.
    turning: AtomicBool,
}

/// How the dispatcher fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherState {
    /// How long ago it was last known to turn: about half a second at most if all is well.
    pub silence: Duration,
    /// Whether it waits for the store, and the turn before did not fail.
    pub waits_for_store: bool,
}

impl Default for Beats {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            last: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            turning: AtomicBool::new(false),
        }
    }
}

impl Beats {
    /// A turn begins.
    pub(super) fn turns(&self) {
        self.turning.store(true, Ordering::Relaxed);
    }

    /// A turn went well. Only one that looked at everything says that the store can be used again: others
    /// may not have asked it anything.
    pub(super) fn turned(&self, looked: bool) {
        self.turning.store(false, Ordering::Relaxed);
        if looked {
            self.failing.store(false, Ordering::Relaxed);
        }
        self.beat(Instant::now());
    }

    /// A turn failed.
    pub(super) fn failed(&self) {
        self.turning.store(false, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
    }

    /// To be waited for beside everything that the dispatcher waits for. Never ends.
    pub(super) async fn while_waiting(&self) {
        loop {
            self.beat(Instant::now());
            tokio::time::sleep(BEAT).await;
        }
    }

    fn beat(&self, now: Instant) {
        if !self.failing.load(Ordering::Relaxed) {
            let age = now.saturating_duration_since(self.born).as_millis();
            self.last.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn silence(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born).saturating_sub(last)
    }
}

impl Engine {
    /// How the dispatcher fares.
    pub fn dispatcher(&self) -> DispatcherState {
        let beats = &self.0.beats;
        let (turning, failing) = (&beats.turning, &beats.failing);
        DispatcherState {
            silence: beats.silence(Instant::now()),
            waits_for_store: turning.load(Ordering::Relaxed) && !failing.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(60);

    #[test]
    fn a_dispatcher_is_silent_since_its_last_beat() {
        let beats = Beats::default();
        let later = beats.born + LATER;
        assert_eq!(beats.silence(later), LATER);
        beats.beat(later);
        assert_eq!(beats.silence(later + BEAT), BEAT);
    }

    #[test]
    fn turns_that_fail_are_silence_until_one_has_looked_at_everything() {
        let beats = Beats::default();
        let later = beats.born + LATER;
        beats.failed();
        beats.beat(later);
        assert_eq!(beats.silence(later), LATER, "it only waits for the next try");
        beats.turned(false);
        beats.beat(later);
        assert_eq!(beats.silence(later), LATER, "it may not have asked the store anything");
        beats.turned(true);
        beats.beat(later);
        assert_eq!(beats.silence(later), Duration::ZERO);
    }
}

//! Whether the dispatcher turns: it notes every turn that went well, and twice a second while it waits.
//!
//! What must stay true: a turn that hangs, and turns that fail, are silence; so is a loop that nobody
//! runs. One that has nothing to do is not. What waits for a writer is told from what hangs elsewhere in a turn.

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
    /// It waits for a writer of the store.
    writing: AtomicBool,
}

/// How the dispatcher fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherState {
    /// How long ago it was last known to turn: about half a second at most if all is well.
    pub silence: Duration,
    /// Whether it waits for a writer of the store, and the turn before did not fail.
    pub waits_for_writer: bool,
}

impl Default for Beats {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            last: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            writing: AtomicBool::new(false),
        }
    }
}

impl Beats {
    /// Does what needs a writer of the store. Nothing else that a turn waits for is behind others.
    pub(super) async fn while_writing<T>(&self, write: impl Future<Output = T>) -> T {
        let _writing = Writing::begin(&self.writing);
        write.await
    }

    /// A turn went well. Only one that looked at everything says that the store can be used again: others
    /// may not have asked it anything.
    pub(super) fn turned(&self, looked: bool) {
        if looked {
            self.failing.store(false, Ordering::Relaxed);
        }
        self.beat(Instant::now());
    }

    /// A turn failed.
    pub(super) fn failed(&self) {
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

    fn state(&self, now: Instant) -> DispatcherState {
        let (writing, failing) = (&self.writing, &self.failing);
        DispatcherState {
            silence: self.silence(now),
            waits_for_writer: writing.load(Ordering::Relaxed) && !failing.load(Ordering::Relaxed),
        }
    }
}

/// Says that there is a write until it is dropped: also with a turn that panics.
struct Writing<'a>(&'a AtomicBool);

impl<'a> Writing<'a> {
    fn begin(writing: &'a AtomicBool) -> Self {
        writing.store(true, Ordering::Relaxed);
        Self(writing)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Engine {
    /// How the dispatcher fares.
    pub fn dispatcher(&self) -> DispatcherState {
        self.0.beats.state(Instant::now())
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

    #[tokio::test]
    async fn it_waits_for_a_writer_only_while_it_writes_and_unless_it_fails() {
        let beats = Beats::default();
        let waits = || beats.state(beats.born).waits_for_writer;
        assert!(!waits());
        beats.while_writing(async { assert!(waits()) }).await;
        assert!(!waits(), "what follows in the turn are reads");
        let mut given_up = Box::pin(beats.while_writing(std::future::pending::<()>()));
        assert!(futures_util::poll!(&mut given_up).is_pending() && waits());
        drop(given_up);
        assert!(!waits());
        beats.failed();
        beats.while_writing(async { assert!(!waits(), "then it waits for no good") }).await;
    }
}

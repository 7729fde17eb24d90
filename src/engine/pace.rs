//! The pace of this worker: how fast attempts end lately, and how long work waited.
//!
//! What must stay true: it is a function of the counts and times that it is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Tally;

/// What is measured over less than this says little.
const SHORTEST: Duration = Duration::from_secs(1);

/// Turns counts into a pace.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    then: Tally,
    throughput: f64,
    mean_wait: Duration,
}

impl Pace {
    pub(super) fn from(now: Instant, tally: Tally) -> Self {
        Self { since: now, then: tally, throughput: 0.0, mean_wait: Duration::ZERO }
    }

    /// Takes note of the counts as they stand.
    pub(super) fn note(&mut self, now: Instant, tally: Tally) {
        let passed = now.saturating_duration_since(self.since);
        if passed < SHORTEST {
            return;
        }
        let ended = tally.ended.saturating_sub(self.then.ended);
        let started = tally.started.saturating_sub(self.then.started);
        let waited = tally.waited.saturating_sub(self.then.waited);
        self.throughput = f64::from(clamped(ended)) / passed.as_secs_f64();
        self.mean_wait = waited.checked_div(clamped(started)).unwrap_or_default();
        (self.since, self.then) = (now, tally);
    }

    /// Attempts that ended, a second.
    pub(super) fn throughput(&self) -> f64 {
        self.throughput
    }

    /// How long what was claimed had been due, on average; nothing if nothing was claimed.
    pub(super) fn mean_wait(&self) -> Duration {
        self.mean_wait
    }
}

fn clamped(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_since_the_last_look_and_a_short_while_says_nothing() {
        let start = Instant::now();
        let tally = |started, ended, waited| Tally {
            started,
            ended,
            waited: Duration::from_millis(waited),
        };
        let mut pace = Pace::from(start, tally(5, 5, 900));
        pace.note(start + SHORTEST / 2, tally(15, 15, 900));
        assert_eq!((pace.throughput(), pace.mean_wait()), (0.0, Duration::ZERO));
        pace.note(start + 2 * SHORTEST, tally(15, 25, 1_000));
        assert_eq!((pace.throughput(), pace.mean_wait()), (10.0, Duration::from_millis(10)));
        pace.note(start + 3 * SHORTEST, tally(15, 25, 1_000));
        assert_eq!((pace.throughput(), pace.mean_wait()), (0.0, Duration::ZERO));
    }
}

//! Whether the writers get anything done: a queue that is long moves, a transaction that hangs does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;

/// Since when each writer has been at work without committing.
#[derive(Debug)]
pub(super) struct Stalls {
    born: Instant,
    /// Milliseconds after that, from 1; 0 of one that has nothing to do.
    since: [AtomicU64; 3],
}

impl Default for Stalls {
    fn default() -> Self {
        Self { born: Instant::now(), since: Default::default() }
    }
}

impl Stalls {
    /// A writer begins to work, or has committed and goes on.
    pub(super) fn moves(&self, lane: Lane, now: Instant) {
        let age = now.saturating_duration_since(self.born).as_millis();
        let age = u64::try_from(age).unwrap_or(u64::MAX).saturating_add(1);
        self.of(lane).store(age, Ordering::Relaxed);
    }

    /// A writer has answered all that it took.
    pub(super) fn rests(&self, lane: Lane) {
        self.of(lane).store(0, Ordering::Relaxed);
    }

    /// How long the one that has been at it longest has got nothing done; `None` if all rest.
    pub(super) fn longest(&self, now: Instant) -> Option<Duration> {
        let since = self.since.iter().map(|since| since.load(Ordering::Relaxed));
        let oldest = since.filter(|since| *since > 0).min()?;
        let age = now.saturating_duration_since(self.born);
        Some(age.saturating_sub(Duration::from_millis(oldest - 1)))
    }

    fn of(&self, lane: Lane) -> &AtomicU64 {
        match lane {
            Lane::Leases => &self.since[0],
            Lane::Changes => &self.since[1],
            Lane::Claims => &self.since[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_stalls_from_what_it_did_last_until_it_commits_or_rests() {
        let stalls = Stalls::default();
        let at = |seconds| stalls.born + Duration::from_secs(seconds);
        assert_eq!(stalls.longest(at(9)), None);
        stalls.moves(Lane::Changes, at(10));
        stalls.moves(Lane::Claims, at(12));
        assert_eq!(stalls.longest(at(15)), Some(Duration::from_secs(5)));
        stalls.moves(Lane::Changes, at(15));
        assert_eq!(stalls.longest(at(16)), Some(Duration::from_secs(4)), "the other's");
        stalls.rests(Lane::Claims);
        assert_eq!(stalls.longest(at(16)), Some(Duration::from_secs(1)));
    }
}

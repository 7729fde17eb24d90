//! The last minute by the second, and the last day by the minute.
//!
//! What must stay true: it is a function of the samples that it is handed. What was counted within a
//! window is the difference of two samples, so a second without one loses nothing.

use std::collections::VecDeque;
use std::time::Duration;

use super::timing::Distribution;
use crate::domain::Timestamp;

/// Minutes that are kept: a day.
const MINUTES: usize = 24 * 60;

const MINUTE_MICROS: i64 = 60_000_000;

/// The instruments at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// What was counted up to then.
    pub counts: Counts,
    /// Executions that are ready and wait, in the whole store, as it was last looked at.
    pub queue_depth: u64,
    /// Attempts that run here.
    pub active: u64,
    /// Slots there are here.
    pub slots: u64,
}

/// What a worker has counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Executions stored anew.
    pub submitted: u64,
    /// Executions that succeeded.
    pub succeeded: u64,
    /// Executions that failed.
    pub failed: u64,
    /// Executions that were cancelled.
    pub cancelled: u64,
    /// Attempts started, by how long they had been due.
    pub waits: Distribution,
    /// Attempts that ended, by how long they ran.
    pub runs: Distribution,
}

impl Counts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            submitted: self.submitted.saturating_sub(earlier.submitted),
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            waits: self.waits.since(&earlier.waits),
            runs: self.runs.since(&earlier.runs),
        }
    }

    /// Executions that ended.
    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled
    }

    /// The share of what succeeded or failed that failed; 0 if nothing did either.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn error_ratio(&self) -> f64 {
        match self.succeeded + self.failed {
            0 => 0.0,
            all => self.failed as f64 / all as f64,
        }
    }
}

/// What happened between two samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// From when.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// What was counted.
    pub counts: Counts,
    /// How many executions waited, on average and at most.
    pub queue_depth: Level,
    /// How many attempts ran here, on average and at most.
    pub active: Level,
    /// How many slots there were here, on average and at most.
    pub slots: Level,
}

/// Something that goes up and down, over a while.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Level {
    /// On average.
    pub mean: f64,
    /// At most.
    pub max: u64,
}

impl Level {
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let (mut count, mut sum) = (0.0, 0.0);
        values.clone().for_each(|value| {
            count += 1.0;
            sum += value as f64;
        });
        let mean = if count > 0.0 { sum / count } else { 0.0 };
        Self { mean, max: values.max().unwrap_or(0) }
    }
}

impl Window {
    /// Executions ended a second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn throughput(&self) -> f64 {
        let seconds = self.end.since(self.start).as_secs_f64();
        if seconds > 0.0 { self.counts.ended() as f64 / seconds } else { 0.0 }
    }

    /// The share of slots in use.
    pub fn utilisation(&self) -> f64 {
        if self.slots.mean > 0.0 { self.active.mean / self.slots.mean } else { 0.0 }
    }
}

/// Samples of the last minute, and windows of the last day.
#[derive(Debug, Default)]
pub(super) struct History {
    seconds: VecDeque<(Timestamp, Sample)>,
    minutes: VecDeque<Window>,
}

impl History {
    /// Takes the sample of this second. A clock that was set back begins anew: no window spans the
    /// step, and nothing is kept of a time that is still to come.
    pub(super) fn take(&mut self, now: Timestamp, sample: Sample) {
        if self.seconds.back().is_some_and(|(last, _)| *last >= now) {
            self.seconds.clear();
            self.minutes.retain(|window| window.end <= now);
        }
        let begins_minute =
            self.seconds.back().is_some_and(|(last, _)| minute(*last) != minute(now));
        self.seconds.push_back((now, sample));
        if begins_minute {
            let start = self.minutes.back().map_or(Timestamp::from_micros(0), |window| window.end);
            if let Some(window) = self.window(start) {
                self.minutes.push_back(window);
            }
            while self.minutes.len() > MINUTES {
                self.minutes.pop_front();
            }
        }
        let minute_began = self.minutes.back().map_or(now, |window| window.end);
        let needed = minute_began.min(a_minute_before(now));
        while self.seconds.get(1).is_some_and(|(at, _)| *at <= needed) {
            self.seconds.pop_front();
        }
    }

    /// The last sixty seconds, or what there is of them.
    pub(super) fn last_minute(&self) -> Option<Window> {
        let (now, _) = self.seconds.back()?;
        self.window(a_minute_before(*now))
    }

    /// The minutes that ended after `since`, oldest first.
    pub(super) fn minutes(&self, since: Timestamp) -> Vec<Window> {
        self.minutes.iter().filter(|window| window.end > since).cloned().collect()
    }

    /// From the oldest sample at or after `start` to the newest.
    fn window(&self, start: Timestamp) -> Option<Window> {
        let mut samples = self.seconds.iter().filter(|(at, _)| *at >= start);
        let (first_at, first) = samples.next()?;
        let (end, last) = self.seconds.back()?;
        if first_at == end {
            return None;
        }
        let within = samples.map(|(_, sample)| sample);
        Some(Window {
            start: *first_at,
            end: *end,
            counts: last.counts.since(&first.counts),
            queue_depth: Level::of(within.clone().map(|sample| sample.queue_depth)),
            active: Level::of(within.clone().map(|sample| sample.active)),
            slots: Level::of(within.map(|sample| sample.slots)),
        })
    }
}

fn a_minute_before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros().saturating_sub(MINUTE_MICROS))
}

fn minute(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MINUTE_MICROS)
}

/// How long minutes are kept.
pub const KEPT: Duration = Duration::from_secs(60 * MINUTES as u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn sample(ended: u64, depth: u64) -> Sample {
        let counts = Counts { succeeded: ended, ..Counts::default() };
        Sample { counts, queue_depth: depth, active: 1, slots: 4 }
    }

    #[test]
    fn the_last_minute_slides_with_every_second() {
        let mut history = History::default();
        assert_eq!(history.last_minute(), None);
        history.take(at(0), sample(100, 0));
        assert_eq!(history.last_minute(), None, "one sample says nothing");
        for second in 1..=90 {
            history.take(at(second), sample(100 + u64::try_from(second).unwrap() * 2, 5));
        }
        let window = history.last_minute().unwrap();
        assert_eq!((window.start, window.end), (at(30), at(90)));
        assert_eq!((window.counts.ended(), window.throughput()), (120, 2.0));
        assert_eq!((window.queue_depth, window.utilisation()), (Level { mean: 5.0, max: 5 }, 0.25));
    }

    #[test]
    fn minutes_follow_the_clock_and_lose_nothing_between_them() {
        let mut history = History::default();
        let mut ended = 0;
        // Seconds are left out now and then, also around the full minute.
        for second in (30..400).filter(|second| second % 7 != 3 && *second != 120) {
            ended += 3;
            history.take(at(second), sample(ended, 1));
        }
        let minutes = history.minutes(at(0));
        let ends: Vec<_> = minutes.iter().map(|window| minute(window.end)).collect();
        assert_eq!(ends, [1, 2, 3, 4, 5, 6]);
        for pair in minutes.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        let counted: u64 = minutes.iter().map(|window| window.counts.ended()).sum();
        let last = minutes.last().unwrap().end;
        let until = (30..400).filter(|s| s % 7 != 3 && *s != 120 && at(*s) <= last).count();
        assert_eq!(counted, 3 * (u64::try_from(until).unwrap() - 1));
        assert_eq!(history.minutes(minutes[3].end).len(), 2);
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let mut history = History::default();
        for step in 0..(MINUTES + 50) * 2 {
            history.take(at(i64::try_from(step).unwrap() * 30), sample(0, 0));
        }
        assert_eq!(history.minutes(at(0)).len(), MINUTES);
        assert!(history.seconds.len() <= 4);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut history = History::default();
        for (second, ended) in [(50, 1), (70, 2), (100, 4), (130, 9)] {
            history.take(at(second), sample(ended, 0));
        }
        history.take(at(90), sample(11, 0));
        assert_eq!(history.last_minute(), None);
        history.take(at(91), sample(14, 0));
        assert_eq!(history.last_minute().unwrap().counts.ended(), 3);
        let ends: Vec<_> = history.minutes(at(0)).iter().map(|window| window.end).collect();
        assert_eq!(ends, [at(70)]);
        history.take(at(121), sample(15, 0));
        let minutes = history.minutes(at(0));
        assert_eq!((minutes[1].start, minutes[1].end), (at(90), at(121)));
    }
}

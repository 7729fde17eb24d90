//! A limit that finds by itself how much a provider takes: additive increase, multiplicative decrease.
//!
//! What must stay true: the limit never leaves the operator's bounds; several answers of one
//! congestion lower it once; between two steps up there is a pause, and a round of answers; and what
//! was found too much is tried again only after a time in proportion to what finding out costs.
//!
//! That last one is why there is a *ceiling*. A rate limit closes the provider's gate for everyone, so
//! it costs the stated wait, the time of a probe, and the climb back. A controller that kept on
//! climbing into it would pay that every few seconds. So the lowest limit found too much is
//! remembered, the limit returns quickly to just below it, and stays there for a while.

mod observation;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

pub use observation::{AdaptiveBounds, Observation, Quota, Step, StepReason};

/// The least time between two steps up below the ceiling. What is below it held a moment ago.
const RETURN_PAUSE: Duration = Duration::from_millis(250);
/// The least time between two steps up where nothing is known: long enough for the answer that tells
/// of one too many to arrive before the next.
const CLIMB_PAUSE: Duration = Duration::from_millis(500);
/// How long the limit stays just below the ceiling for each attempt that it admits, within the two
/// that follow: one more is worth the less the more there are, and a trial that fails costs the more.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);
const SHORTEST_TRIAL_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_TRIAL_PAUSE: Duration = Duration::from_secs(15);
/// It stays there for at least so many times as long as the way back took last time: the gate, its
/// probe and the climb, of which about half is lost, so that trials cost less than a tenth.
const TRIAL_PATIENCE: u32 = 6;
/// The most that comes to, for providers that ask to be left alone for minutes.
const MOST_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// The least time between two small steps down towards a quota that runs out.
const QUOTA_PAUSE: Duration = Duration::from_millis(250);

/// A limit in the making, kept with its provider.
///
/// A step up is by one, and by one more after every second step up in a row, so that the way from a
/// small limit to a large one is short; a step down is to seven tenths where the provider turned an
/// attempt away, to nine tenths where attempts take too long, and to what is left of a quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adaptive {
    limit: u32,
    /// The lowest limit that was found too much and not disproved since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ceiling: Option<u32>,
    /// Steps up in a row.
    #[serde(default)]
    climbed: u32,
    /// Answers since the limit last changed.
    #[serde(default)]
    answers: u32,
    /// When the limit last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stepped_at: Option<Timestamp>,
    /// When the ceiling was last found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lowered_at: Option<Timestamp>,
    /// When a round of answers was complete just below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered_at: Option<Timestamp>,
    #[serde(default)]
    round: Round,
    /// What the provider said it takes, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
}

/// The times of as many attempts as the limit admits, none of which began before it was so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    timed: u32,
    spent: Duration,
    /// The mean of the newest complete one at this limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean: Option<Duration>,
}

impl Adaptive {
    /// A limit to begin with, of which nothing is known.
    pub fn new(start: u32) -> Self {
        Self {
            limit: start.max(1),
            ceiling: None,
            climbed: 0,
            answers: 0,
            stepped_at: None,
            lowered_at: None,
            recovered_at: None,
            round: Round::default(),
            remaining: None,
        }
    }

    /// How many attempts may run at the same time.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The same within these bounds.
    pub fn clamped(mut self, bounds: &AdaptiveBounds) -> Self {
        self.limit = bounds.nearest(self.limit);
        self
    }

    /// Takes in what a worker saw. Lowers the limit where that says so.
    pub fn hear(
        &mut self,
        bounds: &AdaptiveBounds,
        seen: &Observation,
        now: Timestamp,
    ) -> Option<Step> {
        let kept = self.keep_within(bounds, now);
        self.count(seen);
        if let Some(ceiling) = self.ceiling
            && self.limit >= ceiling.saturating_sub(1)
            && self.answers >= self.limit
        {
            self.recovered_at.get_or_insert(now);
        }
        let lowered = self
            .heed_refusal(bounds, seen, now)
            .or_else(|| self.heed_latency(bounds, now))
            .or_else(|| self.heed_quota(bounds, now));
        // One call is one step, whatever it is made of.
        match (kept, lowered) {
            (Some(kept), Some(lowered)) => Some(Step { from: kept.from, ..lowered }),
            (kept, lowered) => lowered.or(kept),
        }
    }

    /// Whether the limit may be higher, seen from a claim that holds the provider's lock while its gate
    /// is open: `running` counts what that claim takes, `ready_left` says whether it leaves work that
    /// could start at once.
    pub fn look(
        &mut self,
        bounds: &AdaptiveBounds,
        running: u32,
        ready_left: bool,
        now: Timestamp,
    ) -> Option<Step> {
        if let Some(step) = self.keep_within(bounds, now) {
            return Some(step);
        }
        // Only where the limit is what binds do answers say anything of it.
        let binds = running >= self.limit && ready_left;
        if !binds || self.answers < self.limit || !self.is_fast(bounds) {
            return None;
        }
        // Held for a round, the ceiling is none any more.
        let ceiling = self.ceiling.filter(|ceiling| *ceiling > self.limit);
        let stride = 1 + self.climbed / 2;
        let (room, climbed) = (StepReason::Room { answers: self.answers }, self.climbed + 1);
        let further = self.limit.saturating_add(stride);
        let (to, since, pause, reason, climbed) = match ceiling {
            None => (further, self.stepped_at, CLIMB_PAUSE, room, climbed),
            Some(ceiling) if self.limit < ceiling - 1 => {
                (further.min(ceiling - 1), self.stepped_at, RETURN_PAUSE, room, climbed)
            }
            Some(ceiling) => {
                let since = Some(self.recovered_at?);
                (ceiling, since, self.trial_pause(), StepReason::Trial { ceiling }, 0)
            }
        };
        let to = bounds.nearest(to).min(self.affordable());
        if to <= self.limit || since.is_some_and(|since| now < since + pause) {
            return None;
        }
        (self.ceiling, self.climbed) = (ceiling, climbed);
        self.step(to, reason, now)
    }

    /// Whether attempts at this limit are known to take no longer than they should.
    fn is_fast(&self, bounds: &AdaptiveBounds) -> bool {
        bounds.target_latency.is_none_or(|target| match self.round.mean {
            Some(mean) => mean <= target,
            // Nobody tells how long they take.
            None => self.round.timed == 0 && self.answers >= self.limit.saturating_mul(2),
        })
    }

    /// How long the limit stays just below the ceiling.
    fn trial_pause(&self) -> Duration {
        let way_back = match (self.lowered_at, self.recovered_at) {
            (Some(lowered), Some(recovered)) => recovered.since(lowered),
            _ => Duration::ZERO,
        };
        let patience = way_back.saturating_mul(TRIAL_PATIENCE).min(MOST_PATIENCE);
        let pause = TRIAL_PAUSE.saturating_mul(self.limit);
        pause.clamp(SHORTEST_TRIAL_PAUSE, LONGEST_TRIAL_PAUSE).max(patience)
    }

    /// The most that what is left of the quota pays for.
    fn affordable(&self) -> u32 {
        self.remaining.map_or(u32::MAX, |remaining| u32::try_from(remaining).unwrap_or(u32::MAX))
    }

    fn keep_within(&mut self, bounds: &AdaptiveBounds, now: Timestamp) -> Option<Step> {
        self.step(bounds.nearest(self.limit), StepReason::Bounds, now)
    }

    fn count(&mut self, seen: &Observation) {
        // Those of the first round began under the limit of before.
        let began_under_it = self.answers >= self.limit;
        self.answers = self.answers.saturating_add(seen.completed);
        if seen.completed > 0 || seen.quota.is_some() {
            self.remaining = seen.quota.map(|quota| quota.remaining);
        }
        if let Some(mean) = seen.mean_latency.filter(|_| began_under_it) {
            let round = &mut self.round;
            round.timed = round.timed.saturating_add(seen.completed);
            round.spent = round.spent.saturating_add(mean.saturating_mul(seen.completed));
            if round.timed >= self.limit {
                let mean = Some(round.spent / round.timed.max(1));
                *round = Round { mean, ..Round::default() };
            }
        }
    }

    fn heed_refusal(
        &mut self,
        bounds: &AdaptiveBounds,
        seen: &Observation,
        now: Timestamp,
    ) -> Option<Step> {
        let claimed_at = seen.rate_limited?;
        // Claimed under the limit of before, it says what is known already.
        if self.lowered_at.is_some_and(|lowered_at| claimed_at <= lowered_at) {
            return None;
        }
        self.lower(bounds, seven_tenths(self.limit), StepReason::RateLimited, now)
    }

    fn heed_latency(&mut self, bounds: &AdaptiveBounds, now: Timestamp) -> Option<Step> {
        let target = bounds.target_latency?;
        let mean = self.round.mean.filter(|mean| *mean > target)?;
        let to = self.limit - self.limit.div_ceil(10);
        self.lower(bounds, to, StepReason::Latency { mean, target }, now)
    }

    fn heed_quota(&mut self, bounds: &AdaptiveBounds, now: Timestamp) -> Option<Step> {
        let remaining = self.remaining?;
        let to = bounds.nearest(self.affordable());
        // A quota that runs out says so with every answer: not each is a step of its own.
        let early = self.stepped_at.is_some_and(|at| now < at + QUOTA_PAUSE);
        if to >= self.limit || (early && to > self.limit / 2) {
            return None;
        }
        self.climbed = 0;
        // It says nothing of how many at the same time are too many.
        self.step(to, StepReason::Quota { remaining }, now)
    }

    /// The limit as it is was found too much.
    fn lower(
        &mut self,
        bounds: &AdaptiveBounds,
        to: u32,
        reason: StepReason,
        now: Timestamp,
    ) -> Option<Step> {
        let to = bounds.nearest(to.min(self.limit.saturating_sub(1)));
        // Where it cannot be lower, what is there is at least not to be more.
        self.ceiling = Some(self.limit.max(to.saturating_add(1)));
        self.climbed = 0;
        self.answers = 0;
        self.round = Round::default();
        self.lowered_at = Some(now);
        self.recovered_at = None;
        self.step(to, reason, now)
    }

    fn step(&mut self, to: u32, reason: StepReason, now: Timestamp) -> Option<Step> {
        let from = std::mem::replace(&mut self.limit, to);
        if from == to {
            return None;
        }
        self.answers = 0;
        self.round = Round::default();
        self.stepped_at = Some(now);
        Some(Step { from, to, reason })
    }
}

/// Rounded up: what two more rounds of answers can bring back is not given away.
fn seven_tenths(limit: u32) -> u32 {
    limit - (limit / 10 * 3 + limit % 10 * 3 / 10)
}

//! A bound on how much of a provider's work is retries, so that an outage is not made worse by them.
//!
//! What must stay true: of any 60 s, the retries that found room are no more than the budget allows
//! for the first attempts of the 60 s before the last of them.

use super::Timestamp;

/// How many retries of a provider find room within 60 s: `least`, and `share` of the first attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Retries for each first attempt.
    pub share: f64,
    /// Retries that find room however few first attempts there are.
    pub least: u32,
}

/// What happened within the last minute, as far as a budget goes by it.
#[derive(Debug, Clone)]
pub struct RetryMeter {
    /// By second, in a ring.
    firsts: [u32; SECONDS],
    retries: [u32; SECONDS],
    /// The second that was counted in last.
    newest: i64,
}

/// One more than a minute has: a second that lies only partly within it counts whole for retries and
/// not at all for first attempts, which can only make the budget tighter.
const SECONDS: usize = 61;

impl Default for RetryMeter {
    fn default() -> Self {
        Self { firsts: [0; SECONDS], retries: [0; SECONDS], newest: i64::MIN }
    }
}

impl RetryMeter {
    /// Counts a first attempt.
    pub fn first(&mut self, now: Timestamp) {
        self.turn_to(now);
        let count = &mut self.firsts[slot(self.newest)];
        *count = count.saturating_add(1);
    }

    /// Whether a retry finds room, which it then takes.
    pub fn take(&mut self, budget: RetryBudget, now: Timestamp) -> bool {
        self.turn_to(now);
        let oldest = slot(self.newest.saturating_add(1));
        let all = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
        let firsts = all(&self.firsts) - f64::from(self.firsts[oldest]);
        let allowed = f64::from(budget.least) + budget.share * firsts;
        if all(&self.retries) + 1.0 > allowed {
            return false;
        }
        self.retries[slot(self.newest)] += 1;
        true
    }

    /// Forgets what is too old. A clock that goes back does not bring anything back.
    fn turn_to(&mut self, now: Timestamp) {
        let second = now.as_micros().div_euclid(1_000_000);
        let passed = second.saturating_sub(self.newest).clamp(0, 61);
        for step in 0..passed {
            let slot = slot(second.saturating_sub(step));
            self.firsts[slot] = 0;
            self.retries[slot] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

fn slot(second: i64) -> usize {
    usize::try_from(second.rem_euclid(61)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE_US: i64 = 60_000_000;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(1_790_000_000_000_000 + micros)
    }

    /// How many of `times` lie within the 60 s that end at `now`.
    fn lately(times: &[i64], now: i64) -> f64 {
        let within = times.iter().filter(|at| (now - MINUTE_US + 1..=now).contains(*at));
        within.map(|_| 1.0).sum()
    }

    fn config() -> ProptestConfig {
        ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn no_60_s_hold_more_retries_than_the_budget_allows(
            share in prop_oneof![Just(0.0), 0.0f64..2.0],
            least in 0u32..5,
            // Mostly close together, at times far apart.
            events in prop::collection::vec(
                (prop_oneof![4 => 0i64..3_000_000, 1 => 0i64..100_000_000], any::<bool>()), 0..200,
            ),
        ) {
            let (mut meter, mut now) = (RetryMeter::default(), 0);
            let (mut firsts, mut retries) = (Vec::new(), Vec::new());
            for (pause, retry) in events {
                now += pause;
                if !retry {
                    meter.first(at(now));
                    firsts.push(now);
                } else if meter.take(RetryBudget { share, least }, at(now)) {
                    retries.push(now);
                    let allowed = f64::from(least) + share * lately(&firsts, now);
                    prop_assert!(lately(&retries, now) <= allowed);
                }
            }
        }
    }

    #[test]
    fn retries_find_room_by_the_share_of_first_attempts_and_the_least() {
        let budget = RetryBudget { share: 0.2, least: 1 };
        let mut meter = RetryMeter::default();
        for _ in 0..10 {
            meter.first(at(0));
        }
        let taken = (0..5).filter(|_| meter.take(budget, at(1_000))).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn room_comes_back_when_a_minute_has_passed() {
        let budget = RetryBudget { share: 0.0, least: 1 };
        let mut meter = RetryMeter::default();
        assert!(meter.take(budget, at(0)));
        assert!(!meter.take(budget, at(59_999_999)));
        assert!(meter.take(budget, at(61_000_000)));
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_room() {
        let budget = RetryBudget { share: 0.0, least: 1 };
        let mut meter = RetryMeter::default();
        assert!(meter.take(budget, at(100 * MINUTE_US)));
        assert!(!meter.take(budget, at(0)));
    }
}

//! Budgets of requests and tokens by the minute.
//!
//! What must stay true: at the moment an attempt begins, what began in the minute before it, itself
//! included, is within the budget, in every window of 60 s wherever one starts it. Seconds are
//! counted as a whole, so what began is forgotten up to a second later than it might be, and never
//! earlier.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Rates, Timestamp, Usage};

/// The seconds that a window is long, and one that is not over yet.
const SECONDS: i64 = 61;
const MICROS: i64 = 1_000_000;
/// How far ahead of the clock what began may lie: replicas' transactions overlap a little.
const FUTURE: i64 = 5;

/// What an execution is expected to take of its provider's budgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Which model is to do the work, where the input names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens that it may read.
    pub input_tokens: u64,
    /// Tokens that it may write.
    pub output_tokens: u64,
}

/// What an attempt took of the budgets when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// When.
    pub at: Timestamp,
    /// The second that it counts in: that of `at`, or a later one where the clock was set back.
    #[serde(default)]
    pub second: i64,
    /// Of which model's budget besides the provider's, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens that it may read.
    pub input_tokens: u64,
    /// Tokens that it may write.
    pub output_tokens: u64,
}

/// What began of late, by the second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Window {
    seconds: VecDeque<Second>,
}

/// What began within one second: which one, requests, tokens in, tokens out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Second(i64, u64, u64, u64);

impl Second {
    /// When it no longer counts.
    const fn over_at(self) -> Timestamp {
        Timestamp::from_micros((self.0 + SECONDS) * MICROS)
    }
}

impl Rates {
    /// What of a demand is counted: never more than the whole budget, so that what asks for more
    /// than that begins once nothing else did for a minute.
    pub fn counted(&self, tokens: (u64, u64)) -> (u64, u64) {
        let within =
            |tokens: u64, bound: Option<u64>| bound.map_or(tokens, |most| tokens.min(most));
        (
            within(tokens.0, self.input_tokens_per_minute),
            within(tokens.1, self.output_tokens_per_minute),
        )
    }
}

impl Window {
    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Requests, tokens in and tokens out that count now.
    pub fn spent(&self, now: Timestamp) -> (u64, u64, u64) {
        let counts = self.seconds.iter().filter(|second| second.over_at() > now);
        counts.fold((0, 0, 0), |sum, second| add(sum, *second))
    }

    /// Whether one more attempt with these tokens may begin; if not, when it may at the earliest.
    pub fn admits(
        &self,
        rates: &Rates,
        tokens: (u64, u64),
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        if rates.is_empty() {
            return Ok(());
        }
        let fits = |spent: (u64, u64, u64)| {
            let within = |spent: u64, more: u64, bound: Option<u64>| {
                bound.is_none_or(|most| spent.saturating_add(more) <= most)
            };
            within(spent.0, 1, rates.requests_per_minute)
                && within(spent.1, tokens.0, rates.input_tokens_per_minute)
                && within(spent.2, tokens.1, rates.output_tokens_per_minute)
        };
        let mut spent = self.spent(now);
        if fits(spent) {
            return Ok(());
        }
        for second in self.seconds.iter().filter(|second| second.over_at() > now) {
            spent = (
                spent.0.saturating_sub(second.1),
                spent.1.saturating_sub(second.2),
                spent.2.saturating_sub(second.3),
            );
            if fits(spent) {
                return Err(second.over_at());
            }
        }
        // A budget that admits nothing at all; there is none such.
        Err(Timestamp::from_micros(now.as_micros() + SECONDS * MICROS))
    }

    /// Forgets what no longer counts. What a clock that was set back makes lie in the future counts
    /// from now, or it would for as long as the clock was set back.
    pub fn tidy(&mut self, now: Timestamp) {
        let index = second_of(now);
        if self.newest().is_some_and(|newest| newest > index + FUTURE) {
            let sum = self.seconds.drain(..).fold((0, 0, 0), add);
            self.seconds.push_back(Second(index, sum.0, sum.1, sum.2));
        }
        while self.seconds.front().is_some_and(|second| second.over_at() <= now) {
            self.seconds.pop_front();
        }
    }

    /// The newest second in which something began.
    pub fn newest(&self) -> Option<i64> {
        self.seconds.back().map(|second| second.0)
    }

    /// Counts one more attempt in this second, none older than the newest.
    pub fn reserve(&mut self, tokens: (u64, u64), second: i64) {
        match self.seconds.back_mut() {
            Some(last) if last.0 >= second => {
                *last = Second(
                    last.0,
                    last.1.saturating_add(1),
                    last.2.saturating_add(tokens.0),
                    last.3.saturating_add(tokens.1),
                );
            }
            Some(_) | None => self.seconds.push_back(Second(second, 1, tokens.0, tokens.1)),
        }
    }

    /// Counts what an attempt really consumed instead of what was reserved when it began; `false` if
    /// that is too long ago to matter.
    pub fn settle(&mut self, reserved: &Reserved, usage: Usage) -> bool {
        // Where its second was forgotten, what is left counts others.
        let Some(second) = self.seconds.iter_mut().find(|second| second.0 == reserved.second)
        else {
            return false;
        };
        let settled = |counted: u64, reserved: u64, used: i64| {
            counted.saturating_sub(reserved).saturating_add(u64::try_from(used).unwrap_or(0))
        };
        second.2 = settled(second.2, reserved.input_tokens, usage.input_tokens);
        second.3 = settled(second.3, reserved.output_tokens, usage.output_tokens);
        true
    }
}

/// The second that this time is in.
pub fn second_of(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MICROS)
}

fn add(sum: (u64, u64, u64), second: Second) -> (u64, u64, u64) {
    (sum.0.saturating_add(second.1), sum.1.saturating_add(second.2), sum.2.saturating_add(second.3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const BUDGET: Rates = Rates {
        requests_per_minute: Some(7),
        input_tokens_per_minute: Some(500),
        output_tokens_per_minute: Some(300),
    };

    /// What began in the 60 s up to and including `at`, of what is in the list.
    fn within(begun: &[(Timestamp, (u64, u64))], at: Timestamp) -> (u64, u64, u64) {
        let minute = Duration::from_secs(60);
        let window = begun.iter().filter(|(begun, _)| *begun <= at && at.since(*begun) < minute);
        window.fold((0, 0, 0), |sum, (_, tokens)| (sum.0 + 1, sum.1 + tokens.0, sum.2 + tokens.1))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn no_window_of_a_minute_holds_more_than_the_budget(
            steps in prop::collection::vec((0u64..20_000, 0u64..700, 0u64..400, any::<bool>()), 1..60),
        ) {
            let mut window = Window::default();
            let mut now = Timestamp::from_micros(1_000_000_000);
            let mut begun: Vec<(Timestamp, (u64, u64))> = Vec::new();
            for (pause_ms, input, output, obedient) in steps {
                now = now + Duration::from_millis(pause_ms);
                let tokens = BUDGET.counted((input, output));
                if let Err(until) = window.admits(&BUDGET, tokens, now) {
                    prop_assert!(until > now);
                    prop_assert!(until.since(now) <= Duration::from_secs(61));
                    if !obedient {
                        continue;
                    }
                    // Not a moment too early, and not later than it says.
                    now = until;
                }
                prop_assert!(window.admits(&BUDGET, tokens, now).is_ok());
                window.tidy(now);
                window.reserve(tokens, second_of(now));
                begun.push((now, tokens));
                let (requests, read, written) = within(&begun, now);
                prop_assert!(requests <= 7 && read <= 500 && written <= 300);
            }
        }

        #[test]
        fn what_was_really_consumed_counts_once_it_is_known(
            estimate in (0u64..500, 0u64..300), used in (0i64..2_000, 0i64..2_000), after in 0u64..59,
        ) {
            let mut window = Window::default();
            let at = Timestamp::from_micros(5_000_000);
            window.reserve(estimate, second_of(at));
            let reserved = Reserved {
                at, second: second_of(at), model: None, input_tokens: estimate.0, output_tokens: estimate.1,
            };
            let usage = Usage { input_tokens: used.0, output_tokens: used.1 };
            prop_assert!(window.settle(&reserved, usage));
            let spent = window.spent(at + Duration::from_secs(after));
            prop_assert_eq!((spent.1, spent.2), (used.0.unsigned_abs(), used.1.unsigned_abs()));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nothing_waiting_for_longer_than_a_minute() {
        let mut window = Window::default();
        let hour = Duration::from_secs(3_600);
        let before = Timestamp::from_micros(10_000 * MICROS);
        (0..7).for_each(|_| window.reserve((0, 0), second_of(before)));
        let now = before - hour;
        window.tidy(now);
        let until = window.admits(&BUDGET, (0, 0), now).unwrap_err();
        assert!(until.since(now) <= Duration::from_secs(61));
    }

    #[test]
    fn what_ends_after_its_minute_is_over_leaves_the_counts_of_others_alone() {
        let mut window = Window::default();
        let (at, later) = (Timestamp::from_micros(0), Timestamp::from_micros(70 * MICROS));
        window.reserve((400, 0), second_of(at));
        window.tidy(later);
        window.reserve((300, 0), second_of(later));
        let second = second_of(at);
        let reserved = Reserved { at, second, model: None, input_tokens: 400, output_tokens: 0 };
        let usage = Usage { input_tokens: 10, output_tokens: 0 };
        assert!(!window.settle(&reserved, usage), "it no longer counts");
        assert_eq!(window.spent(later), (1, 300, 0));
    }

    #[test]
    fn what_asks_for_more_than_the_whole_budget_begins_when_nothing_else_did() {
        let mut window = Window::default();
        let now = Timestamp::from_micros(0);
        let huge = BUDGET.counted((1_000_000, 0));
        assert!(window.admits(&BUDGET, huge, now).is_ok());
        window.reserve((1, 0), second_of(now));
        let until = window.admits(&BUDGET, huge, now).unwrap_err();
        assert_eq!(until, now + Duration::from_secs(61));
        assert!(window.admits(&BUDGET, huge, until).is_ok());
    }
}

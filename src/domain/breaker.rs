//! A gate that closes by itself: at once when the provider asks to be left alone, and when it fails
//! again and again.
//!
//! What must stay true: nothing is admitted before the stated time; then one execution is, and one
//! more every [`PROBE_PAUSE`] while there is no answer, until one of them is answered; and however
//! often it has to close again, it tries again by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, ExecutionId, Timestamp};

/// How long one probe is waited for before another is sent.
pub const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// How long the gate stays closed when the provider does not say how long: doubled for every time
/// that a probe finds it no better.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);
/// The least, doubled likewise, where it says that no time at all is enough.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_FAILURE_PAUSE: Duration = Duration::from_secs(10 * 60);

/// When failures close the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// How many within `window` close it; 0: none do.
    pub failures: u32,
    /// The time in which they count.
    pub window: Duration,
    /// How long it stays closed the first time.
    pub pause: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        let (window, pause) = (Duration::from_secs(60), Duration::from_secs(30));
        Self { failures: 5, window, pause }
    }
}

/// What the end of an attempt says of its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// It wants to be called less often.
    RateLimited {
        /// The wait it asked for, where it said.
        retry_after: Option<Duration>,
        /// In its words.
        message: String,
    },
    /// It failed in a way that may be its own.
    Failed {
        /// In its words.
        message: String,
        /// When that closes the gate.
        breaker: Breaker,
    },
    /// It does its work.
    Answered,
    /// The attempt ended before that could be seen.
    Unseen,
}

/// What is known of a provider's health, kept with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The newest failures that count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Timestamp>,
    /// Set unless the gate is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closure: Option<Closure>,
}

/// A gate that is not open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// What closed it.
    pub cause: ClosedBy,
    /// The same in words.
    pub message: String,
    /// Nothing is admitted before this. Once that is over, one execution at a time is.
    pub until: Timestamp,
    /// How often it was closed in a row.
    times: u32,
    /// Whether `until` is over.
    probing: bool,
    /// The executions that were let through to see and have not told yet, the newest last.
    #[serde(default)]
    probes: Vec<ExecutionId>,
    /// When the newest was.
    #[serde(default)]
    probed_at: Option<Timestamp>,
}

/// What closes a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    /// The provider asked for it.
    RateLimit,
    /// The provider failed too often.
    Failures,
}

/// What a gate lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As much as the limit admits.
    All,
    /// One more, to see.
    Probe,
    /// Nothing.
    Nothing,
}

/// What came of a signal.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The gate changed.
    Changed(Change),
    /// It was noted.
    Noted,
    /// It says nothing new.
    Nothing,
}

impl Health {
    /// What the gate lets through.
    pub fn admits(&self, now: Timestamp) -> Admission {
        match &self.closure {
            None => Admission::All,
            Some(closure) if !closure.probing => Admission::Nothing,
            Some(closure) => match closure.probed_at {
                Some(at) if now < at + PROBE_PAUSE => Admission::Nothing,
                Some(_) | None => Admission::Probe,
            },
        }
    }

    /// What holds the gate, if it is not open.
    pub fn closure(&self) -> Option<&Closure> {
        self.closure.as_ref()
    }

    /// When it is to be tried again, if that is yet to come.
    pub fn closed_until(&self) -> Option<Timestamp> {
        self.closure.as_ref().filter(|closure| !closure.probing).map(|closure| closure.until)
    }

    /// When it is to be tried again, or another sent to see.
    pub fn next_try(&self, now: Timestamp) -> Option<Timestamp> {
        let closure = self.closure.as_ref()?;
        let next = if closure.probing { closure.probed_at? + PROBE_PAUSE } else { closure.until };
        (next > now).then_some(next)
    }

    /// Whether there is nothing to be kept.
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    /// The stated time is over: one execution may see.
    pub fn try_again(&mut self) -> Option<Change> {
        let closure = self.closure.as_mut().filter(|closure| !closure.probing)?;
        closure.probing = true;
        let (cause, message) = (closure.cause, closure.message.clone());
        Some(Change::GateProbing { cause, reason: message })
    }

    /// A pause is over: what closed the gate before, or meanwhile, still holds. Those that were let
    /// through to see are not waited for any more.
    pub fn resume(&mut self, now: Timestamp) -> Option<Change> {
        let closure = self.closure.as_mut()?;
        closure.until = closure.until.max(now);
        closure.probing = false;
        closure.probes.clear();
        closure.probed_at = None;
        let Closure { cause, until, message, .. } = closure.clone();
        Some(Change::GateClosed { cause, until, reason: message })
    }

    /// Whether this execution was let through to see and has not told yet.
    pub fn is_probed_by(&self, execution: ExecutionId) -> bool {
        self.closure.as_ref().is_some_and(|closure| closure.probes.contains(&execution))
    }

    /// Notes that this execution was let through to see.
    pub fn probed_by(&mut self, execution: ExecutionId, now: Timestamp) {
        if let Some(closure) = &mut self.closure {
            if closure.probes.len() >= MOST_PROBES {
                closure.probes.remove(0);
            }
            closure.probes.push(execution);
            closure.probed_at = Some(now);
        }
    }

    /// Takes in what an attempt at `execution` found.
    pub fn hear(&mut self, execution: ExecutionId, signal: &Signal, now: Timestamp) -> Heard {
        let closure = self.closure.as_ref();
        let is_probe = self.is_probed_by(execution);
        let limited = closure.is_some_and(|closure| closure.cause == ClosedBy::RateLimit);
        match signal {
            Signal::Answered if is_probe => {
                *self = Self::default();
                Heard::Changed(Change::GateOpened {})
            }
            Signal::Unseen if is_probe => {
                if let Some(closure) = &mut self.closure {
                    if closure.probes.last() == Some(&execution) {
                        closure.probed_at = None;
                    }
                    closure.probes.retain(|probe| *probe != execution);
                }
                Heard::Noted
            }
            Signal::Answered | Signal::Unseen => Heard::Nothing,
            Signal::RateLimited { retry_after, message } => {
                let times = self.times(is_probe);
                let doubled = |pause| doubled(pause, times, LONGEST_RATE_LIMIT_PAUSE);
                let pause = match *retry_after {
                    None => doubled(RATE_LIMIT_PAUSE),
                    // That one may come back at once is believed less every time.
                    Some(stated) if stated < RATE_LIMIT_PAUSE => stated.max(doubled(LEAST_PAUSE)),
                    Some(stated) => stated,
                };
                // What was on its way when the gate closed says the same once more; only a later
                // time is news.
                let known = self.closed_until();
                if known.is_some_and(|known| retry_after.is_none() || now + pause <= known) {
                    return Heard::Nothing;
                }
                Heard::Changed(self.close(ClosedBy::RateLimit, message, now + pause, times))
            }
            // Whatever went wrong, the provider does not ask to be left alone any more.
            Signal::Failed { breaker, .. } if is_probe && limited => {
                let failures = if breaker.failures > 0 { vec![now] } else { Vec::new() };
                *self = Self { failures, closure: None };
                Heard::Changed(Change::GateOpened {})
            }
            Signal::Failed { message, breaker } if is_probe => {
                let times = self.times(true);
                let pause = doubled(breaker.pause, times, LONGEST_FAILURE_PAUSE);
                Heard::Changed(self.close(ClosedBy::Failures, message, now + pause, times))
            }
            Signal::Failed { .. } if self.closure.is_some() => Heard::Nothing,
            Signal::Failed { breaker, .. } if breaker.failures == 0 => Heard::Nothing,
            Signal::Failed { message, breaker } => {
                self.failures.retain(|at| now.since(*at) < breaker.window);
                self.failures.push(now);
                let enough = usize::try_from(breaker.failures).unwrap_or(usize::MAX);
                if self.failures.len() < enough {
                    return Heard::Noted;
                }
                let count = self.failures.len();
                let window = breaker.window.as_secs_f64();
                let message = format!("{count} failures within {window} s, the last: {message}");
                Heard::Changed(self.close(ClosedBy::Failures, &message, now + breaker.pause, 0))
            }
        }
    }

    /// How often the gate was closed in a row by now.
    fn times(&self, is_probe: bool) -> u32 {
        let times = self.closure.as_ref().map_or(0, |closure| closure.times);
        times.saturating_add(u32::from(is_probe))
    }

    fn close(&mut self, cause: ClosedBy, message: &str, until: Timestamp, times: u32) -> Change {
        let message = message.chars().take(MESSAGE_CHARS).collect::<String>();
        let reason = message.clone();
        let closure = Closure {
            cause,
            message,
            until,
            times,
            probing: false,
            probes: Vec::new(),
            probed_at: None,
        };
        *self = Self { failures: Vec::new(), closure: Some(closure) };
        Change::GateClosed { cause, until, reason }
    }
}

/// How many of those that were let through to see are remembered.
const MOST_PROBES: usize = 64;
/// How much of a provider's words is kept with its gate.
const MESSAGE_CHARS: usize = 300;

fn doubled(pause: Duration, times: u32, longest: Duration) -> Duration {
    pause.saturating_mul(1 << times.min(16)).min(longest.max(pause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limited(retry_after: Option<u64>) -> Signal {
        let retry_after = retry_after.map(Duration::from_secs);
        Signal::RateLimited { retry_after, message: "slow down".to_owned() }
    }

    fn failed() -> Signal {
        Signal::Failed { message: "down".to_owned(), breaker: Breaker::default() }
    }

    fn now() -> Timestamp {
        Timestamp::from_micros(1_000_000_000)
    }

    #[test]
    fn a_rate_limit_closes_the_gate_until_the_stated_time_and_no_earlier_one_opens_it() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        assert!(matches!(health.hear(id, &limited(Some(2)), now()), Heard::Changed(_)));
        assert_eq!(health.closed_until(), Some(now() + SECOND * 2));
        assert_eq!(health.hear(id, &limited(Some(1)), now()), Heard::Nothing);
        assert_eq!(health.hear(id, &limited(None), now()), Heard::Nothing);
        assert_eq!(health.hear(id, &Signal::Answered, now()), Heard::Nothing);
        assert!(matches!(health.hear(id, &limited(Some(9)), now()), Heard::Changed(_)));
        assert_eq!(health.closed_until(), Some(now() + SECOND * 9));
        assert_eq!(health.admits(now()), Admission::Nothing);
    }

    #[test]
    fn one_probe_is_let_through_and_its_answer_opens_the_gate() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        health.hear(id, &limited(Some(2)), now());
        let later = now() + SECOND * 2;
        assert!(health.try_again().is_some() && health.try_again().is_none());
        assert_eq!(health.admits(later), Admission::Probe);
        let probe = ExecutionId::new();
        health.probed_by(probe, later);
        assert_eq!(health.admits(later + SECOND), Admission::Nothing);
        assert_eq!(health.admits(later + PROBE_PAUSE), Admission::Probe);
        assert_eq!(health.hear(id, &failed(), later), Heard::Nothing);
        assert_eq!(health.hear(probe, &Signal::Unseen, later), Heard::Noted);
        assert_eq!(health.admits(later), Admission::Probe, "the next one is to see");
        health.probed_by(probe, later);
        assert!(matches!(health.hear(probe, &Signal::Answered, later), Heard::Changed(_)));
        assert!(health.is_blank());
    }

    #[test]
    fn every_probe_that_is_out_may_open_the_gate() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        health.hear(id, &limited(Some(2)), now());
        health.try_again();
        let probes = [ExecutionId::new(), ExecutionId::new(), ExecutionId::new()];
        for (probe, at) in probes.iter().zip([0, 5, 10]) {
            health.probed_by(*probe, now() + SECOND * at);
        }
        assert_eq!(health.hear(id, &Signal::Answered, now()), Heard::Nothing);
        assert!(matches!(health.hear(probes[0], &Signal::Answered, now()), Heard::Changed(_)));
        assert!(health.is_blank());
    }

    #[test]
    fn who_may_come_back_at_once_is_believed_less_every_time() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        let mut at = now();
        for millis in [100, 200, 400, 800, 1_600] {
            health.hear(id, &limited(Some(0)), at);
            assert_eq!(health.closed_until(), Some(at + Duration::from_millis(millis)));
            at = at + Duration::from_millis(millis);
            health.try_again();
            health.probed_by(id, at);
        }
    }

    #[test]
    fn a_pause_does_not_shorten_the_stated_time() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        assert_eq!(health.resume(now()), None);
        health.hear(id, &limited(Some(60)), now());
        assert!(health.resume(now() + SECOND).is_some());
        assert_eq!(health.closed_until(), Some(now() + SECOND * 60));
        assert!(health.resume(now() + SECOND * 90).is_some());
        assert_eq!(health.closed_until(), Some(now() + SECOND * 90));
    }

    #[test]
    fn a_failed_probe_closes_the_gate_for_twice_as_long() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        let mut at = now();
        for _ in 0..5 {
            health.hear(id, &failed(), at);
        }
        for seconds in [30, 60, 120, 240, 480, 600, 600] {
            assert_eq!(health.closed_until(), Some(at + SECOND * seconds));
            at = at + SECOND * seconds;
            health.try_again();
            health.probed_by(id, at);
            health.hear(id, &failed(), at);
        }
    }

    #[test]
    fn a_probe_that_fails_after_a_rate_limit_opens_the_gate() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        health.hear(id, &limited(Some(2)), now());
        health.try_again();
        health.probed_by(id, now());
        assert!(matches!(health.hear(id, &failed(), now()), Heard::Changed(_)));
        assert_eq!((health.admits(now()), health.is_blank()), (Admission::All, false));
    }

    #[test]
    fn failures_count_only_within_the_window() {
        let (mut health, id) = (Health::default(), ExecutionId::new());
        for n in 0..20 {
            let heard = health.hear(id, &failed(), now() + SECOND * 15 * n);
            assert_eq!(heard, Heard::Noted, "four within a minute are not enough");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_heard_nothing_passes_before_its_time_and_the_gate_tries_again(
            signals in proptest::collection::vec((0u8..4, 0u64..120, 0usize..3, 0u64..90), 1..80),
        ) {
            let ids: Vec<_> = (0..3).map(|_| ExecutionId::new()).collect();
            let mut health = Health::default();
            let mut at = now();
            for (kind, wait, who, pass) in signals {
                at = at + SECOND * u32::try_from(pass).unwrap();
                if health.closed_until().is_some_and(|until| until <= at) {
                    prop_assert!(health.try_again().is_some());
                }
                if health.admits(at) == Admission::Probe {
                    health.probed_by(ids[who], at);
                    prop_assert_eq!(health.admits(at), Admission::Nothing);
                }
                let signal = match kind {
                    0 => limited(Some(wait)),
                    1 => limited(None),
                    2 => failed(),
                    _ => Signal::Answered,
                };
                let before = health.closed_until();
                health.hear(ids[who], &signal, at);
                if let Some(before) = before {
                    prop_assert!(health.closed_until().is_some_and(|until| until >= before));
                }
                if let Some(until) = health.closed_until() {
                    prop_assert_eq!(health.admits(at), Admission::Nothing);
                    prop_assert!(until.since(at) <= SECOND * 600);
                    prop_assert!(until > at);
                }
            }
        }
    }
}

//! What limits do to the work of a provider: how much they let start, and how much runs beyond them.

use super::{Admission, GateState, HeldBy, ProviderRecord, Timestamp};

/// What the limits of a provider do to its work as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Executions that are ready and that the limits let start.
    pub starts: u64,
    /// Executions that run beyond the limit, and go on.
    pub drains: u64,
    /// Why nothing starts whatever the limits are, if so.
    shut: Option<&'static str>,
}

impl Effect {
    /// What the limits of `record` do where so many executions run and so many are ready.
    pub fn of(record: &ProviderRecord, running: u64, ready: u64, now: Timestamp) -> Self {
        let limits = record.effective();
        let limit = u64::from(limits.max_concurrent);
        let (most, shut) = let_through(record, now);
        let budget = record.flow.requests_left(&limits, now).unwrap_or(u64::MAX);
        Self {
            starts: limit.saturating_sub(running).min(ready).min(most).min(budget),
            drains: running.saturating_sub(limit),
            shut,
        }
    }

    /// In words; `validated` says that nothing was set.
    pub fn words(&self, validated: bool) -> String {
        let would = if validated { "would " } else { "" };
        let starts = match (self.starts, self.shut) {
            (0, None) => format!("none {would}start now"),
            (0, Some(shut)) => format!("none {would}start now because {shut}"),
            (starts, _) => format!("{starts} {would}start now"),
        };
        match self.drains {
            0 => format!("{starts}, none over the limit"),
            drains => format!("{starts}, {drains} over the limit {would}drain, none killed"),
        }
    }
}

/// How many the gate lets through, and why none.
fn let_through(record: &ProviderRecord, now: Timestamp) -> (u64, Option<&'static str>) {
    let served = !record.flow.holds().iter().any(|hold| hold.by == HeldBy::NoWorker);
    match (record.gate(), record.admits(now)) {
        (GateState::Paused(_), _) => (0, Some("the provider is paused")),
        (GateState::Short(_), _) => (0, Some("a machine is short")),
        (GateState::Closed { .. }, _) | (_, Admission::Nothing) => (0, Some("its gate is closed")),
        _ if !served => (0, Some("no worker serves it")),
        (_, Admission::Probe) => (1, None),
        (GateState::Open | GateState::Held(_) | GateState::Probing { .. }, Admission::All) => {
            (u64::MAX, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Limits, Pause, Rates};

    const NOW: Timestamp = Timestamp::from_micros(120_000_000);

    fn record(limits: Limits) -> ProviderRecord {
        ProviderRecord::new("p".parse().unwrap(), limits)
    }

    fn effect(record: &ProviderRecord, running: u64, ready: u64) -> (u64, u64, String) {
        let effect = Effect::of(record, running, ready, NOW);
        (effect.starts, effect.drains, effect.words(true))
    }

    #[test]
    fn what_is_ready_starts_as_far_as_there_is_room() {
        let record = record(Limits::concurrent(5));
        let told = |text: &str| text.to_owned();
        assert_eq!(effect(&record, 1, 9), (4, 0, told("4 would start now, none over the limit")));
        assert_eq!(effect(&record, 1, 2), (2, 0, told("2 would start now, none over the limit")));
        assert_eq!(
            effect(&record, 7, 2),
            (0, 2, told("none would start now, 2 over the limit would drain, none killed"))
        );
        let done = Effect::of(&record, 7, 2, NOW).words(false);
        assert_eq!(done, "none start now, 2 over the limit drain, none killed");
    }

    #[test]
    fn nothing_starts_while_the_provider_is_paused() {
        let mut record = record(Limits::concurrent(5));
        record.pause = Some(Pause { reason: String::new(), until: None });
        let (starts, drains, words) = effect(&record, 0, 9);
        assert_eq!((starts, drains), (0, 0));
        assert!(words.contains("because the provider is paused"), "{words}");
    }

    #[test]
    fn no_more_starts_than_is_left_of_the_requests_of_this_minute() {
        let rates = Rates { requests_per_minute: Some(3), ..Rates::default() };
        let limits = Limits { rates, ..Limits::concurrent(10) };
        let mut record = record(limits.clone());
        assert_eq!(effect(&record, 0, 9).0, 3);
        record.flow.reserve(&limits, "", None, NOW);
        assert_eq!(effect(&record, 1, 9).0, 2);
    }
}

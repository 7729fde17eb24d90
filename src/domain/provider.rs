//! What the store knows of a provider: its limits and its gate.

use serde::{Deserialize, Serialize};

use super::{
    Adaptive, Admission, COMMON_LANE, Change, ClosedBy, ExecutionId, Flow, Health, Heard, Hold,
    LimitUpdate, Limits, Observation, Overrides, ProviderName, Shortage, Signal, Step, Timestamp,
};

/// A provider that admits nothing until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Why, in the operator's words.
    pub reason: String,
    /// When it resumes by itself, if it does.
    pub until: Option<Timestamp>,
}

/// That what an operator set of the limits holds for a time only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Until when.
    pub at: Timestamp,
    /// What holds again then.
    pub former: Overrides,
}

/// Who changed something, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// In the operator's words.
    pub reason: String,
    /// Who, if that is known.
    pub actor: String,
}

impl Told {
    /// Nobody in particular.
    pub fn by_itself(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), actor: String::new() }
    }
}

/// Whether a provider admits work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GateState {
    /// It does, up to its limit.
    #[default]
    Open,
    /// An operator has said that it does not.
    Paused(Pause),
    /// It would, but a worker that could take what is ready lacks something for it, and no other
    /// takes it.
    Short(Shortage),
    /// The provider asked to be left alone, or fails: nothing is admitted until then.
    Closed {
        /// What closed it.
        cause: ClosedBy,
        /// Until when.
        until: Timestamp,
        /// In the provider's words.
        reason: String,
    },
    /// That is over: one execution at a time is admitted to see whether it is better.
    Probing {
        /// What had closed it.
        cause: ClosedBy,
        /// In the provider's words.
        reason: String,
    },
    /// It does, but for some of its work.
    Held(Vec<Hold>),
}

impl GateState {
    /// What holds after this change; `None` if it does not concern the gate. The newest such change
    /// says all there is to say.
    pub fn after(change: &Change) -> Option<Self> {
        match change {
            Change::Paused { reason, until } => {
                Some(Self::Paused(Pause { reason: reason.clone(), until: *until }))
            }
            Change::ShortOf(shortage) => Some(Self::Short(*shortage)),
            Change::GateClosed { cause, until, reason } => {
                Some(Self::Closed { cause: *cause, until: *until, reason: reason.clone() })
            }
            Change::GateProbing { cause, reason } => {
                Some(Self::Probing { cause: *cause, reason: reason.clone() })
            }
            Change::Held { holds } if !holds.is_empty() => Some(Self::Held(holds.clone())),
            Change::Resumed { .. }
            | Change::ShortageOver { .. }
            | Change::GateOpened {}
            | Change::Held { .. } => Some(Self::Open),
            Change::Submitted { .. }
            | Change::Claimed { .. }
            | Change::Attached { .. }
            | Change::Requeued { .. }
            | Change::Finished { .. }
            | Change::CancelRequested { .. }
            | Change::WaitChanged { .. }
            | Change::Output(_)
            | Change::LimitsChanged { .. } => None,
        }
    }
}

/// The row that every claim of a provider's work locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRecord {
    /// Which provider.
    pub name: ProviderName,
    /// From the configuration.
    pub declared: Limits,
    /// From `SetLimits`, outliving restarts.
    pub overriding: Overrides,
    /// When that is to be taken back, if it is.
    pub expiry: Option<Expiry>,
    /// Where `max_concurrent` has moved by itself, while it does.
    pub adapted: Option<Adaptive>,
    /// Set while paused.
    pub pause: Option<Pause>,
    /// Set while ready work waits for a machine with room; never while paused.
    pub shortage: Option<Shortage>,
    /// What is known of its health; nothing is added while it is paused.
    pub health: Health,
    /// What began of late, and what is held back by that.
    pub flow: Flow,
    /// The revision of the newest change to the limits.
    pub limits_revision: i64,
    /// The revision of the newest change to the gate.
    pub gate_revision: i64,
}

impl ProviderRecord {
    /// A provider seen for the first time.
    pub fn new(name: ProviderName, declared: Limits) -> Self {
        let mut record = Self {
            name,
            declared,
            overriding: Overrides::default(),
            expiry: None,
            adapted: None,
            pause: None,
            shortage: None,
            health: Health::default(),
            flow: Flow::default(),
            limits_revision: 0,
            gate_revision: 0,
        };
        record.adapt(true);
        record
    }

    /// The limits in force.
    pub fn effective(&self) -> Limits {
        let mut limits = self.overriding.over(&self.declared);
        if let (Some(bounds), Some(adapted)) = (limits.adaptive, &self.adapted) {
            limits.max_concurrent = bounds.nearest(adapted.limit());
        }
        limits
    }

    /// Overrides the limits, or drops that; until `expires_at` if there is such a time. What is set for
    /// good stays when the time is over for which others were set.
    pub fn set_limits(&mut self, update: &LimitUpdate, expires_at: Option<Timestamp>) {
        if *update == LimitUpdate::Keep {
            return;
        }
        let before = self.overriding.clone();
        self.overriding = update.applied_to(&before);
        let former = |expiry: &Expiry| expiry.former.clone();
        self.expiry = match (expires_at, self.expiry.take()) {
            (None, None) => None,
            (Some(at), known) => Some(Expiry { at, former: known.as_ref().map_or(before, former) }),
            (None, Some(Expiry { at, former })) => {
                Some(Expiry { at, former: update.applied_to(&former) })
            }
        };
        self.expiry.take_if(|expiry| expiry.former == self.overriding);
        // A limit that moves by itself goes on from where an operator puts it.
        let anew = match update {
            LimitUpdate::Set(set) => set.max_concurrent.is_some(),
            LimitUpdate::Reset => true,
            LimitUpdate::Keep => false,
        };
        self.limits_were_changed(anew);
    }

    /// Takes back what was set for a time if that is over; whether it was.
    pub fn expire_limits(&mut self, now: Timestamp) -> bool {
        let Some(over) = self.expiry.take_if(|expiry| expiry.at <= now) else { return false };
        let anew = self.overriding.max_concurrent != over.former.max_concurrent;
        self.overriding = over.former;
        self.limits_were_changed(anew);
        true
    }

    /// Takes in that limits were changed. A model with limits of its own keeps its lane when those are
    /// taken away, because what waits there would be found by nobody. If `anew`, a limit that moves
    /// by itself begins where it is set.
    pub fn limits_were_changed(&mut self, anew: bool) {
        self.flow.keep_lanes(&self.overriding.over(&self.declared));
        self.adapt(anew);
    }

    /// Takes what is declared or set by now as the word on whether `max_concurrent` moves by itself, and,
    /// if `anew`, on where it begins.
    fn adapt(&mut self, anew: bool) {
        let limits = self.overriding.over(&self.declared);
        self.adapted = match (limits.adaptive, self.adapted.take()) {
            (None, _) => None,
            (Some(_), Some(adapted)) if !anew => Some(adapted),
            (Some(bounds), _) => Some(Adaptive::new(limits.max_concurrent).clamped(&bounds)),
        };
    }

    /// Takes in what a worker saw of the provider; `None` if its limit does not move by itself.
    pub fn observe(&mut self, seen: &Observation, now: Timestamp) -> Option<Option<Step>> {
        let bounds = self.overriding.over(&self.declared).adaptive?;
        Some(self.adapted.as_mut()?.hear(&bounds, seen, now))
    }

    /// Whether the limit is to be higher, seen from a claim that leaves so many running.
    pub fn look(&mut self, running: u32, ready_left: bool, now: Timestamp) -> Option<Step> {
        if self.admits(now) != Admission::All {
            return None;
        }
        let bounds = self.overriding.over(&self.declared).adaptive?;
        self.adapted.as_mut()?.look(&bounds, running, ready_left, now)
    }

    /// Whether it admits work.
    pub fn gate(&self) -> GateState {
        match (&self.pause, self.health.closure(), self.shortage) {
            (Some(pause), ..) => GateState::Paused(pause.clone()),
            (None, Some(closure), _) => {
                let (cause, reason) = (closure.cause, closure.message.clone());
                match self.health.closed_until() {
                    Some(until) => GateState::Closed { cause, until, reason },
                    None => GateState::Probing { cause, reason },
                }
            }
            (None, None, Some(shortage)) => GateState::Short(shortage),
            (None, None, None) if !self.flow.holds().is_empty() => {
                GateState::Held(self.flow.holds().to_vec())
            }
            (None, None, None) => GateState::Open,
        }
    }

    /// When its gate is to be tried again by itself.
    pub fn gate_due_at(&self) -> Option<Timestamp> {
        match &self.pause {
            Some(pause) => pause.until,
            None => self.health.closed_until(),
        }
    }

    /// When something about it is due: its gate, or the end of what was set for a time.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.gate_due_at().into_iter().chain(self.other_due_at()).min()
    }

    /// When something about it is due besides its gate: the end of what was set for a time, or of what
    /// is to be believed of its budgets.
    pub fn other_due_at(&self) -> Option<Timestamp> {
        let expiry = self.expiry.as_ref().map(|expiry| expiry.at);
        expiry.into_iter().chain(self.flow.doubtful_at()).min()
    }

    /// What its gate lets through.
    pub fn admits(&self, now: Timestamp) -> Admission {
        if self.pause.is_some() { Admission::Nothing } else { self.health.admits(now) }
    }

    /// Takes in what an attempt at `execution`, of this lane, found of the provider. While it is paused
    /// nothing is noted: an operator has taken over.
    pub fn hear(
        &mut self,
        lane: &str,
        execution: ExecutionId,
        signal: &Signal,
        now: Timestamp,
    ) -> Heard {
        if self.pause.is_some() {
            return Heard::Nothing;
        }
        if lane != COMMON_LANE
            && let Some(heard) = self.flow.hear(lane, execution, signal, now)
        {
            let news = matches!(heard, Heard::Changed(_)) && self.flow.found(&[], &[], now);
            // What was let through to see for the whole provider is waited for there, too.
            let seen = match signal {
                _ if !self.health.is_probed_by(execution) => Heard::Nothing,
                // Only the model is to be left alone; another may see how the rest fares.
                Signal::RateLimited { .. } => self.health.hear(execution, &Signal::Unseen, now),
                Signal::Failed { .. } | Signal::Answered | Signal::Unseen => {
                    self.health.hear(execution, signal, now)
                }
            };
            return match (seen, heard) {
                (Heard::Changed(change), _) => {
                    self.shortage = None;
                    Heard::Changed(change)
                }
                _ if news => self.told_of_holds(),
                (Heard::Nothing, Heard::Nothing) => Heard::Nothing,
                (Heard::Noted | Heard::Nothing, _) => Heard::Noted,
            };
        }
        let heard = self.health.hear(execution, signal, now);
        if matches!(heard, Heard::Changed(_)) {
            // The newest entry says all there is to say of a gate.
            self.shortage = None;
        }
        heard
    }

    /// That what is held back changed. Not told while the gate holds back everything: that is told
    /// once the gate is open.
    pub fn told_of_holds(&self) -> Heard {
        match self.gate() {
            GateState::Open | GateState::Held(_) => Heard::Changed(self.holds_change()),
            GateState::Paused(_)
            | GateState::Short(_)
            | GateState::Closed { .. }
            | GateState::Probing { .. } => Heard::Noted,
        }
    }

    /// The change that records what is held back.
    pub fn holds_change(&self) -> Change {
        Change::Held { holds: self.flow.holds().to_vec() }
    }

    /// The change that records the limits as they now stand.
    pub fn limits_change(&self, told: Told) -> Change {
        self.limits_changed(told, None)
    }

    /// The change that records that the limit moved by itself.
    pub fn limit_moved(&self, step: Step) -> Change {
        self.limits_changed(Told::by_itself(step.to_string()), Some(step))
    }

    fn limits_changed(&self, told: Told, step: Option<Step>) -> Change {
        Change::LimitsChanged {
            declared: Box::new(self.declared.clone()),
            overriding: (!self.overriding.is_empty()).then(|| Box::new(self.overriding.clone())),
            effective: Box::new(self.effective()),
            expires_at: self.expiry.as_ref().map(|expiry| expiry.at),
            reason: told.reason,
            actor: told.actor,
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AdaptiveBounds, Bound, RateOverrides};

    const SOON: Timestamp = Timestamp::from_micros(10);
    const LATER: Timestamp = Timestamp::from_micros(20);

    fn record() -> ProviderRecord {
        ProviderRecord::new("p".parse().unwrap(), Limits::concurrent(3))
    }

    #[test]
    fn a_limit_that_moves_by_itself_returns_to_where_it_is_declared() {
        let mut record = record();
        let bounds = AdaptiveBounds { min: 1, max: 9, target_latency: None };
        record.declared.adaptive = Some(bounds);
        record.limits_were_changed(true);
        record.set_limits(&concurrent(6), Some(SOON));
        assert_eq!(record.effective().max_concurrent, 6);
        assert!(record.expire_limits(SOON));
        assert_eq!(record.effective().max_concurrent, 3);
        record.set_limits(&concurrent(7), None);
        record.set_limits(&LimitUpdate::Reset, None);
        assert_eq!(record.effective().max_concurrent, 3);
    }

    fn concurrent(max: u32) -> LimitUpdate {
        LimitUpdate::Set(Overrides::concurrent(max))
    }

    fn requests(rate: u64) -> LimitUpdate {
        let requests_per_minute = Some(Bound::At(rate));
        let rates = RateOverrides { requests_per_minute, ..RateOverrides::default() };
        LimitUpdate::Set(Overrides { rates, ..Overrides::default() })
    }

    #[test]
    fn what_is_set_for_a_time_returns_to_what_held_for_good() {
        let mut record = record();
        record.set_limits(&concurrent(5), None);
        record.set_limits(&concurrent(8), Some(LATER));
        record.set_limits(&concurrent(9), Some(SOON));
        assert_eq!((record.effective().max_concurrent, record.due_at()), (9, Some(SOON)));
        assert!(!record.expire_limits(Timestamp::from_micros(9)));
        assert!(record.expire_limits(SOON));
        assert_eq!((record.effective().max_concurrent, record.due_at()), (5, None));
    }

    #[test]
    fn what_is_set_for_good_outlives_what_is_set_for_a_time() {
        let mut record = record();
        record.set_limits(&concurrent(8), Some(SOON));
        record.set_limits(&requests(60), None);
        let limits = record.effective();
        assert_eq!((limits.max_concurrent, limits.rates.requests_per_minute), (8, Some(60)));
        assert!(record.expire_limits(SOON));
        let limits = record.effective();
        assert_eq!((limits.max_concurrent, limits.rates.requests_per_minute), (3, Some(60)));
    }

    #[test]
    fn nothing_is_left_to_expire_once_all_of_it_is_set_for_good_or_reset() {
        for update in [concurrent(4), LimitUpdate::Reset] {
            let mut record = record();
            record.set_limits(&concurrent(8), Some(SOON));
            record.set_limits(&update, None);
            assert_eq!(record.expiry, None, "{update:?}");
        }
    }

    #[test]
    fn a_limit_moves_only_while_it_has_bounds() {
        let mut record = record();
        let bounds = AdaptiveBounds { min: 1, max: 50, target_latency: None };
        let adaptive = Some(Bound::At(bounds));
        let moving = LimitUpdate::Set(Overrides { adaptive, ..Overrides::default() });
        record.set_limits(&moving, Some(SOON));
        record.adapted = Some(Adaptive::new(40));
        assert_eq!(record.effective().max_concurrent, 40);
        record.set_limits(&concurrent(10), None);
        assert_eq!(record.effective().max_concurrent, 10, "it goes on from there");
        assert!(record.expire_limits(SOON));
        assert_eq!((record.effective().max_concurrent, record.adapted), (10, None));
    }
}

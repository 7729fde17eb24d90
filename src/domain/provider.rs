//! What the store knows of a provider: its limits and its gate.

use serde::{Deserialize, Serialize};

use super::{
    Admission, Change, ClosedBy, ExecutionId, Health, Heard, ProviderName, Shortage, Signal,
    Timestamp,
};

/// What a provider admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Attempts that may run at the same time, over all workers; at least 1.
    pub max_concurrent: u32,
}

/// What is to become of the override of a provider's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitUpdate {
    /// It stays as it is.
    Keep,
    /// It is these limits from now on.
    Set(Limits),
    /// It is dropped: the declared limits are in force again.
    Reset,
}

impl LimitUpdate {
    /// The override after the update.
    pub fn applied_to(self, overriding: Option<Limits>) -> Option<Limits> {
        match self {
            Self::Keep => overriding,
            Self::Set(limits) => Some(limits),
            Self::Reset => None,
        }
    }
}

/// A provider that admits nothing until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Why, in the operator's words.
    pub reason: String,
    /// When it resumes by itself, if it does.
    pub until: Option<Timestamp>,
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
            Change::Resumed { .. } | Change::ShortageOver { .. } | Change::GateOpened {} => {
                Some(Self::Open)
            }
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
    pub overriding: Option<Limits>,
    /// Set while paused.
    pub pause: Option<Pause>,
    /// Set while ready work waits for a machine with room; never while paused.
    pub shortage: Option<Shortage>,
    /// What is known of its health; nothing is added while it is paused.
    pub health: Health,
    /// The revision of the newest change to the limits.
    pub limits_revision: i64,
    /// The revision of the newest change to the gate.
    pub gate_revision: i64,
}

impl ProviderRecord {
    /// A provider seen for the first time.
    pub fn new(name: ProviderName, declared: Limits) -> Self {
        Self {
            name,
            declared,
            overriding: None,
            pause: None,
            shortage: None,
            health: Health::default(),
            limits_revision: 0,
            gate_revision: 0,
        }
    }

    /// The limits in force.
    pub fn effective(&self) -> Limits {
        self.overriding.unwrap_or(self.declared)
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
            (None, None, None) => GateState::Open,
        }
    }

    /// When its gate is to be tried again by itself.
    pub fn due_at(&self) -> Option<Timestamp> {
        match &self.pause {
            Some(pause) => pause.until,
            None => self.health.closed_until(),
        }
    }

    /// What its gate lets through.
    pub fn admits(&self, now: Timestamp) -> Admission {
        if self.pause.is_some() { Admission::Nothing } else { self.health.admits(now) }
    }

    /// Takes in what an attempt at `execution` found of the provider. While it is paused nothing is
    /// noted: an operator has taken over.
    pub fn hear(&mut self, execution: ExecutionId, signal: &Signal, now: Timestamp) -> Heard {
        if self.pause.is_some() {
            return Heard::Nothing;
        }
        let heard = self.health.hear(execution, signal, now);
        if matches!(heard, Heard::Changed(_)) {
            // The newest entry says all there is to say of a gate.
            self.shortage = None;
        }
        heard
    }

    /// The change that records the limits as they now stand.
    pub fn limits_change(&self, reason: &str) -> Change {
        Change::LimitsChanged {
            declared: self.declared,
            overriding: self.overriding,
            effective: self.effective(),
            reason: reason.to_owned(),
        }
    }
}

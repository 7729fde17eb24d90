//! What is said of a provider: how executions and attempts ended, what its gate does, how much there is of what.

use std::time::Duration;

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Succeeded,
    /// Not so.
    Failed,
    /// On request.
    Cancelled,
}

impl Ended {
    pub(super) const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Cancelled];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its execution succeeded.
    Succeeded,
    /// Its execution failed.
    Failed,
    /// Its execution was cancelled.
    Cancelled,
    /// It failed and another follows.
    Retried,
    /// It panicked, the guard of its module was killed, or its lease could not be kept. What died with
    /// its worker ends in none of these.
    Crashed,
    /// It was handed back at a shutdown, or never began.
    Released,
}

impl Outcome {
    pub(super) const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Retried,
        Self::Crashed,
        Self::Released,
    ];

    /// In a word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Retried => "retried",
            Self::Crashed => "crashed",
            Self::Released => "released",
        }
    }
}

/// How many attempts were started and ended, and how long they had been due in all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Started.
    pub started: u64,
    /// Ended, those not counted that were handed back.
    pub ended: u64,
    /// How long those that were started had been due.
    pub waited: Duration,
}

/// What a provider's gate is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateLabel {
    /// Admits.
    Open,
    /// Closed by an operator.
    Paused,
    /// Closed by itself.
    Closed,
    /// Lets single executions through.
    Probing,
}

impl GateLabel {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Open, "open"),
        (Self::Paused, "paused"),
        (Self::Closed, "closed"),
        (Self::Probing, "probing"),
    ];
}

/// What the store, all replicas together, says of a provider.
#[derive(Debug, Clone)]
pub struct ProviderFigures {
    /// Executions pending.
    pub pending: u64,
    /// Executions running.
    pub running: u64,
    /// Executions that are ready and wait.
    pub queue_depth: u64,
    /// Since when the one of them that has been ready longest is due.
    pub oldest_age: Duration,
    /// The limit in force.
    pub limit: u32,
    /// What the gate is doing.
    pub gate: GateLabel,
}

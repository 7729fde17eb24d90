//! The log: every change of every execution and provider, in the order it was committed.

use serde::{Deserialize, Serialize};

use super::{
    ClosedBy, ExecutionId, Failure, Handle, Hold, Limits, Overrides, ProviderName, Reserved,
    Shortage, State, Step, Timestamp, Token, Usage, Wait, WorkerId,
};

/// One entry of the log. Revisions are dense: each is one more than the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Position in the log.
    pub revision: i64,
    /// When it was committed, on the store's clock.
    pub at: Timestamp,
    /// The provider concerned.
    pub provider: ProviderName,
    /// The execution that changed; `None` if the provider itself did.
    pub execution: Option<ExecutionId>,
    /// What changed.
    pub change: Change,
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A new execution is pending.
    Submitted {
        /// What it waits for.
        wait: Wait,
    },
    /// A worker took it: pending to running.
    Claimed {
        /// The fencing number of this attempt.
        token: Token,
        /// Who runs it.
        worker: WorkerId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Attempts charged so far, this one included.
        charged: u32,
        /// How the provider knows the work that this attempt goes on with, if it is not to begin
        /// it anew.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handle: Option<Handle>,
        /// What it took of the provider's budgets, where it has such.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved: Option<Reserved>,
    },
    /// The running attempt learnt how its provider knows the work.
    Attached {
        /// How.
        handle: Handle,
    },
    /// The attempt ended and another is to follow: running to pending.
    Requeued {
        /// How the attempt ended.
        ended: AttemptEnd,
        /// What it waits for now.
        wait: Wait,
        /// Attempts charged so far.
        charged: u32,
        /// Crashes so far.
        crashes: u32,
    },
    /// It is over.
    Finished {
        /// Succeeded, failed or cancelled.
        state: State,
        /// How its last attempt ended; `None` if it ended while pending.
        ended: Option<AttemptEnd>,
        /// Why it did not succeed.
        failure: Option<Failure>,
        /// Attempts charged.
        charged: u32,
        /// Crashes.
        crashes: u32,
    },
    /// A client asked a running execution to stop, or a pending one is cancelled right after.
    CancelRequested {
        /// Why, in the client's words.
        reason: String,
    },
    /// A pending execution waits for something else than before.
    WaitChanged {
        /// What it waits for now.
        wait: Wait,
    },
    /// A piece of output of a running attempt.
    Output(Chunk),
    /// The provider's limits were declared, overridden or reset.
    LimitsChanged {
        /// From the configuration.
        declared: Box<Limits>,
        /// From `SetLimits`.
        overriding: Option<Box<Overrides>>,
        /// What holds from this revision on.
        effective: Box<Limits>,
        /// When the override is taken back, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// Why, in the operator's words.
        reason: String,
        /// Who changed them; empty if that is not known, or nobody did.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        actor: String,
        /// Set if nobody did: the limit moved by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<Step>,
    },
    /// The provider admits nothing from this revision on.
    Paused {
        /// Why, in the operator's words.
        reason: String,
        /// When it resumes by itself, if it does.
        until: Option<Timestamp>,
    },
    /// The provider admits again.
    Resumed {
        /// Why.
        reason: String,
    },
    /// The provider's gate closed by itself.
    GateClosed {
        /// What closed it.
        cause: ClosedBy,
        /// Nothing is admitted before this.
        until: Timestamp,
        /// In the provider's words.
        reason: String,
    },
    /// That time is over: one execution at a time is admitted to see whether it is better.
    GateProbing {
        /// What had closed it.
        cause: ClosedBy,
        /// In the provider's words.
        reason: String,
    },
    /// It is better: the gate is open.
    GateOpened {},
    /// Some of the provider's work is held back, or no longer is, though the gate is open. This is all
    /// that is held back from now on.
    Held {
        /// What.
        holds: Vec<Hold>,
    },
    /// A worker that could take the provider's ready work leaves it because its machine is short, and
    /// no other takes it. Also when that worker has something else to say of it.
    ShortOf(Shortage),
    /// That is no longer so: the work is taken, the machine has room, or nothing is ready.
    ShortageOver {
        /// Who found that out.
        worker: WorkerId,
    },
}

impl Change {
    /// Whether this is a piece of output rather than a change of state.
    pub const fn is_output(&self) -> bool {
        matches!(self, Self::Output(_))
    }

    /// Whether it says what an operator, or a configuration, wants the limits to be.
    pub const fn is_said_of_limits(&self) -> bool {
        matches!(self, Self::LimitsChanged { step: None, .. })
    }

    /// Whether it is the provider that changed, and no execution.
    pub const fn is_about_a_provider(&self) -> bool {
        matches!(self, Self::LimitsChanged { .. }) || self.is_gate()
    }

    /// How the attempt ended whose end this is.
    pub const fn ended(&self) -> Option<&AttemptEnd> {
        match self {
            Self::Requeued { ended, .. } => Some(ended),
            Self::Finished { ended, .. } => ended.as_ref(),
            _ => None,
        }
    }

    /// Whether the change opens or closes the provider's gate.
    pub const fn is_gate(&self) -> bool {
        matches!(
            self,
            Self::Paused { .. }
                | Self::Resumed { .. }
                | Self::ShortOf(_)
                | Self::ShortageOver { .. }
                | Self::Held { .. }
                | Self::GateClosed { .. }
                | Self::GateProbing { .. }
                | Self::GateOpened {}
        )
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// The token it ran under.
    pub token: Token,
    /// Who ran it.
    pub worker: WorkerId,
    /// In one word.
    pub cause: EndCause,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Why an attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// It did what it should.
    Succeeded,
    /// It failed.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// Its worker handed it back: at shutdown, or because it got it too late to begin.
    Released,
    /// It panicked under its worker.
    Crashed,
    /// Its worker fell silent and the lease ran out, or the worker is known to be gone.
    Lost,
}

/// A piece of output, in the order it was produced within its attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The attempt that produced it.
    pub attempt: u32,
    /// Position within the attempt, from 0.
    pub index: i64,
    /// Where it came from.
    pub stream: OutputStream,
    /// What was produced.
    pub content: ChunkContent,
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// The result itself, as it grows.
    Result,
    /// A module's standard output.
    Stdout,
    /// A module's standard error.
    Stderr,
}

/// Output as text where it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkContent {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Data(Vec<u8>),
}

impl ChunkContent {
    /// Its size in bytes.
    pub const fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Data(data) => data.len(),
        }
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

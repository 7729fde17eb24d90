//! An execution as clients see it: what was submitted, and the log folded over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AttemptEnd, Change, Demand, Event, ExecutionId, Failure, Handle, ProviderName, RetryPolicy,
    Timestamp, TraceContext, Usage, WorkerId,
};

/// Where an execution is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting to be claimed.
    Pending,
    /// Claimed by a worker.
    Running,
    /// Over, and did what it should.
    Succeeded,
    /// Over, and did not.
    Failed,
    /// Over, on request.
    Cancelled,
}

impl State {
    /// Every state, in the order of life.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing can change any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What a pending execution waits for, the provider's gate left out: a paused provider makes all
/// of its pending executions wait without a row of theirs being touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Nothing: it is about to be claimed.
    None,
    /// Room under the provider's limit.
    Limit,
    /// Its `schedule_time`.
    Scheduled {
        /// That time.
        until: Timestamp,
    },
    /// The end of the pause between two attempts.
    Backoff {
        /// That end.
        until: Timestamp,
    },
}

/// The provider's request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// A JSON object, as text.
    pub json: String,
    /// Whether the client gave the text itself (`input_json`) rather than a `Struct`.
    pub exact: bool,
}

/// What was submitted; never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Identifies the execution.
    pub id: ExecutionId,
    /// Who is to do the work.
    pub provider: ProviderName,
    /// The work.
    pub input: Input,
    /// What it may take of its provider's budgets, where the input tells.
    pub demand: Option<Demand>,
    /// Makes a repeated submission harmless.
    pub request_id: Option<String>,
    /// Higher is first.
    pub priority: i32,
    /// The client's own marks.
    pub labels: BTreeMap<String, String>,
    /// Not before this.
    pub schedule_at: Option<Timestamp>,
    /// The longest it may wait for its first start.
    pub queue_timeout: Option<Duration>,
    /// The longest one attempt may take.
    pub run_timeout: Duration,
    /// What follows a failed attempt.
    pub retry: RetryPolicy,
    /// What follows an attempt that was lost.
    pub on_lost: OnLost,
    /// The finished execution that this one runs again.
    pub retry_of: Option<ExecutionId>,
    /// The trace that the submission belongs to; its attempts are children of this.
    pub trace: Option<TraceContext>,
    /// When it was submitted.
    pub created_at: Timestamp,
}

/// What follows an attempt that was lost with its worker, or handed back by it, where the provider
/// gave no handle to go on with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Another attempt, which may do again what was done.
    #[default]
    Rerun,
    /// The execution fails: what it does must not be done twice.
    Fail,
}

/// What request ids of Flowgate's own begin with: no client's can, since it is not printable.
pub const OWN_REQUEST_ID: char = '\u{1}';

impl Spec {
    /// The request id that the client gave.
    pub fn client_request_id(&self) -> Option<&str> {
        self.request_id.as_deref().filter(|id| !id.starts_with(OWN_REQUEST_ID))
    }
}

/// One try at an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// From 1, in the order of the claims.
    pub number: u32,
    /// Who ran it.
    pub worker: WorkerId,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it was settled or given up.
    pub ended_at: Option<Timestamp>,
    /// How its provider knows the work, where it says.
    pub handle: Option<Handle>,
    /// How it ended.
    pub end: Option<AttemptEnd>,
}

impl Attempt {
    /// What it consumed, if known.
    pub fn usage(&self) -> Option<Usage> {
        self.end.as_ref().and_then(|end| end.usage)
    }
}

/// An execution at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// What was submitted.
    pub spec: Arc<Spec>,
    /// Where it is.
    pub state: State,
    /// What it waits for while pending.
    pub wait: Wait,
    /// Every try so far.
    pub attempts: Vec<Attempt>,
    /// Tries counted against `max_attempts`.
    pub charged: u32,
    /// Tries lost with their worker.
    pub crashes: u32,
    /// Why it did not succeed.
    pub failure: Option<Failure>,
    /// When a client first asked it to stop, and why.
    pub cancel: Option<(Timestamp, String)>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The revision of that change.
    pub revision: i64,
    /// The result, as JSON text; attached by the reader, not by the log.
    pub output: Option<Arc<str>>,
}

impl Execution {
    /// The execution before the first entry of its log.
    pub fn unlogged(spec: Arc<Spec>) -> Self {
        let updated_at = spec.created_at;
        Self {
            spec,
            state: State::Pending,
            wait: Wait::None,
            attempts: Vec::new(),
            charged: 0,
            crashes: 0,
            failure: None,
            cancel: None,
            ended_at: None,
            updated_at,
            revision: 0,
            output: None,
        }
    }

    /// Folds one entry of the execution's own log into it.
    pub fn apply(&mut self, event: &Event) {
        match &event.change {
            Change::Submitted { wait } | Change::WaitChanged { wait } => self.wait = *wait,
            Change::Claimed { worker, attempt, charged, handle, token: _, reserved: _ } => {
                self.state = State::Running;
                self.wait = Wait::None;
                self.charged = *charged;
                self.attempts.push(Attempt {
                    number: *attempt,
                    worker: *worker,
                    started_at: event.at,
                    ended_at: None,
                    handle: handle.clone(),
                    end: None,
                });
            }
            Change::Attached { handle } => {
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.handle = Some(handle.clone());
                }
            }
            Change::Requeued { ended, wait, charged, crashes } => {
                self.state = State::Pending;
                self.wait = *wait;
                self.charged = *charged;
                self.crashes = *crashes;
                self.end_attempt(event.at, ended);
            }
            Change::Finished { state, ended, failure, charged, crashes } => {
                self.state = *state;
                self.wait = Wait::None;
                self.charged = *charged;
                self.crashes = *crashes;
                self.failure.clone_from(failure);
                self.ended_at = Some(event.at);
                if let Some(ended) = ended {
                    self.end_attempt(event.at, ended);
                }
            }
            Change::CancelRequested { reason } => {
                self.cancel.get_or_insert_with(|| (event.at, reason.clone()));
            }
            Change::Output(_) => return,
            Change::LimitsChanged { .. }
            | Change::Paused { .. }
            | Change::Resumed { .. }
            | Change::GateClosed { .. }
            | Change::GateProbing { .. }
            | Change::GateOpened {}
            | Change::Held { .. }
            | Change::ShortOf(_)
            | Change::ShortageOver { .. } => return,
        }
        self.updated_at = event.at;
        self.revision = event.revision;
    }

    fn end_attempt(&mut self, at: Timestamp, ended: &AttemptEnd) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended_at = Some(at);
            attempt.end = Some(ended.clone());
        }
    }

    /// When the first attempt began.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.attempts.first().map(|attempt| attempt.started_at)
    }
}

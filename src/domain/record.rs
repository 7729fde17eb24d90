//! The hot row of an execution and the only ways it may change.
//!
//! Every method that changes a record returns the entry for the log, so that no change can go
//! unlogged. A worker's write takes the [`Lease`] it was given: one whose token, owner or state no
//! longer matches is [`Fenced`] and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::{
    AttemptEnd, COMMON_LANE, Change, Demand, EndCause, ErrorCode, ExecutionId, Failure, Handle,
    MAX_CRASHES, OnLost, ProviderName, Reserved, Spec, State, Timestamp, Token, Usage, Wait,
    WorkerId,
};

/// What the store keeps at hand of an execution to admit, fence and expire it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which execution.
    pub id: ExecutionId,
    /// Whose limit it counts against.
    pub provider: ProviderName,
    /// Where it is.
    pub state: State,
    /// What it waits for while pending.
    pub wait: Wait,
    /// Whether its last attempt was lost: such executions are claimed before all others.
    pub interrupted: bool,
    /// Higher is first.
    pub priority: i32,
    /// Not claimed before this.
    pub due_at: Timestamp,
    /// Its place in the queue: the time at which it became due, less the head start that its priority
    /// gives it. The earlier is claimed first, so that whatever is ready is overtaken only for a time.
    pub rank: Timestamp,
    /// The queue it waits in: that of its model if it has limits of its own, else the common one.
    pub lane: String,
    /// What it may take of its provider's budgets, where its input tells.
    pub demand: Option<Demand>,
    /// Fails if it was never claimed by then.
    pub queue_deadline: Option<Timestamp>,
    /// The fencing number of the newest claim.
    pub token: Token,
    /// Who holds the lease while running.
    pub owner: Option<WorkerId>,
    /// When the lease ends while running.
    pub lease_expires_at: Option<Timestamp>,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts counted against `max_attempts`.
    pub charged: u32,
    /// Attempts lost with their worker.
    pub crashes: u32,
    /// When a client first asked it to stop.
    pub cancel_requested_at: Option<Timestamp>,
    /// How the provider knows the work of the newest attempt, while that may go on there: an
    /// attempt after a crash takes it up again instead of starting it anew.
    pub handle: Option<Handle>,
    /// What follows an attempt that was lost without a handle.
    pub on_lost: OnLost,
}

/// The place in the queue of what is due at `due_at`.
fn rank(due_at: Timestamp, priority: i32, head_start: Duration) -> Timestamp {
    let head_start = i64::try_from(head_start.as_micros()).unwrap_or(i64::MAX);
    let ahead = i64::from(priority).saturating_mul(head_start);
    Timestamp::from_micros(due_at.as_micros().saturating_sub(ahead))
}

/// The right to run one attempt until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Of which execution.
    pub id: ExecutionId,
    /// The fencing number.
    pub token: Token,
    /// Who holds it.
    pub owner: WorkerId,
}

impl Lease {
    /// What the log says of the end of the attempt that ran under this lease: its own token, so
    /// that the audit would see a settlement that slipped past the check.
    fn end(&self, cause: EndCause, failure: Option<Failure>, usage: Option<Usage>) -> AttemptEnd {
        AttemptEnd { token: self.token, worker: self.owner, cause, failure, usage }
    }
}

/// The lease is no longer held: another claim, a cancellation or a reclaim came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is no longer held")]
pub struct Fenced;

/// How a worker says an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It did what it should.
    Succeeded {
        /// The result, as JSON text.
        output: Arc<str>,
        /// What it consumed.
        usage: Option<Usage>,
    },
    /// It failed for good.
    Failed {
        /// What went wrong.
        failure: Failure,
        /// What there is of a result.
        output: Option<Arc<str>>,
        /// What it consumed.
        usage: Option<Usage>,
    },
    /// It failed and is to be tried again.
    Retry {
        /// What went wrong.
        failure: Failure,
        /// Not before this much time has passed.
        delay: Duration,
        /// Whether the attempt counts against `max_attempts`.
        charged: bool,
        /// What it consumed.
        usage: Option<Usage>,
    },
    /// It was stopped on request.
    Cancelled {
        /// What was really stopped, and anything else worth knowing.
        failure: Failure,
        /// What there is of a result.
        output: Option<Arc<str>>,
        /// What it consumed.
        usage: Option<Usage>,
    },
    /// It panicked.
    Crashed {
        /// What is known of it.
        failure: Failure,
    },
    /// It is handed back, unfinished and uncharged.
    Released {
        /// Whether the provider was asked for anything.
        begun: bool,
    },
}

impl Ending {
    /// What the attempt consumed, if known.
    pub const fn usage(&self) -> Option<Usage> {
        match self {
            Self::Succeeded { usage, .. }
            | Self::Failed { usage, .. }
            | Self::Retry { usage, .. }
            | Self::Cancelled { usage, .. } => *usage,
            Self::Crashed { .. } | Self::Released { .. } => None,
        }
    }
}

impl Record {
    /// A new pending execution. `wait` is what it waits for if it is due.
    /// Each point of priority is worth `head_start` in the queue.
    pub fn submit(spec: &Spec, now: Timestamp, wait: Wait, head_start: Duration) -> (Self, Change) {
        let due_at = spec.schedule_at.unwrap_or(now).max(now);
        let wait = if due_at > now { Wait::Scheduled { until: due_at } } else { wait };
        let record = Self {
            id: spec.id,
            provider: spec.provider.clone(),
            state: State::Pending,
            wait,
            interrupted: false,
            priority: spec.priority,
            due_at,
            rank: rank(due_at, spec.priority, head_start),
            lane: COMMON_LANE.to_owned(),
            demand: spec.demand.clone(),
            queue_deadline: spec.queue_timeout.map(|timeout| due_at + timeout),
            token: Token::default(),
            owner: None,
            lease_expires_at: None,
            attempts: 0,
            charged: 0,
            crashes: 0,
            cancel_requested_at: None,
            handle: None,
            on_lost: spec.on_lost,
        };
        (record, Change::Submitted { wait })
    }

    /// Whether a claim may take it, the provider's limit and gate apart.
    pub fn is_ready(&self) -> bool {
        self.state == State::Pending && matches!(self.wait, Wait::None | Wait::Limit)
    }

    /// What orders those of one provider: the least is claimed first.
    pub fn turn(&self) -> (bool, Timestamp, ExecutionId) {
        (!self.interrupted, self.rank, self.id)
    }

    /// Whether a claim takes it only to stop it where its work may go on.
    pub fn is_to_be_stopped(&self) -> bool {
        self.is_ready() && self.interrupted && self.cancel_requested_at.is_some()
    }

    /// Takes a ready execution: pending to running.
    /// `reserved` is what it takes of its provider's budgets.
    pub fn claim(
        &mut self,
        worker: WorkerId,
        now: Timestamp,
        lease: Duration,
        reserved: Option<Reserved>,
    ) -> (Lease, Change) {
        debug_assert!(self.is_ready(), "only a ready execution is claimed");
        self.state = State::Running;
        self.wait = Wait::None;
        self.interrupted = false;
        self.queue_deadline = None;
        self.token = self.token.next();
        self.owner = Some(worker);
        self.lease_expires_at = Some(now + lease);
        self.attempts += 1;
        self.charged += 1;
        let change = Change::Claimed {
            token: self.token,
            worker,
            attempt: self.attempts,
            charged: self.charged,
            handle: self.handle.clone(),
            reserved,
        };
        (Lease { id: self.id, token: self.token, owner: worker }, change)
    }

    /// Whether `lease` is the one that this execution runs under.
    pub fn holds(&self, lease: &Lease) -> Result<(), Fenced> {
        let held = self.state == State::Running
            && self.token == lease.token
            && self.owner == Some(lease.owner);
        if held { Ok(()) } else { Err(Fenced) }
    }

    /// Extends the lease.
    pub fn renew(&mut self, lease: &Lease, until: Timestamp) -> Result<(), Fenced> {
        self.holds(lease)?;
        self.lease_expires_at = Some(until);
        Ok(())
    }

    /// Notes how the provider knows the work of the attempt.
    pub fn attach(&mut self, lease: &Lease, handle: Handle) -> Result<Change, Fenced> {
        self.holds(lease)?;
        self.handle = Some(handle.clone());
        Ok(Change::Attached { handle })
    }

    /// Records how the attempt ended.
    pub fn settle(
        &mut self,
        lease: &Lease,
        ending: &Ending,
        now: Timestamp,
    ) -> Result<Change, Fenced> {
        self.holds(lease)?;
        let cancelling = self.cancel_requested_at.is_some();
        let change = match ending {
            Ending::Succeeded { usage, .. } => {
                let end = lease.end(EndCause::Succeeded, None, *usage);
                self.finish(State::Succeeded, Some(end), None)
            }
            Ending::Failed { failure, usage, .. } => {
                let end = lease.end(EndCause::Failed, Some(failure.clone()), *usage);
                self.finish(State::Failed, Some(end), Some(failure.clone()))
            }
            Ending::Cancelled { failure, usage, .. } => {
                let end = lease.end(EndCause::Cancelled, Some(failure.clone()), *usage);
                self.finish(State::Cancelled, Some(end), Some(failure.clone()))
            }
            Ending::Retry { failure, usage, delay, charged } => {
                let end = lease.end(EndCause::Failed, Some(failure.clone()), *usage);
                if !charged {
                    self.charged = self.charged.saturating_sub(1);
                }
                // That work is over. The next attempt begins its own.
                self.handle = None;
                if cancelling {
                    self.cancelled_between_attempts(end)
                } else {
                    let until = now + *delay;
                    let wait = if delay.is_zero() { Wait::None } else { Wait::Backoff { until } };
                    // What cost no attempt keeps its place in the queue.
                    let keeps_place = !charged && delay.is_zero();
                    let due_at = if keeps_place { self.due_at } else { until };
                    self.requeue(end, wait, due_at)
                }
            }
            Ending::Crashed { failure } => {
                let end = lease.end(EndCause::Crashed, Some(failure.clone()), None);
                self.crash(end, now)
            }
            Ending::Released { begun } => {
                let failure = Failure::new(
                    ErrorCode::Released,
                    true,
                    "handed back by its worker, unfinished",
                );
                let end = lease.end(EndCause::Released, Some(failure), None);
                self.charged = self.charged.saturating_sub(1);
                self.interrupt(end, *begun, now)
            }
        };
        Ok(change)
    }

    /// Takes a running execution from a worker that is gone.
    pub fn reclaim(&mut self, now: Timestamp, message: &str) -> Change {
        debug_assert_eq!(self.state, State::Running, "only a running execution is reclaimed");
        let failure = Failure::new(ErrorCode::Crashed, true, message);
        let owner = self.owner.expect("a running execution has an owner");
        let lease = Lease { id: self.id, token: self.token, owner };
        let end = lease.end(EndCause::Lost, Some(failure), None);
        self.crash(end, now)
    }

    /// Cancels a pending execution, or asks a running one to stop. Nothing to log if it is over
    /// already or was asked before.
    pub fn cancel(&mut self, reason: &str, now: Timestamp) -> Vec<Change> {
        if self.state.is_terminal() || self.cancel_requested_at.is_some() {
            return Vec::new();
        }
        self.cancel_requested_at = Some(now);
        let mut changes = vec![Change::CancelRequested { reason: reason.to_owned() }];
        // One that may go on at its provider is claimed once more, to be stopped there.
        if self.state == State::Pending && self.handle.is_none() {
            let failure = Failure::new(ErrorCode::Cancelled, false, "cancelled while pending");
            changes.push(self.finish(State::Cancelled, None, Some(failure)));
        }
        changes
    }

    /// Notes what a pending execution waits for from now on.
    pub fn wait_for(&mut self, wait: Wait) -> Change {
        debug_assert_eq!(self.state, State::Pending, "only a pending execution waits");
        self.wait = wait;
        Change::WaitChanged { wait }
    }

    /// Fails a pending execution that was not claimed in time.
    pub fn expire_in_queue(&mut self) -> Change {
        debug_assert_eq!(self.state, State::Pending, "only a pending execution expires");
        let failure = Failure::new(
            ErrorCode::QueueTimeout,
            false,
            "queue_timeout passed before the execution could start",
        );
        self.finish(State::Failed, None, Some(failure))
    }

    fn crash(&mut self, end: AttemptEnd, now: Timestamp) -> Change {
        self.charged = self.charged.saturating_sub(1);
        self.crashes += 1;
        if self.crashes >= MAX_CRASHES {
            if self.cancel_requested_at.is_some() {
                return self.cancelled_between_attempts(end);
            }
            let message = format!("given up after {} crashed attempts", self.crashes);
            let failure = Failure::new(ErrorCode::Crashed, false, message);
            return self.finish(State::Failed, Some(end), Some(failure));
        }
        self.interrupt(end, true, now)
    }

    /// What follows an attempt that ended before its work did.
    fn interrupt(&mut self, end: AttemptEnd, begun: bool, now: Timestamp) -> Change {
        if self.handle.is_none() {
            if self.cancel_requested_at.is_some() {
                return self.cancelled_between_attempts(end);
            }
            if begun && self.on_lost == OnLost::Fail {
                let message = "the attempt did not end, and on_lost forbids another";
                let failure = Failure::new(ErrorCode::Lost, false, message);
                return self.finish(State::Failed, Some(end), Some(failure));
            }
        }
        self.interrupted = true;
        self.requeue(end, Wait::None, now)
    }

    /// The queue it belongs to, where these models have one of their own.
    pub fn own_lane(&self, has_lane: impl Fn(&str) -> bool) -> &str {
        let model = self.demand.as_ref().and_then(|demand| demand.model.as_deref());
        model.filter(|model| has_lane(model)).unwrap_or(COMMON_LANE)
    }

    fn cancelled_between_attempts(&mut self, end: AttemptEnd) -> Change {
        let failure = Failure::new(ErrorCode::Cancelled, false, "cancelled before another attempt");
        self.finish(State::Cancelled, Some(end), Some(failure))
    }

    fn requeue(&mut self, ended: AttemptEnd, wait: Wait, due_at: Timestamp) -> Change {
        self.state = State::Pending;
        self.wait = wait;
        let head_start = self.due_at.as_micros().saturating_sub(self.rank.as_micros());
        self.rank = Timestamp::from_micros(due_at.as_micros().saturating_sub(head_start));
        self.due_at = due_at;
        self.owner = None;
        self.lease_expires_at = None;
        Change::Requeued { ended, wait, charged: self.charged, crashes: self.crashes }
    }

    fn finish(
        &mut self,
        state: State,
        ended: Option<AttemptEnd>,
        failure: Option<Failure>,
    ) -> Change {
        self.state = state;
        self.wait = Wait::None;
        self.owner = None;
        self.lease_expires_at = None;
        self.queue_deadline = None;
        self.handle = None;
        Change::Finished { state, ended, failure, charged: self.charged, crashes: self.crashes }
    }
}

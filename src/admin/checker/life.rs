//! An execution as the log has it: the state machine, told a second time and independently.

use std::fmt;

use super::finding::{Findings, Rule};
use crate::domain::{
    AttemptEnd, Change, EndCause, ErrorCode, Event, Handle, MAX_CRASHES, ProviderName, Record,
    State, Token, Wait, WorkerId,
};

/// An execution that is not over.
#[derive(Debug, Clone)]
pub(super) struct Life {
    provider: ProviderName,
    state: State,
    ready: bool,
    cancelled: bool,
    token: Token,
    worker: Option<WorkerId>,
    attempts: u32,
    charged: u32,
    crashes: u32,
    /// Pieces of output of the attempt that runs.
    chunks: i64,
    /// How its provider knows work that may go on there.
    handle: Option<Handle>,
}

/// What an execution comes to; all that is kept of one that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    state: State,
    token: Token,
    attempts: u32,
    charged: u32,
    crashes: u32,
}

impl Tally {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            state: record.state,
            token: record.token,
            attempts: record.attempts,
            charged: record.charged,
            crashes: record.crashes,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, token, attempts, charged, crashes } = self;
        let state = word(*state);
        write!(f, "{state}, token {}, {attempts} attempts, {charged} charged, ", token.0)?;
        write!(f, "{crashes} crashes")
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

const fn is_ready(wait: Wait) -> bool {
    matches!(wait, Wait::None | Wait::Limit)
}

impl Life {
    pub(super) fn submitted(provider: ProviderName, wait: Wait) -> Self {
        Self {
            provider,
            state: State::Pending,
            ready: is_ready(wait),
            cancelled: false,
            token: Token::default(),
            worker: None,
            attempts: 0,
            charged: 0,
            crashes: 0,
            chunks: 0,
            handle: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether it is claimed only to be stopped where its work may go on.
    pub(super) fn is_to_be_stopped(&self) -> bool {
        self.cancelled && self.handle.is_some()
    }

    pub(super) fn is_cancelled_but_pending(&self) -> bool {
        self.cancelled && self.state == State::Pending && self.handle.is_none()
    }

    /// What it came to, once it is over.
    pub(super) fn tally(&self) -> Option<Tally> {
        self.state.is_terminal().then(|| self.tally_so_far())
    }

    pub(super) fn tally_so_far(&self) -> Tally {
        let Self { state, token, attempts, charged, crashes, .. } = *self;
        Tally { state, token, attempts, charged, crashes }
    }

    /// Takes an entry that is neither its submission nor its provider's.
    pub(super) fn apply(&mut self, event: &Event, findings: &mut Findings<'_>) {
        findings.expect(Rule::Transitions, event.provider == self.provider, || {
            format!("it was submitted to {}", self.provider)
        });
        match &event.change {
            Change::Claimed { token, worker, attempt, charged, handle, reserved: _ } => {
                findings.expect(Rule::Cancel, !self.cancelled || handle.is_some(), || {
                    "claimed after a cancel".to_owned()
                });
                findings.expect(Rule::Handles, *handle == self.handle, || {
                    "claimed without what is known of its work at the provider".to_owned()
                });
                self.claim(*token, *worker, *attempt, *charged, findings);
            }
            Change::Attached { handle } => {
                self.was(State::Running, "known to its provider", findings);
                self.handle = Some(handle.clone());
            }
            Change::Requeued { ended, wait, charged, crashes } => {
                self.requeue(ended, *wait, (*charged, *crashes), findings);
            }
            Change::Finished { state, ended, failure, charged, crashes } => {
                findings.expect(
                    Rule::Transitions,
                    failure.is_some() == (*state != State::Succeeded),
                    || format!("{} with a failure that does not fit", word(*state)),
                );
                let lost = failure.as_ref().is_some_and(|it| it.code == ErrorCode::Lost);
                let lost = lost && self.handle.is_none();
                self.finish(*state, ended.as_ref(), (*charged, *crashes), lost, findings);
            }
            Change::CancelRequested { .. } => {
                findings.expect(Rule::Cancel, !self.cancelled, || "cancelled twice".to_owned());
                self.cancelled = true;
            }
            Change::WaitChanged { wait } => {
                self.was(State::Pending, "waits for something else", findings);
                self.ready = is_ready(*wait);
            }
            Change::Output(chunk) => {
                self.was(State::Running, "gave output", findings);
                let (attempt, index) = (self.attempts, self.chunks);
                findings.expect(Rule::Output, chunk.attempt == attempt, || {
                    format!("output of attempt {} during attempt {attempt}", chunk.attempt)
                });
                findings.expect(Rule::Output, chunk.index == index, || {
                    format!("piece {} of output where piece {index} was next", chunk.index)
                });
                self.chunks = chunk.index.saturating_add(1);
            }
            Change::Submitted { .. }
            | Change::LimitsChanged { .. }
            | Change::Paused { .. }
            | Change::Resumed { .. }
            | Change::GateClosed { .. }
            | Change::GateProbing { .. }
            | Change::GateOpened {}
            | Change::Held { .. }
            | Change::ShortOf(_)
            | Change::ShortageOver { .. } => {}
        }
    }

    fn claim(
        &mut self,
        token: Token,
        worker: WorkerId,
        attempt: u32,
        charged: u32,
        findings: &mut Findings<'_>,
    ) {
        self.was(State::Pending, "claimed", findings);
        findings.expect(Rule::Readiness, self.ready, || {
            "claimed while it waited for a time".to_owned()
        });
        findings.expect(Rule::Fencing, token > self.token, || {
            format!("claimed with token {}, which is not above {}", token.0, self.token.0)
        });
        findings.expect(Rule::Counters, attempt == self.attempts + 1, || {
            format!("attempt {attempt} follows attempt {}", self.attempts)
        });
        findings.expect(Rule::Counters, charged == self.charged + 1, || {
            format!("{charged} attempts charged by a claim that found {}", self.charged)
        });
        self.state = State::Running;
        (self.token, self.worker) = (token, Some(worker));
        (self.attempts, self.charged, self.chunks) = (attempt, charged, 0);
    }

    fn requeue(
        &mut self,
        ended: &AttemptEnd,
        wait: Wait,
        counters: (u32, u32),
        findings: &mut Findings<'_>,
    ) {
        self.was(State::Running, "given back", findings);
        self.held(ended, findings);
        // What its provider may go on with is claimed once more, to be stopped there.
        self.handle = self.handle.take().filter(|_| ended.cause != EndCause::Failed);
        findings.expect(Rule::Cancel, !self.cancelled || self.handle.is_some(), || {
            "given back for another attempt after a cancel".to_owned()
        });
        let (over, uncharged) = match ended.cause {
            EndCause::Succeeded | EndCause::Cancelled => (true, false),
            EndCause::Failed => (false, self.charged == counters.0 + 1),
            EndCause::Released | EndCause::Crashed | EndCause::Lost => (false, true),
        };
        findings.expect(Rule::Transitions, !over, || {
            format!("given back after an attempt that {}", cause(ended.cause))
        });
        self.count(ended.cause, uncharged, counters, findings);
        findings.expect(Rule::Counters, counters.1 < MAX_CRASHES, || {
            format!("given back after {} crashes", counters.1)
        });
        self.state = State::Pending;
        self.ready = is_ready(wait);
        self.worker = None;
    }

    fn finish(
        &mut self,
        state: State,
        ended: Option<&AttemptEnd>,
        counters: (u32, u32),
        lost: bool,
        findings: &mut Findings<'_>,
    ) {
        findings.expect(Rule::Transitions, state.is_terminal(), || {
            format!("over, but {}", word(state))
        });
        match ended {
            None => {
                self.was(State::Pending, "over without an attempt's end", findings);
                let cancelled = state == State::Cancelled && self.cancelled;
                let expired = state == State::Failed && self.attempts == 0;
                findings.expect(Rule::Transitions, cancelled || expired, || {
                    format!("{} while it was pending, for no reason", word(state))
                });
                let same = counters == (self.charged, self.crashes);
                findings.expect(Rule::Counters, same, || {
                    "counters moved while it was pending".to_owned()
                });
            }
            Some(ended) => {
                self.was(State::Running, "over after an attempt", findings);
                self.held(ended, findings);
                let given_up = counters.1 >= MAX_CRASHES;
                let (fits, uncharged) = match ended.cause {
                    EndCause::Succeeded => (state == State::Succeeded, false),
                    EndCause::Cancelled => (state == State::Cancelled, false),
                    EndCause::Failed => {
                        let between = state == State::Cancelled && self.cancelled;
                        let uncharged = between && self.charged == counters.0 + 1;
                        (state == State::Failed || between, uncharged)
                    }
                    EndCause::Released => {
                        let between = state == State::Cancelled && self.cancelled;
                        (between || (state == State::Failed && lost), true)
                    }
                    EndCause::Crashed | EndCause::Lost => {
                        let between = state == State::Cancelled && self.cancelled;
                        (between || (state == State::Failed && (given_up || lost)), true)
                    }
                };
                findings.expect(Rule::Transitions, fits, || {
                    format!("{} after an attempt that {}", word(state), cause(ended.cause))
                });
                self.count(ended.cause, uncharged, counters, findings);
            }
        }
        self.state = if state.is_terminal() { state } else { State::Failed };
        (self.charged, self.crashes) = counters;
        self.worker = None;
    }

    fn was(&self, state: State, happened: &str, findings: &mut Findings<'_>) {
        findings.expect(Rule::Transitions, self.state == state, || {
            format!("{happened} while {}", word(self.state))
        });
    }

    /// Whoever ended the attempt held its lease.
    fn held(&self, ended: &AttemptEnd, findings: &mut Findings<'_>) {
        findings.expect(Rule::Fencing, ended.token == self.token, || {
            format!("ended under token {} while token {} holds", ended.token.0, self.token.0)
        });
        findings.expect(Rule::Fencing, Some(ended.worker) == self.worker, || {
            format!("ended by worker {}, who does not hold it", ended.worker)
        });
    }

    /// Takes over the counters after checking them against how the attempt ended.
    fn count(
        &mut self,
        cause: EndCause,
        uncharged: bool,
        (charged, crashes): (u32, u32),
        findings: &mut Findings<'_>,
    ) {
        let crashed = matches!(cause, EndCause::Crashed | EndCause::Lost);
        let expected =
            (self.charged.saturating_sub(u32::from(uncharged)), self.crashes + u32::from(crashed));
        findings.expect(Rule::Counters, (charged, crashes) == expected, || {
            format!(
                "{charged} charged and {crashes} crashes where {} and {} were due",
                expected.0, expected.1
            )
        });
        (self.charged, self.crashes) = (charged, crashes);
    }
}

const fn cause(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Succeeded => "succeeded",
        EndCause::Failed => "failed",
        EndCause::Cancelled => "was cancelled",
        EndCause::Released => "was released",
        EndCause::Crashed => "crashed",
        EndCause::Lost => "was lost",
    }
}

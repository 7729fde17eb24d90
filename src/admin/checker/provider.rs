//! A provider as the log has it: what it may run, and what it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::budget::Budgets;
use super::finding::{Findings, Rule};
use crate::domain::{
    Change, ExecutionId, Limits, Overrides, PROBE_PAUSE, ProviderName, ProviderRecord, Reserved,
    Timestamp, Token, Usage,
};

/// How much later than it was decided an entry may be logged: a claim decides by the time at which its
/// transaction began, and two of them may have waited for different times to be logged.
const SLACK: Duration = Duration::from_secs(2);

/// A gate that closes by itself, as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is open.
    No,
    /// Nothing may be claimed until it is tried again, at this time or later.
    Until(Timestamp),
    /// One at a time may be claimed to see.
    Probing {
        /// The last one, and when it was, while it may still tell.
        last: Option<(ExecutionId, Timestamp)>,
    },
}

impl Closed {
    /// One is let through to see; whether that may be.
    pub(super) fn probed_by(&mut self, id: ExecutionId, at: Timestamp) -> bool {
        let Self::Probing { last } = self else { return false };
        let alone = last.is_none_or(|(_, last)| at + SLACK >= last + PROBE_PAUSE);
        *last = Some((id, at));
        alone
    }

    /// An attempt at this execution is over. What it saw is in the log where it saw anything; if it
    /// did not, the next may follow at once.
    pub(super) fn leave(&mut self, id: ExecutionId) {
        if let Self::Probing { last } = self {
            last.take_if(|(probe, _)| *probe == id);
        }
    }
}

/// A provider as the log has it so far.
#[derive(Debug, Clone)]
pub struct ProviderCheck {
    /// Which.
    pub name: ProviderName,
    /// The limit in force; `None` before the first is in the log.
    pub limit: Option<u32>,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether work waits for a machine with room.
    pub short: bool,
    /// Whether its gate has closed by itself.
    pub closed: Closed,
    /// The most that ever ran at the same time.
    pub max_running: usize,
    /// The limit in force when that many ran.
    pub limit_at_max: Option<u32>,
    /// Claims so far.
    pub claims: u64,
    running: BTreeSet<ExecutionId>,
    budgets: Budgets,
    /// Whether the log has everything of it; not if its beginning was compacted away.
    complete: bool,
}

impl ProviderCheck {
    pub(super) fn new(name: ProviderName, complete: bool) -> Self {
        Self {
            name,
            limit: None,
            paused: false,
            short: false,
            closed: Closed::No,
            max_running: 0,
            limit_at_max: None,
            claims: 0,
            running: BTreeSet::new(),
            budgets: Budgets::default(),
            complete,
        }
    }

    /// What it runs as of now.
    pub fn running(&self) -> Vec<ExecutionId> {
        self.running.iter().copied().collect()
    }

    /// An attempt at one of its executions ended, and consumed this.
    pub(super) fn consumed(&mut self, attempt: (ExecutionId, Token), usage: Usage) {
        self.budgets.end(attempt, usage);
    }

    pub(super) fn apply(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let had_closed = self.budgets.has_closed();
        if change.is_gate() && !matches!(change, Change::Held { .. }) {
            // The newest entry says all there is to say of what is held back.
            self.budgets.held(&[]);
        }
        match change {
            Change::GateClosed { until, .. } => {
                findings.expect(Rule::Gate, !self.paused, || {
                    "closed by itself while it was paused".to_owned()
                });
                (self.closed, self.short) = (Closed::Until(*until), false);
            }
            Change::GateProbing { .. } => {
                let was = matches!(self.closed, Closed::Until(_)) || !self.complete;
                findings.expect(Rule::Gate, was, || "tried again while it was open".to_owned());
                self.closed = Closed::Probing { last: None };
            }
            Change::GateOpened {} => {
                let was = matches!(self.closed, Closed::Probing { .. }) || !self.complete;
                findings.expect(Rule::Gate, was, || "opened without having been tried".to_owned());
                self.closed = Closed::No;
            }
            Change::LimitsChanged { declared, overriding, effective, .. } => {
                findings.expect(
                    Rule::Limits,
                    agrees(declared, overriding.as_deref(), effective),
                    || "the limit in force is neither the override nor the declared one".to_owned(),
                );
                findings.expect(Rule::Limits, effective.max_concurrent > 0, || {
                    "the limit in force is 0".to_owned()
                });
                self.limit = Some(effective.max_concurrent);
                self.budgets.set(effective);
            }
            Change::Paused { .. } => {
                (self.paused, self.short) = (true, false);
            }
            Change::Resumed { .. } => {
                findings.expect(
                    Rule::Gate,
                    // What is held back is not told while work waits for a machine.
                    self.paused
                        || self.closed != Closed::No
                        || had_closed
                        || self.short
                        || !self.complete,
                    || "resumed while it was not paused".to_owned(),
                );
                (self.paused, self.short, self.closed) = (false, false, Closed::No);
            }
            Change::Held { holds } => self.budgets.held(holds),
            Change::ShortOf(_) => {
                findings.expect(Rule::Gate, !self.paused, || {
                    "said to wait for a machine while it was paused".to_owned()
                });
                self.short = true;
            }
            Change::ShortageOver { .. } => {
                findings.expect(Rule::Gate, self.short || !self.complete, || {
                    "a shortage is over that there was not".to_owned()
                });
                self.short = false;
            }
            Change::Submitted { .. }
            | Change::Claimed { .. }
            | Change::Attached { .. }
            | Change::Requeued { .. }
            | Change::Finished { .. }
            | Change::CancelRequested { .. }
            | Change::WaitChanged { .. }
            | Change::Output(_) => {}
        }
    }

    /// A claim of one of its executions. What runs after it counts, so that a lowered limit may
    /// be exceeded by what ran before and by nothing else.
    /// A closed gate does not hold back what is claimed only to be stopped: `held` is false then.
    pub(super) fn admit(
        &mut self,
        attempt: (ExecutionId, Token),
        at: Timestamp,
        held: bool,
        reserved: Option<&Reserved>,
        findings: &mut Findings<'_>,
    ) {
        self.claims += 1;
        self.running.insert(attempt.0);
        let running = self.running.len();
        if running > self.max_running {
            (self.max_running, self.limit_at_max) = (running, self.limit);
        }
        match self.limit {
            Some(limit) => {
                let within = u32::try_from(running).is_ok_and(|running| running <= limit);
                findings.expect(Rule::Limits, within, || {
                    format!("claimed while the limit is {limit}, which makes {running} running")
                });
            }
            None => findings.expect(Rule::Limits, !self.complete, || {
                "claimed while its provider has no limit".to_owned()
            }),
        }
        if !held {
            return;
        }
        self.budgets.begin(attempt, reserved, at, findings);
        findings.expect(Rule::Gate, !self.paused, || {
            "claimed while its provider was paused".to_owned()
        });
        match &mut self.closed {
            Closed::No => {}
            Closed::Until(until) => {
                let until = *until;
                findings.expect(Rule::Gate, false, || {
                    format!("claimed while its provider's gate was closed until {until:?}")
                });
            }
            gate @ Closed::Probing { .. } => {
                let alone = gate.probed_by(attempt.0, at);
                findings.expect(Rule::Gate, alone, || {
                    "claimed while another was let through to see".to_owned()
                });
            }
        }
    }

    pub(super) fn leave(&mut self, id: ExecutionId) {
        if self.running.remove(&id) {
            self.closed.leave(id);
            self.budgets.leave(id);
        }
    }

    pub(super) fn agree(&self, record: &ProviderRecord, findings: &mut Findings<'_>) {
        let row = record.effective().max_concurrent;
        let agrees = self.limit.map_or(!self.complete, |limit| limit == row);
        findings.expect(Rule::Records, agrees, || {
            let logged = self.limit.unwrap_or(0);
            format!("provider {}: its row has limit {row}, the log {logged}", self.name)
        });
        let agrees = self.paused == record.pause.is_some() || !self.complete;
        findings.expect(Rule::Records, agrees, || {
            let (row, logged) = (gate(record.pause.is_some()), gate(self.paused));
            format!("provider {}: it is {row} by its row, {logged} by the log", self.name)
        });
        let row = match (record.health.closure(), record.health.closed_until()) {
            (None, _) => "open",
            (Some(_), Some(_)) => "closed",
            (Some(_), None) => "probing",
        };
        let logged = match self.closed {
            Closed::No => "open",
            Closed::Until(_) => "closed",
            Closed::Probing { .. } => "probing",
        };
        // A pause that is over says anew what holds.
        let agrees = row == logged || self.paused || !self.complete;
        findings.expect(Rule::Records, agrees, || {
            format!("provider {}: its gate is {row} by its row, {logged} by the log", self.name)
        });
        let agrees = self.short == record.shortage.is_some() || !self.complete;
        findings.expect(Rule::Records, agrees, || {
            let (row, logged) = (short(record.shortage.is_some()), short(self.short));
            format!("provider {}: {row} by its row, {logged} by the log", self.name)
        });
    }
}

/// Whether these limits are what an operator set, and where nothing was set what is declared; one that
/// moves by itself is within its bounds.
fn agrees(declared: &Limits, overriding: Option<&Overrides>, effective: &Limits) -> bool {
    let stated = overriding.map_or_else(|| declared.clone(), |set| set.over(declared));
    let expected = match stated.adaptive {
        Some(bounds) => bounds.nearest(effective.max_concurrent) == effective.max_concurrent,
        None => effective.max_concurrent == stated.max_concurrent,
    };
    expected && Limits { max_concurrent: stated.max_concurrent, ..effective.clone() } == stated
}

const fn gate(paused: bool) -> &'static str {
    if paused { "paused" } else { "open" }
}

const fn short(short: bool) -> &'static str {
    if short { "its work waits for a machine" } else { "no work waits for a machine" }
}

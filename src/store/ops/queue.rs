//! A provider's ready executions in the order they are to be claimed: its lanes as one queue, closed
//! ones left out, and no further than its budgets of the minute go.
//!
//! What must stay true: budgets are read, and what begins is counted, under the provider's lock. One
//! that does not fit the budget holds back those behind it in its lane, or of the whole provider if
//! it is the provider's budget, so that small ones never keep a large one waiting for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::share::AT_ONCE;
use crate::domain::{
    Admission, COMMON_LANE, ExecutionId, Flow, Hold, Limits, ProviderName, ProviderRecord, Rates,
    Record, Reserved, Spent, Timestamp,
};
use crate::store::Pick;

/// A provider's ready executions, as a claim sees them.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    flow: Flow,
    /// What the gate of each lane lets through.
    lanes: BTreeMap<String, Admission>,
    looked_at: BTreeSet<String>,
    /// Until when the provider's budget is spent, and those of models.
    spent: Option<Timestamp>,
    models_spent: BTreeMap<String, Timestamp>,
    touched: bool,
    moved: u32,
    /// Whether nothing was looked at, because the budget is spent.
    unseen: bool,
    /// Whether something could begin if the limit were higher.
    left: bool,
}

/// What becomes of the next in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may begin.
    Begins,
    /// It waits, for its gate or its budget.
    Waits,
    /// It belongs to another lane.
    Moves,
}

impl Queue {
    pub(super) fn of(record: &ProviderRecord, now: Timestamp) -> Self {
        let limits = record.effective();
        let mut flow = record.flow.clone();
        flow.keep_lanes(&limits);
        let lanes = flow.lanes(&limits).into_iter().map(|lane| {
            let admission = flow.admission(&lane, now);
            (lane, admission)
        });
        let lanes = lanes.collect();
        // Where nothing may begin, however little it takes, there is no need to look at any.
        let spent = match flow.admits(&limits, COMMON_LANE, None, now) {
            Err(Spent::Provider(until)) => Some(until),
            Ok(()) | Err(Spent::Model(_)) => None,
        };
        // That says nothing of the budgets of models.
        let looked_at = spent.map(|_| COMMON_LANE.to_owned()).into_iter().collect();
        Self {
            unseen: spent.is_some(),
            touched: flow != record.flow,
            limits,
            flow,
            lanes,
            looked_at,
            spent,
            models_spent: BTreeMap::new(),
            moved: 0,
            left: false,
        }
    }

    /// The `max_concurrent` in force.
    pub(super) fn limit(&self) -> u32 {
        self.limits.max_concurrent
    }

    /// What to look at to find the first `most` of the queue.
    pub(super) fn picks(&mut self, provider: &ProviderName, most: u32) -> Vec<Pick> {
        let open = self.lanes.iter().filter(|(_, admission)| **admission != Admission::Nothing);
        let picks = open.map(|(lane, admission)| {
            // One more shows whether the limit is what keeps work waiting.
            let most = most.saturating_add(u32::from(self.limits.adaptive.is_some()));
            // What waits in the common lane and belongs to another is moved by the hundred.
            let most = if self.lanes.len() > 1 { most.max(AT_ONCE) } else { most };
            let most = if *admission == Admission::Probe { 1 } else { most };
            Pick { provider: provider.clone(), lane: lane.clone(), most }
        });
        let picks: Vec<_> = picks.collect();
        self.looked_at.extend(picks.iter().map(|pick| pick.lane.clone()));
        picks
    }

    /// Says that there is nothing in the queue.
    pub(super) fn is_empty(&mut self) {
        (self.spent, self.unseen) = (None, false);
        self.looked_at.extend(self.lanes.keys().cloned());
    }

    /// Whether the gate of this lane holds it back.
    pub(super) fn is_closed(&self, lane: &str) -> bool {
        self.lanes.get(lane) == Some(&Admission::Nothing)
    }

    /// Whether nothing was looked at, because the budget is spent.
    pub(super) fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// Whether some lane is held back by its gate.
    pub(super) fn has_closed(&self) -> bool {
        self.lanes.values().any(|admission| *admission == Admission::Nothing)
    }

    /// The lane that an execution belongs to.
    pub(super) fn lane_of<'a>(&self, record: &'a Record) -> &'a str {
        record.own_lane(|model| self.lanes.contains_key(model))
    }

    /// Whether something was left because of a gate or a budget.
    pub(super) fn holds_back(&self) -> bool {
        self.spent.is_some() || !self.models_spent.is_empty() || self.has_closed()
    }

    /// What becomes of this one, which is the next.
    pub(super) fn turn(&mut self, record: &Record, now: Timestamp) -> Turn {
        if self.lane_of(record) != record.lane {
            self.moved += 1;
            return Turn::Moves;
        }
        let lane = &record.lane;
        // To stop what goes on at the provider takes nothing of its budgets.
        if record.is_to_be_stopped() && !self.is_closed(lane) {
            return Turn::Begins;
        }
        if self.spent.is_some() || self.models_spent.contains_key(lane) || self.is_closed(lane) {
            return Turn::Waits;
        }
        match self.flow.admits(&self.limits, lane, record.demand.as_ref(), now) {
            Ok(()) => Turn::Begins,
            Err(Spent::Provider(until)) => {
                self.spent = Some(until);
                Turn::Waits
            }
            Err(Spent::Model(until)) => {
                self.models_spent.insert(lane.clone(), until);
                Turn::Waits
            }
        }
    }

    /// Counts one that begins.
    pub(super) fn begins(
        &mut self,
        record: &Record,
        id: ExecutionId,
        now: Timestamp,
    ) -> (Option<Reserved>, bool) {
        if record.is_to_be_stopped() {
            return (None, false);
        }
        let probes = self.flow.probed_by(&record.lane, id, now);
        if probes {
            self.lanes.insert(record.lane.clone(), Admission::Nothing);
        }
        let reserved = self
            .limits
            .counts_rates()
            .then(|| self.flow.reserve(&self.limits, &record.lane, record.demand.as_ref(), now));
        self.touched |= probes || reserved.is_some();
        (reserved, probes)
    }

    /// Whether what an attempt of this lane really consumes is of interest.
    pub(super) fn counts_tokens(&self, lane: &str) -> bool {
        let of_model = self.limits.models.get(lane);
        self.limits.rates.counts_tokens() || of_model.is_some_and(Rates::counts_tokens)
    }

    /// Whether the limit moves by itself.
    pub(super) fn is_adaptive(&self) -> bool {
        self.limits.adaptive.is_some()
    }

    /// Notes that something is left that could begin if the limit were higher.
    pub(super) fn leaves_some(&mut self) {
        self.left = true;
    }

    /// Whether there is such.
    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    /// How many were found in a lane that is not theirs.
    pub(super) fn moved(&self) -> u32 {
        self.moved
    }

    /// When the provider is to be looked at again, if something is held back for a time.
    pub(super) fn resumes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let budgets = self.models_spent.values().copied().chain(self.spent);
        budgets.chain(self.flow.next_try(now)).min()
    }

    /// What is left behind at the provider, if that is anything new; and whether it is to be told.
    pub(super) fn leave(mut self, now: Timestamp) -> Option<(Flow, bool)> {
        let of_models = self.models_spent.into_iter();
        let of_models = of_models.map(|(model, until)| Hold::rate(Some(model), until));
        let spent = self.spent.map(|until| Hold::rate(None, until));
        let spent: Vec<_> = spent.into_iter().chain(of_models).collect();
        let looked_at: Vec<_> = self.looked_at.into_iter().collect();
        let news = self.flow.found(&looked_at, &spent, now);
        (news || self.touched).then_some((self.flow, news))
    }
}

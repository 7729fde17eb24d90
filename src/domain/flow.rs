//! What of a provider's work is held back though its gate is open and its limit has room, and what
//! began of late, by which that is decided.
//!
//! Executions whose model has rates or a gate of its own wait in a lane of their own, named after
//! the model; all others wait in the lane with no name. What must stay true: what begins is counted
//! for the provider and for its lane in the transaction that lets it begin, under the provider's
//! lock; and what is told of what is held back is the whole of it, so that the newest entry of the
//! log says all there is to say.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Admission, ClosedBy, Demand, ExecutionId, Health, Heard, Limits, Reserved, Signal, Timestamp,
    Usage, Window, second_of,
};

/// The lane of those whose model has no lane.
pub const COMMON_LANE: &str = "";
/// How often one is told anew until when work is held back by a rate.
const TELLING_PAUSE: Duration = Duration::from_secs(10);
/// How long after that time it is believed though nobody told it anew.
const DOUBT: Duration = Duration::from_secs(15);

/// Something that holds work back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The model whose work it is; all of the provider's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What holds it back.
    pub by: HeldBy,
}

/// What holds work back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// The budget of requests or tokens is spent.
    Rate {
        /// Until the next may begin.
        until: Timestamp,
    },
    /// The model's gate closed by itself.
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
    /// No worker that lives is configured for the provider.
    NoWorker,
}

/// What began of late, and what is held back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    #[serde(default, skip_serializing_if = "Window::is_empty")]
    window: Window,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    models: BTreeMap<String, ModelFlow>,
    /// What is held back, as it was last told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holds: Vec<Hold>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told_at: Option<Timestamp>,
}

/// The same of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ModelFlow {
    #[serde(default, skip_serializing_if = "Window::is_empty")]
    window: Window,
    #[serde(default, skip_serializing_if = "Health::is_blank")]
    health: Health,
}

/// Why an execution may not begin, and when it may at the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The provider's budget is spent.
    Provider(Timestamp),
    /// That of its model is.
    Model(Timestamp),
}

impl Flow {
    /// Whether there is nothing to be kept.
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    /// What is held back, as it was last told.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Every lane that work may wait in.
    pub fn lanes(&self, limits: &Limits) -> Vec<String> {
        let mut lanes = vec![COMMON_LANE.to_owned()];
        lanes.extend(self.models.keys().cloned());
        lanes.extend(limits.models.keys().filter(|it| !self.models.contains_key(*it)).cloned());
        lanes
    }

    /// Makes sure that models with limits of their own keep their lanes when those are taken away.
    pub fn keep_lanes(&mut self, limits: &Limits) {
        for model in limits.models.keys().filter(|model| !model.is_empty()) {
            self.models.entry(model.clone()).or_default();
        }
    }

    /// What the gate of a lane lets through; one whose time is over is tried again.
    pub fn admission(&mut self, lane: &str, now: Timestamp) -> Admission {
        let Some(model) = self.models.get_mut(lane) else { return Admission::All };
        if model.health.closed_until().is_some_and(|until| until <= now) {
            // The entry for the log is made of all that is held back.
            let _ = model.health.try_again();
        }
        model.health.admits(now)
    }

    /// When the gate of some lane is to be tried again, or another sent to see.
    pub fn next_try(&self, now: Timestamp) -> Option<Timestamp> {
        self.models.values().filter_map(|model| model.health.next_try(now)).min()
    }

    /// Whether an execution of this lane may begin, as far as budgets go.
    pub fn admits(
        &self,
        limits: &Limits,
        lane: &str,
        demand: Option<&Demand>,
        now: Timestamp,
    ) -> Result<(), Spent> {
        let tokens = counted(limits, lane, demand);
        self.window.admits(&limits.rates, tokens, now).map_err(Spent::Provider)?;
        match (limits.models.get(lane), self.models.get(lane)) {
            (Some(rates), Some(model)) => {
                model.window.admits(rates, tokens, now).map_err(Spent::Model)
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// How many more attempts the provider's budget of requests lets begin now; `None` if it has none.
    pub fn requests_left(&self, limits: &Limits, now: Timestamp) -> Option<u64> {
        let most = limits.rates.requests_per_minute?;
        Some(most.saturating_sub(self.window.spent(now).0))
    }

    /// Counts an execution of this lane that begins.
    pub fn reserve(
        &mut self,
        limits: &Limits,
        lane: &str,
        demand: Option<&Demand>,
        now: Timestamp,
    ) -> Reserved {
        let tokens = counted(limits, lane, demand);
        self.tidy(now);
        let of_model = self.models.get(lane).and_then(|model| model.window.newest());
        let newest = self.window.newest().into_iter().chain(of_model).max();
        let second = newest.map_or(second_of(now), |newest| newest.max(second_of(now)));
        self.window.reserve(tokens, second);
        let model = self.models.get_mut(lane).map(|model| {
            model.window.reserve(tokens, second);
            lane.to_owned()
        });
        Reserved { at: now, second, model, input_tokens: tokens.0, output_tokens: tokens.1 }
    }

    fn tidy(&mut self, now: Timestamp) {
        let of_models = self.models.values_mut().map(|model| &mut model.window);
        of_models.chain([&mut self.window]).for_each(|window| window.tidy(now));
    }

    /// Counts what an attempt really consumed instead of what was reserved for it; `false` if that
    /// changes nothing any more.
    pub fn settle(&mut self, reserved: &Reserved, usage: Usage) -> bool {
        let model = reserved.model.as_ref().and_then(|model| self.models.get_mut(model));
        let of_model = model.is_some_and(|model| model.window.settle(reserved, usage));
        self.window.settle(reserved, usage) || of_model
    }

    /// Notes that this execution was let through a model's gate to see.
    pub fn probed_by(&mut self, lane: &str, execution: ExecutionId, now: Timestamp) -> bool {
        let Some(model) = self.models.get_mut(lane) else { return false };
        let probes = model.health.closure().is_some();
        model.health.probed_by(execution, now);
        probes
    }

    /// Takes in what an attempt found of a model that has a gate of its own; `None` if it has none.
    pub fn hear(
        &mut self,
        lane: &str,
        execution: ExecutionId,
        signal: &Signal,
        now: Timestamp,
    ) -> Option<Heard> {
        Some(self.models.get_mut(lane)?.health.hear(execution, signal, now))
    }

    /// Whether some model's gate is not open.
    pub fn has_closed(&self) -> bool {
        self.models.values().any(|model| model.health.closure().is_some())
    }

    /// Opens every model's gate: an operator knows better.
    pub fn forgive(&mut self) {
        for model in self.models.values_mut() {
            model.health = Health::default();
        }
        self.holds.retain(|hold| matches!(hold.by, HeldBy::Rate { .. } | HeldBy::NoWorker));
    }

    /// Takes in which budgets are spent, of the lanes that were looked at; the gates of models are
    /// added. Returns whether that is to be told.
    pub fn found(&mut self, looked_at: &[String], spent: &[Hold], now: Timestamp) -> bool {
        let seen = |hold: &Hold| match &hold.model {
            None => !looked_at.is_empty(),
            Some(model) => looked_at.contains(model),
        };
        let known =
            self.holds.iter().filter(|hold| matches!(hold.by, HeldBy::Rate { .. }) && !seen(hold));
        let mut holds: Vec<_> = known.cloned().collect();
        holds.extend(spent.iter().cloned());
        holds.extend(self.gates());
        holds.sort_by(|a, b| a.model.cmp(&b.model));
        self.tell(holds, now)
    }

    /// When what is told of budgets is no longer to be believed, because nobody confirmed it: those
    /// who could may wait for something else.
    pub fn doubtful_at(&self) -> Option<Timestamp> {
        let rates = self.holds.iter().filter_map(|hold| match hold.by {
            HeldBy::Rate { until } => Some(until + DOUBT),
            HeldBy::Closed { .. } | HeldBy::Probing { .. } | HeldBy::NoWorker => None,
        });
        rates.min()
    }

    /// Takes back what is not to be believed any more; returns whether there was such.
    pub fn doubt(&mut self, now: Timestamp) -> bool {
        let believed =
            |hold: &&Hold| !matches!(hold.by, HeldBy::Rate { until } if until + DOUBT <= now);
        let holds: Vec<_> = self.holds.iter().filter(believed).cloned().collect();
        self.tell(holds, now)
    }

    /// Says that no worker serves the provider, or takes that back; returns whether that is news.
    pub fn is_unserved(&mut self, unserved: bool, now: Timestamp) -> bool {
        let mut holds: Vec<_> =
            self.holds.iter().filter(|hold| hold.by != HeldBy::NoWorker).cloned().collect();
        if unserved {
            holds.insert(0, Hold { model: None, by: HeldBy::NoWorker });
        }
        self.tell(holds, now)
    }

    fn tell(&mut self, holds: Vec<Hold>, now: Timestamp) -> bool {
        if self.holds == holds {
            return false;
        }
        let alike = self.holds.len() == holds.len()
            && self.holds.iter().zip(&holds).all(|(before, now)| before.is_like(now));
        let old = self.told_at.is_none_or(|told| now.since(told) >= TELLING_PAUSE);
        let outdated = |hold: &Hold| matches!(hold.by, HeldBy::Rate { until } if until <= now);
        if alike && !(old && self.holds.iter().any(outdated)) {
            return false;
        }
        self.holds = holds;
        self.told_at = Some(now);
        true
    }

    fn gates(&self) -> impl Iterator<Item = Hold> {
        self.models.iter().filter_map(|(model, flow)| {
            let closure = flow.health.closure()?;
            let (cause, reason) = (closure.cause, closure.message.clone());
            let by = match flow.health.closed_until() {
                Some(until) => HeldBy::Closed { cause, until, reason },
                None => HeldBy::Probing { cause, reason },
            };
            Some(Hold { model: Some(model.clone()), by })
        })
    }
}

/// The tokens that an execution of this lane is counted with.
fn counted(limits: &Limits, lane: &str, demand: Option<&Demand>) -> (u64, u64) {
    let tokens = demand.map_or((0, 0), |demand| (demand.input_tokens, demand.output_tokens));
    let of_model = limits.models.get(lane).copied().unwrap_or_default();
    limits.rates.counted(of_model.counted(tokens))
}

impl Hold {
    /// That the budget of a model, or of the whole provider, is spent.
    pub fn rate(model: Option<String>, until: Timestamp) -> Self {
        Self { model, by: HeldBy::Rate { until } }
    }

    /// Whether it holds back work of this model.
    pub fn concerns(&self, model: Option<&str>) -> bool {
        self.model.is_none() || self.model.as_deref() == model
    }

    /// Whether it says the same, but for the time at which a budget has room again.
    fn is_like(&self, other: &Self) -> bool {
        let rates =
            matches!(self.by, HeldBy::Rate { .. }) && matches!(other.by, HeldBy::Rate { .. });
        self.model == other.model && (rates || self.by == other.by)
    }
}

//! A provider's budgets of the minute, and the gates of its models, as the log has them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::finding::{Findings, Rule};
use super::provider::Closed;
use crate::domain::{ExecutionId, HeldBy, Hold, Limits, Rates, Reserved, Timestamp, Token, Usage};

const MINUTE: Duration = Duration::from_secs(60);

/// What is admitted by the minute, and what began within the last one.
#[derive(Debug, Clone, Default)]
pub(super) struct Budgets {
    limits: Limits,
    begun: VecDeque<Begun>,
    /// The gates of models that are not open.
    gates: BTreeMap<String, Closed>,
}

/// An attempt that began, and what it counts.
#[derive(Debug, Clone)]
struct Begun {
    attempt: (ExecutionId, Token),
    reserved: Reserved,
    /// Whether what it really consumes counts once that is known.
    corrected: bool,
}

impl Budgets {
    pub(super) fn set(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// All that is held back from now on, whatever was before.
    pub(super) fn held(&mut self, holds: &[Hold]) {
        let gates = holds.iter().filter_map(|hold| {
            let model = hold.model.as_ref()?;
            let gate = match &hold.by {
                HeldBy::Closed { until, .. } => Closed::Until(*until),
                HeldBy::Probing { .. } => match self.gates.get(model) {
                    // That is not news.
                    Some(Closed::Probing { last }) => Closed::Probing { last: *last },
                    Some(Closed::Until(_) | Closed::No) | None => Closed::Probing { last: None },
                },
                HeldBy::Rate { .. } | HeldBy::NoWorker => return None,
            };
            Some((model.clone(), gate))
        });
        self.gates = gates.collect();
    }

    /// Whether the gate of some model is not open.
    pub(super) fn has_closed(&self) -> bool {
        !self.gates.is_empty()
    }

    /// An attempt at this execution is over: if it was to see, it is not waited for any more.
    pub(super) fn leave(&mut self, id: ExecutionId) {
        self.gates.values_mut().for_each(|gate| gate.leave(id));
    }

    /// An attempt begins. `at` is when that was logged.
    pub(super) fn begin(
        &mut self,
        attempt: (ExecutionId, Token),
        reserved: Option<&Reserved>,
        at: Timestamp,
        findings: &mut Findings<'_>,
    ) {
        let counted = reserved.is_some() || !self.limits.counts_rates();
        findings.expect(Rule::Rates, counted, || {
            "claimed without being counted, though what begins within a minute is limited"
                .to_owned()
        });
        let Some(reserved) = reserved else { return };
        findings.expect(Rule::Rates, reserved.at <= at, || {
            format!("counted as begun at {:?}, after it was logged", reserved.at)
        });
        // One that lies ahead by more was counted by a clock that was set back since.
        let near = |at: Timestamp| reserved.at.since(at) < MINUTE && at.since(reserved.at) < MINUTE;
        self.begun.retain(|begun| near(begun.reserved.at));
        let rates = |model: &String| self.limits.models.get(model).copied();
        let of_model = reserved.model.as_ref().and_then(rates);
        let corrected = self.limits.rates.counts_tokens()
            || of_model.is_some_and(|rates| rates.counts_tokens());
        self.begun.push_back(Begun { attempt, reserved: reserved.clone(), corrected });
        self.is_within(&self.limits.rates, None, findings);
        if let (Some(rates), Some(model)) = (of_model, &reserved.model) {
            self.is_within(&rates, Some(model), findings);
        }
        let Some(model) = &reserved.model else { return };
        match self.gates.get_mut(model) {
            None | Some(Closed::No) => {}
            Some(gate @ Closed::Until(_)) => {
                // That it is tried is told right after the first that is let through to see.
                let over = matches!(gate, Closed::Until(until) if reserved.at >= *until);
                findings.expect(Rule::Gate, over, || {
                    format!("claimed while the gate of model {model} was closed: {gate:?}")
                });
                *gate = Closed::Probing { last: Some((attempt.0, at)) };
            }
            Some(gate @ Closed::Probing { .. }) => {
                let alone = gate.probed_by(attempt.0, at);
                findings.expect(Rule::Gate, alone, || {
                    format!("claimed while another of model {model} was let through to see")
                });
            }
        }
    }

    /// An attempt has ended, and this is what it consumed.
    pub(super) fn end(&mut self, attempt: (ExecutionId, Token), usage: Usage) {
        let begun = self.begun.iter_mut().find(|begun| begun.attempt == attempt);
        if let Some(begun) = begun.filter(|begun| begun.corrected) {
            let tokens = |tokens: i64| u64::try_from(tokens).unwrap_or(0);
            begun.reserved.input_tokens = tokens(usage.input_tokens);
            begun.reserved.output_tokens = tokens(usage.output_tokens);
        }
    }

    /// Whether what began within the last minute, of one model or of all, is within these rates.
    fn is_within(&self, rates: &Rates, model: Option<&String>, findings: &mut Findings<'_>) {
        let counts = |begun: &&Begun| model.is_none() || begun.reserved.model.as_ref() == model;
        let begun: Vec<_> = self.begun.iter().filter(counts).map(|begun| &begun.reserved).collect();
        let of_whom = model.map_or_else(String::new, |model| format!(" of model {model}"));
        let budgets = [
            ("attempts", rates.requests_per_minute, begun.len() as u64),
            (
                "tokens read",
                rates.input_tokens_per_minute,
                begun.iter().map(|it| it.input_tokens).fold(0, u64::saturating_add),
            ),
            (
                "tokens written",
                rates.output_tokens_per_minute,
                begun.iter().map(|it| it.output_tokens).fold(0, u64::saturating_add),
            ),
        ];
        for (what, most, spent) in budgets {
            let Some(most) = most else { continue };
            findings.expect(Rule::Rates, spent <= most, || {
                format!("{spent} {what}{of_whom} begun within a minute, the limit is {most}")
            });
        }
    }
}

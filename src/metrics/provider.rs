//! What is counted and measured of each provider.

use std::hash::Hash;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::catalogue::{Catalogue, FloatGauge};
use super::figures::{Ended, GateLabel, Outcome, ProviderFigures, Tally};
use super::history::Counts;
use super::timing::{Example, Timing, WORK_BOUNDS};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    provider: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    provider: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDirection {
    provider: String,
    direction: &'static str,
}

/// All series that have a provider.
#[derive(Debug, Clone)]
pub(super) struct Families {
    submitted: Family<Of, Counter>,
    executions: Family<OfState, Counter>,
    started: Family<Of, Counter>,
    attempts: Family<OfOutcome, Counter>,
    waits: Family<Of, Timing, fn() -> Timing>,
    runs: Family<Of, Timing, fn() -> Timing>,
    rate_limited: Family<Of, Counter>,
    tokens: Family<OfDirection, Counter>,
    over_admitted: Family<Of, Counter>,
    reclaimed: Family<Of, Counter>,
    leases_lost: Family<Of, Counter>,
    pending: Family<Of, Gauge>,
    running: Family<Of, Gauge>,
    queue_depth: Family<Of, Gauge>,
    oldest_age: Family<Of, FloatGauge>,
    limit: Family<Of, Gauge>,
    gate: Family<OfState, Gauge>,
}

/// The series of one provider.
#[derive(Debug)]
pub struct ProviderInstruments {
    submitted: Counter,
    executions: [Counter; Ended::ALL.len()],
    started: Counter,
    attempts: [Counter; Outcome::ALL.len()],
    waits: Timing,
    runs: Timing,
    rate_limited: Counter,
    input_tokens: Counter,
    output_tokens: Counter,
    over_admitted: Counter,
    reclaimed: Counter,
    leases_lost: Counter,
}

impl Families {
    pub(super) fn register(all: &mut Catalogue) -> Self {
        fn family<L, M>(
            all: &mut Catalogue,
            dotted: &'static str,
            help: &'static str,
        ) -> Family<L, M>
        where
            L: Clone + Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
            Family<L, M>: Default + prometheus_client::registry::Metric,
        {
            all.add(dotted, None, help, Family::default())
        }
        Self {
            submitted: family(
                all,
                "flowgate.executions.submitted",
                "Executions stored anew by this replica; submissions that were known already are not counted",
            ),
            executions: family(
                all,
                "flowgate.executions",
                "Executions that reached a terminal state by a commit of this replica",
            ),
            started: family(all, "flowgate.attempts.started", "Attempts that this replica claimed"),
            attempts: family(all, "flowgate.attempts", "Attempts of this replica that ended"),
            waits: all.timings(
                "flowgate.queue.wait",
                "Time from an execution being due to its being claimed, at every attempt; what a rate limit turned away keeps its place and has been due since before",
                || Timing::new(WORK_BOUNDS),
            ),
            runs: all.timings(
                "flowgate.attempt.duration",
                "Time an attempt ran, from its claim to its end",
                || Timing::new(WORK_BOUNDS),
            ),
            rate_limited: family(
                all,
                "flowgate.rate_limited",
                "Attempts that the provider refused because it is called too often",
            ),
            tokens: family(
                all,
                "flowgate.tokens",
                "Tokens that attempts of this replica consumed, as the provider told",
            ),
            over_admitted: family(
                all,
                "flowgate.over_admitted",
                "Executions claimed beyond the provider's limit; always 0",
            ),
            reclaimed: family(
                all,
                "flowgate.executions.reclaimed",
                "Executions that this replica took back because their worker fell silent",
            ),
            leases_lost: family(
                all,
                "flowgate.leases_lost",
                "Attempts of this replica that were stopped because it could not keep their lease",
            ),
            pending: family(all, "flowgate.executions.pending", "Executions PENDING in the store"),
            running: family(all, "flowgate.executions.running", "Executions RUNNING in the store"),
            queue_depth: family(
                all,
                "flowgate.queue.depth",
                "Executions in the store that are ready and wait for a limit, a gate or a slot",
            ),
            oldest_age: all.add(
                "flowgate.queue.oldest_age",
                Some(Unit::Seconds),
                "Time since the execution that has been ready longest became due; 0 if none is ready",
                Family::default(),
            ),
            limit: family(
                all,
                "flowgate.provider.limit",
                "The limit (max_concurrent) in force for the provider",
            ),
            gate: family(
                all,
                "flowgate.provider.gate",
                "1 for the state that the provider's gate is in, 0 for the others",
            ),
        }
    }

    /// Makes the series of a provider.
    pub(super) fn of(&self, name: &str) -> ProviderInstruments {
        let of = Of { provider: name.to_owned() };
        let tokens = |direction| {
            let of = OfDirection { provider: name.to_owned(), direction };
            self.tokens.get_or_create_owned(&of)
        };
        ProviderInstruments {
            submitted: self.submitted.get_or_create_owned(&of),
            executions: Ended::ALL.map(|ended| {
                let of = OfState { provider: name.to_owned(), state: ended.label() };
                self.executions.get_or_create_owned(&of)
            }),
            started: self.started.get_or_create_owned(&of),
            attempts: Outcome::ALL.map(|outcome| {
                let of = OfOutcome { provider: name.to_owned(), outcome: outcome.label() };
                self.attempts.get_or_create_owned(&of)
            }),
            waits: self.waits.get_or_create_owned(&of),
            runs: self.runs.get_or_create_owned(&of),
            rate_limited: self.rate_limited.get_or_create_owned(&of),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
            over_admitted: self.over_admitted.get_or_create_owned(&of),
            reclaimed: self.reclaimed.get_or_create_owned(&of),
            leases_lost: self.leases_lost.get_or_create_owned(&of),
        }
    }

    /// What the store says of a provider.
    pub(super) fn store_is(&self, name: &str, figures: &ProviderFigures) {
        let of = Of { provider: name.to_owned() };
        let set = |family: &Family<Of, Gauge>, count| {
            family.get_or_create(&of).set(super::to_i64(count));
        };
        set(&self.pending, figures.pending);
        set(&self.running, figures.running);
        set(&self.queue_depth, figures.queue_depth);
        set(&self.limit, figures.limit.into());
        self.oldest_age.get_or_create(&of).set(figures.oldest_age.as_secs_f64());
        for (gate, state) in GateLabel::ALL {
            let of = OfState { provider: name.to_owned(), state };
            self.gate.get_or_create(&of).set((gate == figures.gate).into());
        }
    }

    /// Shows nothing that the store said: it may have changed since.
    pub(super) fn forget_store(&self) {
        for family in [&self.pending, &self.running, &self.queue_depth, &self.limit] {
            family.clear();
        }
        self.oldest_age.clear();
        self.gate.clear();
    }
}

impl ProviderInstruments {
    /// An execution was stored.
    pub fn submitted(&self) {
        self.submitted.inc();
    }

    /// An execution ended.
    pub fn execution_ended(&self, ended: Ended) {
        self.executions[ended as usize].inc();
    }

    /// The provider wants to be called less often.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// An attempt consumed tokens.
    pub fn consumed(&self, input_tokens: u64, output_tokens: u64) {
        self.input_tokens.inc_by(input_tokens);
        self.output_tokens.inc_by(output_tokens);
    }

    /// More was claimed than the limit allows.
    pub fn over_admitted(&self, count: u64) {
        self.over_admitted.inc_by(count);
    }

    /// An execution was taken back from a worker that fell silent.
    pub fn reclaimed(&self) {
        self.reclaimed.inc();
    }

    /// An attempt was stopped for want of its lease.
    pub fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    pub(super) fn started(&self, waited: Duration, example: Option<Example>) {
        self.started.inc();
        self.waits.observe(waited, example);
    }

    pub(super) fn attempt_ended(&self, how: Outcome, ran: Duration, example: Option<Example>) {
        self.attempts[how as usize].inc();
        match how {
            // What is handed back begins again: how long it ran says nothing.
            Outcome::Released => {}
            Outcome::Succeeded
            | Outcome::Failed
            | Outcome::Cancelled
            | Outcome::Retried
            | Outcome::Crashed => self.runs.observe(ran, example),
        }
    }

    pub(super) fn attempts(&self, outcome: Outcome) -> u64 {
        self.attempts[outcome as usize].get()
    }

    /// What was started and ended, and how long the former had waited in all.
    pub(super) fn tally(&self) -> Tally {
        let (started, waited) = self.waits.totals();
        Tally { started, ended: self.runs.totals().0, waited }
    }

    pub(super) fn add_to(&self, counts: Counts) -> Counts {
        let ended = |ended: Ended| self.executions[ended as usize].get();
        Counts {
            submitted: counts.submitted + self.submitted.get(),
            succeeded: counts.succeeded + ended(Ended::Succeeded),
            failed: counts.failed + ended(Ended::Failed),
            cancelled: counts.cancelled + ended(Ended::Cancelled),
            waits: counts.waits.plus(&self.waits.distribution()),
            runs: counts.runs.plus(&self.runs.distribution()),
        }
    }
}

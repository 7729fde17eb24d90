//! Budgets of the minute, and the gates of models.

use std::time::Duration;

use super::*;
use crate::domain::{HeldBy, Hold, Rates, Reserved, Usage, second_of};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Timestamp {
    Timestamp::default() + SECOND * seconds
}

fn requests(requests: u64) -> Rates {
    Rates { requests_per_minute: Some(requests), ..Rates::default() }
}

fn tokens(input: u64, output: u64) -> Rates {
    Rates {
        input_tokens_per_minute: Some(input),
        output_tokens_per_minute: Some(output),
        ..Rates::default()
    }
}

impl Log {
    /// Provider `p`, of which so much may begin within a minute, and of its model `m`.
    fn with_rates(rates: Rates, of_model: Option<Rates>) -> Self {
        let mut log = Self { events: Vec::new(), worker: WorkerId::new() };
        log.rates(rates, of_model);
        log
    }

    fn rates(&mut self, rates: Rates, of_model: Option<Rates>) -> &mut Self {
        let models = of_model.map(|rates| ("m".to_owned(), rates)).into_iter().collect();
        let limits = Limits { rates, models, ..Limits::concurrent(100) };
        self.add(
            None,
            Change::LimitsChanged {
                declared: Box::new(limits.clone()),
                overriding: None,
                effective: Box::new(limits),
                expires_at: None,
                reason: String::new(),
                actor: String::new(),
                step: None,
            },
        )
    }

    /// One that is submitted and begins, and takes this of the budgets.
    fn begin(
        &mut self,
        seconds: u32,
        model: Option<&str>,
        (input, output): (u64, u64),
    ) -> ExecutionId {
        let id = self.submit();
        let model = model.map(str::to_owned);
        let reserved = Reserved {
            at: at(seconds),
            second: second_of(at(seconds)),
            model,
            input_tokens: input,
            output_tokens: output,
        };
        self.claim_counted(id, seconds, Some(reserved));
        id
    }

    fn claim_counted(&mut self, id: ExecutionId, seconds: u32, reserved: Option<Reserved>) {
        let (worker, token) = (self.worker, Token(1));
        let (attempt, charged, handle) = (1, 1, None);
        self.add(Some(id), Change::Claimed { token, worker, attempt, charged, handle, reserved });
        self.events.last_mut().unwrap().at = at(seconds);
    }

    /// Ends its one attempt, which consumed this.
    fn consume(&mut self, id: ExecutionId, input_tokens: i64, output_tokens: i64) {
        let usage = Some(Usage { input_tokens, output_tokens });
        let ended = AttemptEnd { usage, ..self.end(1, EndCause::Succeeded) };
        self.finish(id, State::Succeeded, Some(ended), (1, 0));
    }

    fn hold(&mut self, by: Option<HeldBy>) -> &mut Self {
        let holds = by.map(|by| Hold { model: Some("m".to_owned()), by });
        self.add(None, Change::Held { holds: holds.into_iter().collect() })
    }
}

#[test]
fn more_attempts_within_a_minute_than_the_budget_are_found() {
    let mut log = Log::with_rates(requests(2), None);
    log.begin(0, None, (0, 0));
    log.begin(59, None, (0, 0));
    log.begin(60, None, (0, 0));
    log.is_clean();
    log.begin(118, None, (0, 0));
    log.breaks(Rule::Rates, "3 attempts begun within a minute, the limit is 2");
}

#[test]
fn more_tokens_within_a_minute_than_the_budgets_are_found() {
    let mut log = Log::with_rates(tokens(100, 50), None);
    log.begin(0, None, (60, 10));
    log.begin(1, None, (40, 40));
    log.is_clean();
    let honest = log.events.len();
    log.begin(2, None, (1, 0));
    log.breaks(Rule::Rates, "101 tokens read begun within a minute, the limit is 100");
    log.events.truncate(honest);
    log.begin(2, None, (0, 1));
    log.breaks(Rule::Rates, "51 tokens written begun within a minute, the limit is 50");
}

#[test]
fn more_of_a_model_within_a_minute_than_its_budget_is_found() {
    let mut log = Log::with_rates(Rates::default(), Some(tokens(100, 50)));
    log.begin(0, Some("m"), (100, 50));
    log.begin(1, None, (1_000, 1_000));
    log.is_clean();
    log.begin(2, Some("m"), (1, 0));
    log.breaks(Rule::Rates, "101 tokens read of model m begun within a minute, the limit is 100");
}

#[test]
fn a_claim_that_is_not_counted_is_found() {
    for (rates, of_model) in [(requests(9), None), (Rates::default(), Some(requests(9)))] {
        let mut log = Log::with_rates(rates, of_model);
        let id = log.submit();
        log.claim_counted(id, 1, None);
        log.breaks(Rule::Rates, "claimed without being counted");
    }
}

#[test]
fn a_claim_counted_for_later_than_it_was_made_is_found() {
    let mut log = Log::with_rates(requests(9), None);
    log.begin(7, None, (0, 0));
    log.events.last_mut().unwrap().at = at(6);
    log.breaks(Rule::Rates, "after it was logged");
}

#[test]
fn what_an_attempt_consumed_counts_instead_of_what_it_was_expected_to() {
    let mut log = Log::with_rates(tokens(100, 50), None);
    let first = log.begin(0, None, (100, 50));
    log.consume(first, 10, 5);
    let second = log.begin(1, None, (90, 45));
    log.is_clean();
    log.consume(second, 91, 0);
    log.is_clean();
    log.begin(2, None, (0, 0));
    log.breaks(Rule::Rates, "101 tokens read begun within a minute, the limit is 100");
}

#[test]
fn what_began_under_a_wider_budget_may_go_on_and_counts() {
    let mut log = Log::with_rates(requests(3), None);
    for second in 0..3 {
        log.begin(second, None, (0, 0));
    }
    log.rates(requests(1), None);
    log.is_clean();
    log.begin(61, None, (0, 0));
    log.breaks(Rule::Rates, "2 attempts begun within a minute, the limit is 1");
}

fn closed(seconds: u32) -> Option<HeldBy> {
    let (cause, reason) = (ClosedBy::RateLimit, String::new());
    Some(HeldBy::Closed { cause, until: at(seconds), reason })
}

#[test]
fn a_claim_of_a_model_whose_gate_is_closed_is_found() {
    let mut log = Log::with_rates(Rates::default(), Some(requests(99)));
    log.hold(closed(20));
    log.begin(1, None, (0, 0));
    log.begin(1, Some("n"), (0, 0));
    let honest = log.events.len();
    log.begin(20, Some("m"), (0, 0));
    log.is_clean();
    log.events.truncate(honest);
    log.begin(19, Some("m"), (0, 0));
    log.breaks(Rule::Gate, "claimed while the gate of model m was closed");
}

#[test]
fn the_newest_entry_says_all_of_what_is_held_back() {
    let probing = HeldBy::Probing { cause: ClosedBy::RateLimit, reason: String::new() };
    for opened in [None, Some(probing), Some(HeldBy::Rate { until: at(90) })] {
        let mut log = Log::with_rates(Rates::default(), Some(requests(99)));
        log.hold(closed(20)).hold(opened);
        log.begin(1, Some("m"), (0, 0));
        log.is_clean();
    }
    let mut log = Log::with_rates(Rates::default(), Some(requests(99)));
    log.hold(closed(20)).pause().resume().hold(closed(20));
    log.begin(1, Some("m"), (0, 0));
    log.breaks(Rule::Gate, "gate of model m");
}

fn probing_model() -> Option<HeldBy> {
    Some(HeldBy::Probing { cause: ClosedBy::RateLimit, reason: String::new() })
}

#[test]
fn a_second_probe_of_a_model_too_early_is_found() {
    let mut log = Log::with_rates(Rates::default(), Some(requests(99)));
    log.hold(closed(2)).hold(probing_model());
    log.begin(2, Some("m"), (0, 0));
    log.hold(probing_model());
    let second = log.begin(7, Some("m"), (0, 0));
    log.is_clean();
    // It ended without having seen anything, or the gate would have changed.
    log.consume(second, 0, 0);
    log.begin(8, Some("m"), (0, 0));
    log.is_clean();
    log.begin(9, Some("m"), (0, 0));
    log.breaks(Rule::Gate, "claimed while another of model m was let through to see");
}

#[test]
fn an_operator_may_open_the_gate_of_a_model() {
    for held in [closed(20), probing_model()] {
        let mut log = Log::with_rates(Rates::default(), Some(requests(99)));
        log.hold(held).resume();
        log.begin(1, Some("m"), (0, 0));
        log.is_clean();
        log.resume().breaks(Rule::Gate, "resumed while it was not paused");
    }
}

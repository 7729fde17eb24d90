//! A forged log for every kind of broken promise, and an honest one.

mod budgets;

use super::*;
use crate::domain::{
    AttemptEnd, Chunk, ChunkContent, ClosedBy, EndCause, ErrorCode, Failure, Handle, Lack, Limits,
    OnLost, OutputStream, Overrides, Pause, Shortage, State, Timestamp, Token, Wait, WorkerId,
};

/// A log in the making; entries follow each other without gaps unless a test makes one.
struct Log {
    events: Vec<Event>,
    worker: WorkerId,
}

impl Log {
    /// Provider `p` with this limit.
    fn with_limit(max_concurrent: u32) -> Self {
        let mut log = Self { events: Vec::new(), worker: WorkerId::new() };
        log.limit(max_concurrent);
        log
    }

    fn add(&mut self, execution: Option<ExecutionId>, change: Change) -> &mut Self {
        let revision = self.events.last().map_or(0, |event| event.revision) + 1;
        let provider = "p".parse().unwrap();
        let at = Timestamp::from_micros(revision);
        self.events.push(Event { revision, at, provider, execution, change });
        self
    }

    fn limit(&mut self, max_concurrent: u32) -> &mut Self {
        let limits = Limits::concurrent(max_concurrent);
        let reason = String::new();
        self.add(
            None,
            Change::LimitsChanged {
                declared: Box::new(limits.clone()),
                overriding: None,
                effective: Box::new(limits),
                expires_at: None,
                reason,
                actor: String::new(),
                step: None,
            },
        )
    }

    fn submit(&mut self) -> ExecutionId {
        self.submit_waiting(Wait::None)
    }

    fn submit_waiting(&mut self, wait: Wait) -> ExecutionId {
        let id = ExecutionId::new();
        self.add(Some(id), Change::Submitted { wait });
        id
    }

    /// The first claim of an execution, as it should be.
    fn claim(&mut self, id: ExecutionId) -> &mut Self {
        self.claim_as(id, 1, 1, 1)
    }

    fn claim_as(&mut self, id: ExecutionId, token: i64, attempt: u32, charged: u32) -> &mut Self {
        self.claim_with(id, token, attempt, charged, None)
    }

    fn claim_with(
        &mut self,
        id: ExecutionId,
        token: i64,
        attempt: u32,
        charged: u32,
        handle: Option<Handle>,
    ) -> &mut Self {
        let (worker, token) = (self.worker, Token(token));
        self.add(
            Some(id),
            Change::Claimed { token, worker, attempt, charged, handle, reserved: None },
        )
    }

    fn end(&self, token: i64, cause: EndCause) -> AttemptEnd {
        let (token, worker) = (Token(token), self.worker);
        AttemptEnd { token, worker, cause, failure: None, usage: None }
    }

    /// Ends the attempt under this token; `counters` are charged attempts and crashes.
    fn requeue(
        &mut self,
        id: ExecutionId,
        token: i64,
        cause: EndCause,
        (charged, crashes): (u32, u32),
    ) -> &mut Self {
        let ended = self.end(token, cause);
        self.add(Some(id), Change::Requeued { ended, wait: Wait::None, charged, crashes })
    }

    fn finish(
        &mut self,
        id: ExecutionId,
        state: State,
        ended: Option<AttemptEnd>,
        (charged, crashes): (u32, u32),
    ) -> &mut Self {
        let failure = Failure::new(ErrorCode::Permanent, false, "");
        let failure = (state != State::Succeeded).then_some(failure);
        self.add(Some(id), Change::Finished { state, ended, failure, charged, crashes })
    }

    fn succeed(&mut self, id: ExecutionId) -> &mut Self {
        let ended = self.end(1, EndCause::Succeeded);
        self.finish(id, State::Succeeded, Some(ended), (1, 0))
    }

    fn cancel(&mut self, id: ExecutionId) -> &mut Self {
        self.add(Some(id), Change::CancelRequested { reason: String::new() })
    }

    fn output(&mut self, id: ExecutionId, attempt: u32, index: i64) -> &mut Self {
        let content = ChunkContent::Text(String::new());
        let stream = OutputStream::Result;
        self.add(Some(id), Change::Output(Chunk { attempt, index, stream, content }))
    }

    fn pause(&mut self) -> &mut Self {
        self.add(None, Change::Paused { reason: String::new(), until: None })
    }

    fn resume(&mut self) -> &mut Self {
        self.add(None, Change::Resumed { reason: String::new() })
    }

    fn check(&self) -> (Checker, Vec<Violation>) {
        let mut checker = Checker::new(0);
        let mut violations: Vec<_> =
            self.events.iter().filter_map(|event| checker.feed(event).err()).collect();
        violations.extend(checker.end().err().unwrap_or_default());
        (checker, violations)
    }

    /// The newest entry, and nothing before it, breaks this rule, and the message says how.
    #[track_caller]
    fn breaks(&self, rule: Rule, message: &str) {
        let (_, violations) = self.check();
        let [violation] = &violations[..] else { panic!("one violation expected: {violations:?}") };
        assert_eq!(violation.rule, rule, "{violation}");
        assert!(violation.message.contains(message), "{violation}");
        assert_eq!(violation.revision, self.events.last().unwrap().revision);
    }

    #[track_caller]
    fn is_clean(&self) -> Checker {
        let (checker, violations) = self.check();
        assert_eq!(violations, []);
        checker
    }
}

#[test]
fn an_honest_log_passes() {
    let mut log = Log::with_limit(2);
    let [a, b, c] = [(); 3].map(|()| log.submit_waiting(Wait::Limit));
    log.claim(a).claim(b).output(a, 1, 0).output(a, 1, 1);
    log.requeue(a, 1, EndCause::Failed, (1, 0)).requeue(b, 1, EndCause::Lost, (0, 1));
    log.limit(1);
    log.claim_as(a, 2, 2, 2).output(a, 2, 0).pause().cancel(a);
    let ended = log.end(2, EndCause::Cancelled);
    log.finish(a, State::Cancelled, Some(ended), (2, 0)).resume();
    log.claim_as(b, 2, 2, 1).requeue(b, 2, EndCause::Crashed, (0, 2));
    log.claim_as(b, 3, 3, 1);
    let ended = log.end(3, EndCause::Lost);
    log.finish(b, State::Failed, Some(ended), (0, 3));
    log.cancel(c).finish(c, State::Cancelled, None, (0, 0));
    let expired = log.submit();
    log.finish(expired, State::Failed, None, (0, 0));
    let released = log.submit();
    log.claim(released).requeue(released, 1, EndCause::Released, (0, 0));
    log.claim_as(released, 2, 2, 1).requeue(released, 2, EndCause::Failed, (0, 0));
    log.claim_as(released, 3, 3, 1).cancel(released);
    let ended = log.end(3, EndCause::Crashed);
    log.finish(released, State::Cancelled, Some(ended), (0, 1));
    let checker = log.is_clean();
    assert_eq!((checker.executions(), checker.revision()), (5, log.events.len() as i64));
    let provider = checker.providers().next().unwrap();
    assert_eq!(
        (provider.max_running, provider.limit_at_max, provider.limit),
        (2, Some(2), Some(1))
    );
    assert!(checker.checks().values().all(|count| *count > 0));
}

#[test]
fn a_gap_in_the_revisions_is_found() {
    let mut log = Log::with_limit(1);
    log.submit();
    log.events[1].revision = 3;
    log.breaks(Rule::Revisions, "revision 2 should have come next");
}

#[test]
fn a_revision_used_twice_is_found() {
    let mut log = Log::with_limit(1);
    log.submit();
    log.events[1].revision = 1;
    log.breaks(Rule::Revisions, "revision 2 should have come next");
}

#[test]
fn a_claim_above_the_limit_is_found() {
    let mut log = Log::with_limit(1);
    let [a, b] = [log.submit(), log.submit()];
    log.claim(a).claim(b);
    log.breaks(Rule::Limits, "claimed while the limit is 1, which makes 2 running");
    let (checker, _) = log.check();
    assert_eq!(checker.running(&"p".parse().unwrap()), [a, b]);
}

#[test]
fn a_claim_above_a_lowered_limit_is_found_and_what_ran_before_may_drain() {
    let mut log = Log::with_limit(3);
    let [a, b, c] = [(); 3].map(|()| log.submit());
    log.claim(a).claim(b).limit(1).succeed(a);
    log.is_clean();
    log.claim(c);
    log.breaks(Rule::Limits, "claimed while the limit is 1, which makes 2 running");
}

#[test]
fn a_claim_of_a_provider_without_a_limit_is_found() {
    let mut log = Log { events: Vec::new(), worker: WorkerId::new() };
    let id = log.submit();
    log.claim(id);
    log.breaks(Rule::Limits, "no limit");
}

#[test]
fn a_limit_of_nothing_is_found() {
    Log::with_limit(0).breaks(Rule::Limits, "the limit in force is 0");
}

#[test]
fn a_limit_that_nobody_set_is_found() {
    let mut log = Log::with_limit(1);
    let [declared, effective] = [1, 2].map(|max| Box::new(Limits::concurrent(max)));
    let reason = String::new();
    let (overriding, expires_at, actor) = (None, None, String::new());
    log.add(
        None,
        Change::LimitsChanged {
            declared,
            overriding,
            effective,
            expires_at,
            reason,
            actor,
            step: None,
        },
    );
    log.breaks(Rule::Limits, "neither the override nor the declared one");
}

#[test]
fn a_claim_while_paused_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.pause().claim(id);
    log.breaks(Rule::Gate, "claimed while its provider was paused");
}

#[test]
fn a_shortage_that_ends_without_having_begun_is_found() {
    let lack = Lack::Cpu { percent: 93, max_percent: 80 };
    let mut log = Log::with_limit(1);
    let worker = log.worker;
    let short = || Change::ShortOf(Shortage { worker, lack });
    log.add(None, short()).add(None, short()).add(None, Change::ShortageOver { worker });
    log.add(None, short()).pause().resume();
    log.is_clean();
    log.add(None, Change::ShortageOver { worker });
    log.breaks(Rule::Gate, "a shortage is over that there was not");
}

#[test]
fn a_resumption_of_what_was_not_paused_is_found() {
    let mut log = Log::with_limit(1);
    log.pause().resume();
    log.is_clean();
    log.resume().breaks(Rule::Gate, "resumed while it was not paused");
}

fn closed(until: i64) -> Change {
    let until = Timestamp::from_micros(until);
    Change::GateClosed { cause: ClosedBy::RateLimit, until, reason: String::new() }
}

fn probing() -> Change {
    Change::GateProbing { cause: ClosedBy::RateLimit, reason: String::new() }
}

#[test]
fn a_gate_that_closes_is_tried_and_opens_passes() {
    let mut log = Log::with_limit(3);
    let (first, second) = (log.submit(), log.submit());
    log.add(None, closed(9)).add(None, closed(12)).add(None, probing());
    log.claim(first).add(None, Change::GateOpened {}).claim(second);
    log.succeed(first).succeed(second);
    assert_eq!(log.check().1, []);
}

#[test]
fn a_claim_while_the_gate_is_closed_is_found() {
    let mut log = Log::with_limit(3);
    let id = log.submit();
    log.add(None, closed(1_000_000)).claim(id);
    log.breaks(Rule::Gate, "gate was closed until");
}

#[test]
fn a_second_probe_too_early_is_found() {
    let mut log = Log::with_limit(3);
    let (first, second) = (log.submit(), log.submit());
    log.add(None, closed(5)).add(None, probing()).claim(first).claim(second);
    log.breaks(Rule::Gate, "another was let through");
}

#[test]
fn a_probe_that_ended_without_an_answer_is_not_waited_for() {
    let mut log = Log::with_limit(3);
    let (first, second) = (log.submit(), log.submit());
    log.add(None, closed(5)).add(None, probing()).claim(first);
    log.requeue(first, 1, EndCause::Released, (0, 0)).claim(second);
    log.is_clean();
}

#[test]
fn a_gate_that_opens_untried_is_found() {
    let mut log = Log::with_limit(3);
    log.add(None, closed(5)).add(None, Change::GateOpened {});
    log.breaks(Rule::Gate, "without having been tried");
}

#[test]
fn a_claim_before_the_time_is_found() {
    let until = Timestamp::from_micros(9);
    let mut log = Log::with_limit(1);
    let id = log.submit_waiting(Wait::Scheduled { until });
    log.claim(id).breaks(Rule::Readiness, "claimed while it waited for a time");
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.add(Some(id), Change::WaitChanged { wait: Wait::Backoff { until } });
    log.claim(id).breaks(Rule::Readiness, "claimed while it waited for a time");
}

#[test]
fn a_token_that_does_not_grow_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Failed, (1, 0)).claim_as(id, 1, 2, 2);
    log.breaks(Rule::Fencing, "claimed with token 1, which is not above 1");
}

#[test]
fn a_settlement_under_a_stale_token_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Lost, (0, 1)).claim_as(id, 2, 2, 1);
    let ended = log.end(1, EndCause::Succeeded);
    log.finish(id, State::Succeeded, Some(ended), (1, 1));
    log.breaks(Rule::Fencing, "ended under token 1 while token 2 holds");
}

#[test]
fn a_settlement_by_another_worker_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id);
    let ended = AttemptEnd { worker: WorkerId::new(), ..log.end(1, EndCause::Failed) };
    let wait = Wait::None;
    log.add(Some(id), Change::Requeued { ended, wait, charged: 1, crashes: 0 });
    log.breaks(Rule::Fencing, "who does not hold it");
}

#[test]
fn an_attempt_number_that_skips_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim_as(id, 1, 2, 1).breaks(Rule::Counters, "attempt 2 follows attempt 0");
}

#[test]
fn a_charge_that_does_not_fit_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim_as(id, 1, 1, 2);
    log.breaks(Rule::Counters, "2 attempts charged by a claim that found 0");
    for (cause, counters) in [
        (EndCause::Released, (1, 0)),
        (EndCause::Lost, (1, 1)),
        (EndCause::Crashed, (0, 0)),
        (EndCause::Failed, (2, 0)),
    ] {
        let mut log = Log::with_limit(1);
        let id = log.submit();
        log.claim(id).requeue(id, 1, cause, counters);
        log.breaks(Rule::Counters, "charged and");
    }
}

#[test]
fn an_attempt_after_the_last_crash_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    for (token, attempt, crashes) in [(1, 1, 1), (2, 2, 2), (3, 3, 3)] {
        log.claim_as(id, token, attempt, 1).requeue(id, token, EndCause::Lost, (0, crashes));
    }
    log.breaks(Rule::Counters, "given back after 3 crashes");
}

#[test]
fn counters_that_move_while_pending_are_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.cancel(id).finish(id, State::Cancelled, None, (1, 0));
    log.breaks(Rule::Counters, "counters moved while it was pending");
}

#[test]
fn a_change_after_the_end_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).succeed(id).output(id, 1, 0);
    log.breaks(Rule::Transitions, "changed after it was over");
}

#[test]
fn a_second_end_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).succeed(id).succeed(id);
    log.breaks(Rule::Transitions, "changed after it was over");
}

#[test]
fn a_second_submission_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.add(Some(id), Change::Submitted { wait: Wait::None });
    log.breaks(Rule::Transitions, "submitted a second time");
}

#[test]
fn a_change_before_the_submission_is_found() {
    let mut log = Log::with_limit(1);
    log.claim(ExecutionId::new()).breaks(Rule::Transitions, "changed before it was submitted");
}

#[test]
fn a_claim_of_what_runs_is_found() {
    let mut log = Log::with_limit(2);
    let id = log.submit();
    log.claim(id).claim_as(id, 2, 2, 2).breaks(Rule::Transitions, "claimed while running");
}

#[test]
fn an_end_of_an_attempt_that_never_ran_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    let ended = log.end(0, EndCause::Failed);
    log.finish(id, State::Failed, Some(ended), (0, 0));
    log.breaks(Rule::Transitions, "over after an attempt while pending");
}

#[test]
fn an_end_without_a_reason_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.finish(id, State::Succeeded, None, (0, 0));
    log.breaks(Rule::Transitions, "succeeded while it was pending, for no reason");
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Failed, (1, 0));
    log.finish(id, State::Failed, None, (1, 0));
    log.breaks(Rule::Transitions, "failed while it was pending, for no reason");
}

#[test]
fn an_end_that_does_not_fit_its_attempt_is_found() {
    for (state, cause, counters) in [
        (State::Succeeded, EndCause::Failed, (1, 0)),
        (State::Failed, EndCause::Succeeded, (1, 0)),
        (State::Failed, EndCause::Lost, (0, 1)),
        (State::Cancelled, EndCause::Released, (0, 0)),
    ] {
        let mut log = Log::with_limit(1);
        let id = log.submit();
        log.claim(id);
        let ended = log.end(1, cause);
        log.finish(id, state, Some(ended), counters);
        log.breaks(Rule::Transitions, "after an attempt that");
    }
}

#[test]
fn a_retry_of_what_succeeded_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Succeeded, (1, 0));
    log.breaks(Rule::Transitions, "given back after an attempt that succeeded");
}

#[test]
fn an_execution_that_moves_to_another_provider_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.add(Some(id), Change::WaitChanged { wait: Wait::Limit });
    log.events[2].provider = "q".parse().unwrap();
    log.breaks(Rule::Transitions, "it was submitted to p");
}

#[test]
fn a_change_of_the_wrong_sort_of_thing_is_found() {
    let mut log = Log::with_limit(1);
    log.add(None, Change::WaitChanged { wait: Wait::None });
    log.breaks(Rule::Transitions, "a change of an execution names none");
    let mut log = Log::with_limit(1);
    let paused = Change::Paused { reason: String::new(), until: None };
    log.add(Some(ExecutionId::new()), paused);
    log.breaks(Rule::Transitions, "a change of a provider names an execution");
}

#[test]
fn output_of_nothing_that_runs_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Failed, (1, 0)).output(id, 1, 0);
    log.breaks(Rule::Transitions, "gave output while pending");
}

#[test]
fn output_of_an_attempt_before_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).requeue(id, 1, EndCause::Failed, (1, 0)).claim_as(id, 2, 2, 2).output(id, 1, 0);
    log.breaks(Rule::Output, "output of attempt 1 during attempt 2");
}

#[test]
fn a_lost_or_repeated_piece_of_output_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).output(id, 1, 0).output(id, 1, 2);
    log.breaks(Rule::Output, "piece 2 of output where piece 1 was next");
    log.events.pop();
    log.output(id, 1, 0).breaks(Rule::Output, "piece 0 of output where piece 1 was next");
}

#[test]
fn a_cancelled_execution_that_is_tried_again_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).cancel(id).requeue(id, 1, EndCause::Released, (0, 0));
    let (_, violations) = log.check();
    assert_eq!(violations[0].rule, Rule::Cancel);
    assert!(violations[0].message.contains("given back for another attempt after a cancel"));
    log.claim_as(id, 2, 2, 1);
    let (_, violations) = log.check();
    assert!(violations[1].message.contains("claimed after a cancel"), "{violations:?}");
}

#[test]
fn a_cancelled_execution_that_stays_pending_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.cancel(id).breaks(Rule::Cancel, "cancelled while pending, and still pending");
}

fn handle(run: &str) -> Handle {
    Handle::new(serde_json::Map::from_iter([("run_id".to_owned(), run.into())])).unwrap()
}

/// An execution whose attempt was lost while its provider knew it as `r1`.
fn lost_while_attached(log: &mut Log) -> ExecutionId {
    let id = log.submit();
    log.claim(id).add(Some(id), Change::Attached { handle: handle("r1") });
    log.requeue(id, 1, EndCause::Lost, (0, 1));
    id
}

#[test]
fn work_that_is_taken_up_again_and_stopped_there_passes() {
    let mut log = Log::with_limit(1);
    let id = lost_while_attached(&mut log);
    log.cancel(id).claim_with(id, 2, 2, 1, Some(handle("r1")));
    let ended = log.end(2, EndCause::Cancelled);
    log.finish(id, State::Cancelled, Some(ended), (1, 1));
    assert_eq!(log.check().1, []);
}

#[test]
fn work_that_is_begun_anew_although_its_provider_knows_it_is_found() {
    for other in [None, Some(handle("r2"))] {
        let mut log = Log::with_limit(1);
        let id = lost_while_attached(&mut log);
        log.claim_with(id, 2, 2, 1, other);
        log.breaks(Rule::Handles, "known of its work at the provider");
    }
}

#[test]
fn a_handle_that_outlives_a_failure_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).add(Some(id), Change::Attached { handle: handle("r1") });
    log.requeue(id, 1, EndCause::Failed, (1, 0));
    log.claim_with(id, 2, 2, 2, Some(handle("r1")));
    log.breaks(Rule::Handles, "known of its work at the provider");
}

#[test]
fn a_second_cancellation_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).cancel(id).cancel(id).breaks(Rule::Cancel, "cancelled twice");
}

fn row(log: &Log, id: ExecutionId) -> Record {
    let event = log.events.iter().find(|event| event.execution == Some(id)).unwrap();
    Record {
        id,
        provider: event.provider.clone(),
        state: State::Succeeded,
        wait: Wait::None,
        interrupted: false,
        priority: 0,
        due_at: Timestamp::default(),
        rank: Timestamp::default(),
        lane: String::new(),
        demand: None,
        queue_deadline: None,
        token: Token(1),
        owner: None,
        lease_expires_at: None,
        attempts: 1,
        charged: 1,
        crashes: 0,
        cancel_requested_at: None,
        handle: None,
        on_lost: OnLost::Rerun,
    }
}

#[test]
fn a_row_that_says_something_else_than_the_log_is_found() {
    let mut log = Log::with_limit(1);
    let id = log.submit();
    log.claim(id).succeed(id);
    assert_eq!(log.is_clean().agree(&row(&log, id)), Ok(()));
    let wrong = [
        Record { state: State::Failed, ..row(&log, id) },
        Record { token: Token(2), ..row(&log, id) },
        Record { attempts: 2, ..row(&log, id) },
        Record { charged: 0, ..row(&log, id) },
        Record { crashes: 1, ..row(&log, id) },
    ];
    for row in wrong {
        let violation = log.is_clean().agree(&row).unwrap_err();
        assert_eq!((violation.rule, violation.execution), (Rule::Records, Some(id)));
        let logged = "the log says succeeded, token 1, 1 attempts, 1 charged, 0 crashes";
        assert!(violation.message.contains(logged), "{violation}");
    }
    let live = log.submit();
    let violation = log.is_clean().agree(&row(&log, live)).unwrap_err();
    assert!(violation.message.contains("the log says pending, token 0"), "{violation}");
}

#[test]
fn a_row_without_a_log_and_a_log_without_a_row_are_found() {
    let mut log = Log::with_limit(1);
    let [a, b] = [log.submit(), log.submit()];
    log.claim(a).succeed(a);
    let mut checker = log.is_clean();
    let stranger = Record { id: ExecutionId::new(), ..row(&log, a) };
    let violation = checker.agree(&stranger).unwrap_err();
    assert_eq!(violation.message, "it has a row and no entry in the log");
    assert_eq!(checker.agree(&row(&log, a)), Ok(()));
    let without: Vec<_> = checker.without_row().map(|violation| violation.execution).collect();
    assert_eq!(without, [Some(b)]);
}

#[test]
fn a_providers_row_that_says_something_else_than_the_log_is_found() {
    let mut log = Log::with_limit(2);
    log.pause();
    let mut record = ProviderRecord::new("p".parse().unwrap(), Limits::concurrent(1));
    record.overriding = Overrides::concurrent(2);
    record.pause = Some(Pause { reason: String::new(), until: None });
    let mut checker = log.is_clean();
    assert_eq!(checker.agree_on_provider(&record), Ok(()));
    let open = ProviderRecord { pause: None, ..record.clone() };
    let violation = checker.agree_on_provider(&open).unwrap_err();
    assert_eq!(violation.message, "provider p: it is open by its row, paused by the log");
    let lack = Lack::Cpu { percent: 93, max_percent: 80 };
    let shortage = Some(Shortage { worker: log.worker, lack });
    let short = ProviderRecord { shortage, ..record.clone() };
    let violation = checker.agree_on_provider(&short).unwrap_err();
    assert_eq!(
        violation.message,
        "provider p: its work waits for a machine by its row, no work waits for a machine by the log"
    );
    let wide = ProviderRecord { overriding: Overrides::concurrent(9), ..record };
    let violation = checker.agree_on_provider(&wide).unwrap_err();
    assert_eq!(violation.message, "provider p: its row has limit 9, the log 2");
}

#[test]
fn what_was_submitted_before_a_compaction_is_left_unchecked() {
    let mut log = Log { events: Vec::new(), worker: WorkerId::new() };
    let old = ExecutionId::new();
    log.claim_as(old, 4, 4, 2).resume();
    for (revision, event) in (41..).zip(&mut log.events) {
        event.revision = revision;
    }
    let mut checker = Checker::new(40);
    assert!(log.events.iter().all(|event| checker.feed(event).is_ok()));
    let new = log.submit();
    assert_eq!(checker.feed(log.events.last().unwrap()), Ok(()));
    log.claim_as(new, 1, 3, 1);
    let violation = checker.feed(log.events.last().unwrap()).unwrap_err();
    assert_eq!(violation.rule, Rule::Counters, "what is submitted after it is checked");
}

//! Whatever is submitted when, and whoever claims: what starts is always first in the queue, so that
//! nothing is overtaken but for a time.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{HEAD_START, Stage, many_cases};
use crate::domain::{
    Demand, Ending, ErrorCode, ExecutionId, Failure, Lease, Limits, Rates, Timestamp,
};
use crate::store::ops::{Advance, Settlement};

const MODELS: [&str; 3] = ["", "fast", "slow"];

/// What happens next; which running execution is meant is an index into those that run.
#[derive(Debug, Clone)]
enum Step {
    Submit { priority: i32, model: usize },
    Claim { worker: usize, sharers: u32, slots: u32 },
    End { running: usize },
    Retry { running: usize, seconds: u32, charged: bool },
    Release { running: usize },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let running = any::<usize>;
    prop_oneof![
        6 => (-2i32..3, 0usize..3).prop_map(|(priority, model)| Step::Submit { priority, model }),
        4 => (0usize..3, 1u32..4, 1u32..6)
            .prop_map(|(worker, sharers, slots)| Step::Claim { worker, sharers, slots }),
        3 => running().prop_map(|running| Step::End { running }),
        2 => (running(), 0u32..20, any::<bool>())
            .prop_map(|(running, seconds, charged)| Step::Retry { running, seconds, charged }),
        1 => running().prop_map(|running| Step::Release { running }),
        4 => (0u64..15_000).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// What is known of an execution that is not over, told from what was asked and nothing else.
#[derive(Debug, Clone)]
struct Known {
    priority: i32,
    /// Since when, or from when on, it may be claimed.
    ready_at: Timestamp,
    interrupted: bool,
    lease: Option<Lease>,
}

#[derive(Default)]
struct Book {
    open: BTreeMap<ExecutionId, Known>,
}

impl Book {
    fn running(&self, index: usize) -> Option<(ExecutionId, Lease)> {
        let running: Vec<_> =
            self.open.iter().filter_map(|(id, it)| Some((*id, it.lease.clone()?))).collect();
        (!running.is_empty()).then(|| running[index % running.len()].clone())
    }

    fn ready(&self, now: Timestamp) -> Vec<ExecutionId> {
        let ready = self.open.iter().filter(|(_, it)| it.lease.is_none() && it.ready_at <= now);
        ready.map(|(id, _)| *id).collect()
    }

    /// Whether `first` may start while `other` waits: it was interrupted, or it has been ready for
    /// longer, where each point by which its priority is higher counts as so much time.
    fn may_overtake(&self, first: ExecutionId, other: ExecutionId) -> bool {
        let (a, b) = (&self.open[&first], &self.open[&other]);
        if a.interrupted != b.interrupted {
            return a.interrupted;
        }
        let points = i64::from(a.priority) - i64::from(b.priority);
        let head_start = points * i64::try_from(HEAD_START.as_micros()).unwrap();
        let later = a.ready_at.as_micros() - b.ready_at.as_micros();
        later < head_start || (later == head_start && first < other)
    }
}

proptest! {
    #![proptest_config(many_cases())]

    #[test]
    fn nothing_is_overtaken_but_by_what_is_submitted_within_its_head_start(
        limit in 1u32..5, steps in vec(step(), 1..50),
    ) {
        play(limit, steps);
    }
}

fn play(limit: u32, steps: Vec<Step>) {
    let wide = Rates { requests_per_minute: Some(u64::MAX), ..Rates::default() };
    let models = MODELS[1..].iter().map(|model| ((*model).to_owned(), wide)).collect();
    let mut stage = Stage::with(Limits { models, ..Limits::concurrent(limit) });
    let mut book = Book::default();
    for step in steps {
        match step {
            Step::Submit { priority, model } => {
                let model = Some(MODELS[model].to_owned()).filter(|model| !model.is_empty());
                let id = stage.submit(priority, Some(Demand { model, ..Demand::default() }));
                let known =
                    Known { priority, ready_at: stage.now, interrupted: false, lease: None };
                book.open.insert(id, known);
            }
            Step::Claim { worker, sharers, slots } => {
                stage.run(&Advance { grace: Duration::from_secs(60) });
                claim(&mut stage, &mut book, limit, (worker, sharers, slots));
            }
            Step::End { running } => {
                let Some((id, lease)) = book.running(running) else { continue };
                settle(&mut stage, lease, Ending::Succeeded { output: "1".into(), usage: None });
                book.open.remove(&id);
            }
            Step::Retry { running, seconds, charged } => {
                let Some((id, lease)) = book.running(running) else { continue };
                let delay = Duration::from_secs(seconds.into());
                let failure = Failure::new(ErrorCode::Transient, true, "it went wrong");
                settle(&mut stage, lease, Ending::Retry { failure, delay, charged, usage: None });
                let known = book.open.get_mut(&id).unwrap();
                known.lease = None;
                known.interrupted = false;
                // What cost no attempt and need not wait keeps its place.
                if charged || !delay.is_zero() {
                    known.ready_at = stage.now + delay;
                }
            }
            Step::Release { running } => {
                let Some((id, lease)) = book.running(running) else { continue };
                settle(&mut stage, lease, Ending::Released { begun: true });
                let known = book.open.get_mut(&id).unwrap();
                (known.lease, known.interrupted, known.ready_at) = (None, true, stage.now);
            }
            Step::Pass { millis } => stage.pass(Duration::from_millis(millis)),
        }
    }
}

fn claim(
    stage: &mut Stage,
    book: &mut Book,
    limit: u32,
    (worker, sharers, slots): (usize, u32, u32),
) {
    let ready = book.ready(stage.now);
    let running = book.open.values().filter(|it| it.lease.is_some()).count();
    let claimed = stage.claim(worker, sharers, slots).claimed;
    let room = usize::try_from(limit).unwrap() - running;
    let share = if sharers > 1 { limit.div_ceil(sharers) } else { u32::MAX }.min(slots);
    let most = room.min(usize::try_from(share).unwrap()).min(ready.len());
    assert_eq!(claimed.len(), most, "no slot stays empty, and none is taken twice");
    let started: Vec<_> = claimed.iter().map(|it| it.lease.id).collect();
    for first in &started {
        assert!(ready.contains(first), "only what is ready starts");
        for other in ready.iter().filter(|other| !started.contains(other)) {
            assert!(
                book.may_overtake(*first, *other),
                "{:?} started before {:?}",
                book.open[first],
                book.open[other]
            );
        }
    }
    for pair in started.windows(2) {
        assert!(book.may_overtake(pair[0], pair[1]), "a claim is in the order of the queue");
    }
    for claimed in claimed {
        let known = book.open.get_mut(&claimed.lease.id).unwrap();
        assert_eq!(claimed.interrupted, known.interrupted);
        (known.lease, known.interrupted) = (Some(claimed.lease), false);
    }
}

fn settle(stage: &mut Stage, lease: Lease, ending: Ending) {
    stage.run(&Settlement::new(lease, ending)).expect("the lease is held");
}

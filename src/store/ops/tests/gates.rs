//! Whatever a provider says, and whatever an operator does: its gate, and those of its models, keep
//! to what they promise.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Stage, many_cases};
use crate::domain::{
    Breaker, Demand, Ending, ExecutionId, HeldBy, Lease, Limits, PROBE_PAUSE, Rates, Signal,
    Timestamp,
};
use crate::store::ops::{Advance, Declare, GateChange, ProviderNews, SetGate, Settlement};

const MODEL: &str = "m";
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Step {
    Claim { worker: usize },
    Settle { running: usize, said: Said },
    Pause { seconds: Option<u32> },
    Resume,
    Pass { millis: u64 },
}

/// What the end of an attempt says.
#[derive(Debug, Clone, Copy)]
enum Said {
    Limited(Option<u32>),
    Failed,
    Answered,
    Unseen,
}

fn step() -> impl Strategy<Value = Step> {
    let said = prop_oneof![
        3 => (0u32..90).prop_map(|seconds| Said::Limited(Some(seconds))),
        1 => Just(Said::Limited(None)),
        3 => Just(Said::Failed),
        2 => Just(Said::Answered),
        1 => Just(Said::Unseen),
    ];
    let settle = (any::<usize>(), said).prop_map(|(running, said)| Step::Settle { running, said });
    prop_oneof![
        6 => (0usize..3).prop_map(|worker| Step::Claim { worker }),
        6 => settle,
        1 => proptest::option::of(0u32..40).prop_map(|seconds| Step::Pause { seconds }),
        1 => Just(Step::Resume),
        5 => prop_oneof![3 => 0u64..7_000, 1 => 0u64..60_000]
            .prop_map(|millis| Step::Pass { millis }),
    ]
}

/// What is known of a gate from what was said and nothing else.
#[derive(Debug, Default)]
struct Gate {
    /// Nothing may be admitted before this: the provider said so.
    stated: Option<Timestamp>,
    /// Whether it is closed, or only lets something through to see.
    closed: bool,
    /// Until when it is, as it tells.
    until: Option<Timestamp>,
    /// Those let through since it last closed that have not told yet.
    probes: Vec<ExecutionId>,
    probed_at: Option<Timestamp>,
}

/// A provider's gate and that of its model.
#[derive(Debug, Default)]
struct Book {
    gates: [Gate; 2],
    paused: bool,
    running: Vec<(Lease, usize)>,
    /// How many are ready of either lane.
    ready: [usize; 2],
}

proptest! {
    #![proptest_config(many_cases())]

    #[test]
    fn nothing_passes_before_its_time_and_a_closed_gate_opens_only_by_a_probe_or_an_operator(
        steps in vec(step(), 1..30),
    ) {
        play(steps);
    }
}

fn play(steps: Vec<Step>) {
    let wide = Rates { requests_per_minute: Some(u64::MAX), ..Rates::default() };
    let models = [(MODEL.to_owned(), wide)].into();
    let mut stage = Stage::with(Limits { models, ..Limits::concurrent(3) });
    let mut book = Book::default();
    for step in steps {
        advance(&mut stage, &mut book);
        match step {
            Step::Claim { worker } => claim(&mut stage, &mut book, worker),
            Step::Settle { running, said } => settle(&mut stage, &mut book, running, said),
            Step::Pause { seconds } => {
                let until = seconds.map(|seconds| stage.now + SECOND * seconds);
                let change = GateChange::Pause { reason: String::new(), until };
                set_gate(&mut stage, change);
                book.paused = true;
            }
            Step::Resume => resume(&mut stage, &mut book),
            Step::Pass { millis } => stage.pass(Duration::from_millis(millis)),
        }
        look(&stage, &mut book, false);
    }
    opens_in_the_end(&mut stage, &mut book);
}

fn set_gate(stage: &mut Stage, change: GateChange) {
    let provider = stage.provider.clone();
    stage.run(&SetGate { provider, change });
}

/// An operator knows better: both gates are open.
fn resume(stage: &mut Stage, book: &mut Book) {
    set_gate(stage, GateChange::Resume { reason: String::new() });
    book.paused = false;
    book.gates = Default::default();
}

/// Makes what is due; a pause may be over.
fn advance(stage: &mut Stage, book: &mut Book) {
    let paused_until = stage.record().pause.and_then(|pause| pause.until);
    stage.run(&Advance { grace: SECOND * 100_000 });
    if paused_until.is_some_and(|until| until <= stage.now) {
        book.paused = false;
        // Those let through before it are not waited for any more.
        let gate = &mut book.gates[0];
        gate.probes.clear();
        gate.probed_at = None;
        gate.until = None;
    }
    look(stage, book, false);
}

/// Notes how the gates stand, which must have opened for a reason only and never sooner than they
/// said. Those that were there to see are forgotten where one closed anew.
fn look(stage: &Stage, book: &mut Book, may_open: bool) {
    let record = stage.record();
    assert_eq!(record.pause.is_some(), book.paused);
    let held = record.flow.holds().iter().find(|hold| hold.model.as_deref() == Some(MODEL));
    let of_model = match held.map(|hold| &hold.by) {
        None => (false, None),
        Some(HeldBy::Closed { until, .. }) => (true, Some(*until)),
        Some(_) => (true, None),
    };
    assert_eq!(of_model.0, record.flow.has_closed(), "what is told is what holds");
    let of_provider = (record.health.closure().is_some(), record.health.closed_until());
    for (gate, (closed, until)) in book.gates.iter_mut().zip([of_provider, of_model]) {
        assert!(closed || !gate.closed || may_open, "it opened for no reason");
        if let (Some(before), Some(until)) = (gate.until, until) {
            assert!(until >= before, "a stated time was shortened");
        }
        if let Some(stated) = gate.stated.filter(|stated| *stated > stage.now) {
            let holds = until.is_some_and(|until| until >= stated);
            assert!(holds || !closed, "it is tried before the stated time");
        }
        if until.is_some() && until != gate.until {
            gate.probes.clear();
            gate.probed_at = None;
        }
        if !closed {
            *gate = Gate::default();
        }
        (gate.closed, gate.until) = (closed, until);
    }
}

fn claim(stage: &mut Stage, book: &mut Book, worker: usize) {
    // There is always something to be had.
    for (lane, model) in [None, Some(MODEL.to_owned())].into_iter().enumerate() {
        while book.ready[lane] < 2 {
            stage.submit(0, Some(Demand { model: model.clone(), ..Demand::default() }));
            book.ready[lane] += 1;
        }
    }
    let now = stage.now;
    for claimed in stage.claim(worker, 1, 2).claimed {
        let (id, lane) = (claimed.lease.id, usize::from(!claimed.lane.is_empty()));
        book.ready[lane] -= 1;
        book.running.push((claimed.lease, lane));
        assert!(!book.paused, "claimed while paused");
        // What is of the model passes both gates.
        for gate in &mut book.gates[..=lane] {
            assert!(gate.stated.is_none_or(|stated| stated <= now), "before the stated time");
            if !gate.closed {
                continue;
            }
            assert!(gate.until.is_none_or(|until| until <= now), "claimed while closed");
            assert!(claimed.probe, "what is let through to see is told so");
            assert!(
                gate.probed_at.is_none_or(|at| at + PROBE_PAUSE <= now),
                "a second probe within 5 s"
            );
            gate.probes.push(id);
            gate.probed_at = Some(now);
            gate.until = None;
        }
    }
    look(stage, book, false);
}

fn settle(stage: &mut Stage, book: &mut Book, running: usize, said: Said) {
    if book.running.is_empty() {
        return;
    }
    let (lease, lane) = book.running.swap_remove(running % book.running.len());
    let (id, message) = (lease.id, String::new());
    let signal = match said {
        Said::Limited(seconds) => {
            let retry_after = seconds.map(|seconds| SECOND * seconds);
            Signal::RateLimited { retry_after, message }
        }
        Said::Failed => {
            let breaker = Breaker { failures: 2, ..Breaker::default() };
            Signal::Failed { message, breaker }
        }
        Said::Answered => Signal::Answered,
        Said::Unseen => Signal::Unseen,
    };
    let news = Some(ProviderNews {
        provider: stage.provider.clone(),
        lane: if lane == 1 { MODEL } else { "" }.to_owned(),
        signal: Some(signal),
        observed: None,
        reserved: None,
    });
    let ending = Ending::Succeeded { output: "1".into(), usage: None };
    stage.run(&Settlement { lease, ending, news }).expect("the lease is held");
    if book.paused {
        return look(stage, book, false);
    }
    if let Said::Limited(Some(seconds @ 1..)) = said {
        let stated = stage.now + SECOND * seconds;
        let gate = &mut book.gates[lane];
        gate.stated = gate.stated.max(Some(stated));
    }
    let was_probe = book.gates[..=lane].iter().any(|gate| gate.probes.contains(&id));
    let tells = matches!(said, Said::Answered | Said::Failed);
    for gate in &mut book.gates {
        // One that has not seen anything is not waited for: the next may follow at once.
        if !tells && gate.probes.last() == Some(&id) {
            gate.probed_at = None;
        }
        gate.probes.retain(|probe| *probe != id);
    }
    look(stage, book, was_probe && tells);
    if matches!(said, Said::Limited(_)) {
        assert!(book.gates[lane].closed, "a rate limit closes the gate");
    }
}

/// Once all is well again the gates find out by themselves.
fn opens_in_the_end(stage: &mut Stage, book: &mut Book) {
    if stage.record().pause.is_some_and(|pause| pause.until.is_none()) {
        resume(stage, book);
    }
    for _ in 0..20 {
        if book.gates.iter().all(|gate| !gate.closed) && !book.paused {
            return;
        }
        while !book.running.is_empty() {
            settle(stage, book, 0, Said::Answered);
        }
        advance(stage, book);
        claim(stage, book, 0);
        while !book.running.is_empty() {
            settle(stage, book, 0, Said::Answered);
        }
        stage.pass(SECOND * 120);
    }
    panic!("the gates stay closed: {:?}", book.gates);
}

#[test]
fn what_is_let_through_of_a_model_opens_the_gate_of_the_provider() {
    let mut stage = Stage::with(Limits::concurrent(3));
    let mut book = Book { ready: [2, 2], ..Book::default() };
    stage.submit(0, None);
    let first = stage.claim(0, 1, 1).claimed.remove(0);
    book.running.push((first.lease, 0));
    settle(&mut stage, &mut book, 0, Said::Limited(Some(5)));
    // From now on there is work of the model only.
    let wide = Rates { requests_per_minute: Some(u64::MAX), ..Rates::default() };
    let models = [(MODEL.to_owned(), wide)].into();
    let limits = vec![(stage.provider.clone(), Limits { models, ..Limits::concurrent(3) })];
    stage.run(&Declare { limits });
    let demand = Demand { model: Some(MODEL.to_owned()), ..Demand::default() };
    for _ in 0..4 {
        stage.submit(0, Some(demand.clone()));
    }
    let mut probe = |said| {
        stage.pass(SECOND * 60);
        advance(&mut stage, &mut book);
        claim(&mut stage, &mut book, 0);
        assert_eq!(book.running.len(), 1, "one is let through to see");
        settle(&mut stage, &mut book, 0, said);
        (book.gates[0].closed, book.gates[1].closed)
    };
    assert_eq!(probe(Said::Unseen), (true, false));
    assert_eq!(probe(Said::Limited(Some(9))), (true, true), "the model closes for itself");
    assert_eq!(probe(Said::Answered), (false, false));
}

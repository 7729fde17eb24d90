//! Whatever is asked for and whatever it then takes: in no window of a minute more begins than the
//! budgets admit, over all workers; and what waits begins when it was said to.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Stage, many_cases};
use crate::domain::{Demand, Ending, Lease, Limits, Rates, Reserved, Timestamp, Usage};
use crate::store::ops::{ProviderNews, Settlement};

const MINUTE: Duration = Duration::from_secs(60);
const MODEL: &str = "m";
const OF_ALL: (usize, u64, u64) = (6, 500, 300);
const OF_MODEL: (usize, u64, u64) = (4, 200, 250);

/// What happens next. A worker's transaction begins `lag` before it has the lock.
#[derive(Debug, Clone)]
enum Step {
    Submit { of_model: bool, input: u64, output: u64 },
    Claim { worker: usize, lag: u64 },
    Settle { running: usize, input: i64, output: i64, lag: u64 },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly small, and at times more than the whole budget.
    let tokens = || prop_oneof![4 => 0u64..150, 1 => 0u64..800];
    let used = || prop_oneof![4 => 0i64..150, 1 => 0i64..2_000];
    prop_oneof![
        5 => (any::<bool>(), tokens(), tokens())
            .prop_map(|(of_model, input, output)| Step::Submit { of_model, input, output }),
        4 => (0usize..3, 0u64..400).prop_map(|(worker, lag)| Step::Claim { worker, lag }),
        3 => (any::<usize>(), used(), used(), 0u64..400)
            .prop_map(|(running, input, output, lag)| Step::Settle { running, input, output, lag }),
        4 => (0u64..25_000).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// An attempt that began, and what it counts with as far as is known.
struct Begun {
    at: Timestamp,
    of_model: bool,
    input: u64,
    output: u64,
    /// Its lease while it runs.
    lease: Option<(Lease, Reserved)>,
}

struct Book {
    waiting: usize,
    begun: Vec<Begun>,
}

proptest! {
    #![proptest_config(many_cases())]

    #[test]
    fn no_minute_holds_more_than_the_budgets_and_what_waits_begins_when_it_was_said_to(
        steps in vec(step(), 1..40),
    ) {
        play(steps);
    }
}

fn play(steps: Vec<Step>) {
    let rates = |(requests, input, output): (usize, u64, u64)| Rates {
        requests_per_minute: Some(requests as u64),
        input_tokens_per_minute: Some(input),
        output_tokens_per_minute: Some(output),
    };
    let models = [(MODEL.to_owned(), rates(OF_MODEL))].into();
    let limits = Limits { rates: rates(OF_ALL), models, ..Limits::concurrent(1_000) };
    let mut stage = Stage::with(limits);
    let mut book = Book { waiting: 0, begun: Vec::new() };
    for step in steps {
        match step {
            Step::Submit { of_model, input: input_tokens, output: output_tokens } => {
                let model = of_model.then(|| MODEL.to_owned());
                stage.submit(0, Some(Demand { model, input_tokens, output_tokens }));
                book.waiting += 1;
            }
            Step::Claim { worker, lag } => {
                claim(&mut stage, &mut book, worker, lag);
            }
            Step::Settle { running, input, output, lag } => {
                settle(&mut stage, &mut book, running, (input, output), lag);
            }
            Step::Pass { millis } => stage.pass(Duration::from_millis(millis)),
        }
    }
    while book.waiting > 0 {
        let before = book.waiting;
        let mut resumes = claim(&mut stage, &mut book, 0, 0);
        // Said one after the other: when anything may begin, when as much as the first takes may, and when
        // its model's budget lets it.
        for _ in 0..3 {
            if book.waiting == before {
                let until = resumes.expect("it is said when to look again");
                assert!(until > stage.now && until.since(stage.now) <= Duration::from_secs(61));
                stage.now = until;
                resumes = claim(&mut stage, &mut book, 1, 0);
            }
        }
        assert!(book.waiting < before, "what was said to resume did not");
    }
}

/// Claims all there is to be had, and returns when to look again.
fn claim(stage: &mut Stage, book: &mut Book, worker: usize, lag: u64) -> Option<Timestamp> {
    let now = stage.now;
    stage.now = now - Duration::from_millis(lag);
    let report = stage.claim(worker, 1, u32::MAX);
    // Whoever began before others and had the lock after them begins after them.
    let newest = book.begun.iter().map(|begun| begun.at).max().unwrap_or_default();
    let at = stage.now.max(whole_second(newest));
    stage.now = now;
    for claimed in report.claimed {
        book.waiting -= 1;
        let demand = claimed.spec.demand.clone().expect("each was submitted with one");
        let of_model = demand.model.is_some();
        let (mut input, mut output) =
            (demand.input_tokens.min(OF_ALL.1), demand.output_tokens.min(OF_ALL.2));
        if of_model {
            (input, output) = (input.min(OF_MODEL.1), output.min(OF_MODEL.2));
        }
        let reserved = claimed.reserved.expect("tokens are counted");
        assert_eq!((reserved.input_tokens, reserved.output_tokens), (input, output));
        assert_eq!(reserved.model.is_some(), of_model);
        let lease = Some((claimed.lease, reserved));
        book.begun.push(Begun { at, of_model, input, output, lease });
        let all = within(book, at, |_| true);
        assert!(all.0 <= OF_ALL.0 && all.1 <= OF_ALL.1 && all.2 <= OF_ALL.2, "{all:?}");
        if of_model {
            let model = within(book, at, |begun| begun.of_model);
            let (requests, input, output) = OF_MODEL;
            assert!(model.0 <= requests && model.1 <= input && model.2 <= output, "{model:?}");
        }
    }
    report.resumes.get(&stage.provider).copied()
}

fn settle(stage: &mut Stage, book: &mut Book, running: usize, used: (i64, i64), lag: u64) {
    let mut all: Vec<_> = book.begun.iter_mut().filter(|begun| begun.lease.is_some()).collect();
    if all.is_empty() {
        return;
    }
    let index = running % all.len();
    let begun = &mut *all[index];
    let (lease, reserved) = begun.lease.take().expect("those that run have one");
    (begun.input, begun.output) = (used.0.unsigned_abs(), used.1.unsigned_abs());
    let usage = Some(Usage { input_tokens: used.0, output_tokens: used.1 });
    let lane = if begun.of_model { MODEL } else { "" }.to_owned();
    let news = Some(ProviderNews {
        provider: stage.provider.clone(),
        lane,
        signal: None,
        observed: None,
        reserved: Some(reserved),
    });
    let ending = Ending::Succeeded { output: "1".into(), usage };
    let now = stage.now;
    stage.now = now - Duration::from_millis(lag);
    stage.run(&Settlement { lease, ending, news }).expect("the lease is held");
    stage.now = now;
}

/// What began in the minute up to `at`, itself included, of those wanted.
fn within(book: &Book, at: Timestamp, wanted: fn(&Begun) -> bool) -> (usize, u64, u64) {
    let counts = |begun: &&Begun| wanted(begun) && begun.at <= at && at.since(begun.at) < MINUTE;
    let sum = |sum: (usize, u64, u64), it: &Begun| (sum.0 + 1, sum.1 + it.input, sum.2 + it.output);
    book.begun.iter().filter(counts).fold((0, 0, 0), sum)
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() / 1_000_000 * 1_000_000)
}

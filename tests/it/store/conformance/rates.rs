//! Budgets of the minute, over several workers that claim in turn.

use flowgate::domain::{Clock, Ending, Handle, Limits, Rates, State, Timestamp, Usage, WorkerId};
use flowgate::store::{ClaimReport, Claimed};

use crate::store::fixture::{GRACE, LEASE, SECOND, TestStore, claim, ids, name, unshared};

fn requests(requests: u64) -> Rates {
    Rates { requests_per_minute: Some(requests), ..Rates::default() }
}

fn input(tokens: u64) -> Rates {
    Rates { input_tokens_per_minute: Some(tokens), ..Rates::default() }
}

fn output(tokens: u64) -> Rates {
    Rates { output_tokens_per_minute: Some(tokens), ..Rates::default() }
}

async fn declare(t: &TestStore, rates: Rates) {
    t.declare_limits("p", Limits { rates, ..Limits::concurrent(100) }).await;
}

fn succeeded(input_tokens: i64, output_tokens: i64) -> Ending {
    let usage = Some(Usage { input_tokens, output_tokens });
    Ending::Succeeded { output: "1".into(), usage }
}

async fn claim_all(t: &TestStore) -> ClaimReport {
    t.store.claim(t.claim_of(&[("p", 50)])).await.unwrap()
}

/// What three workers get that claim in turn, two at a time, until none gets anything.
async fn in_turn(t: &TestStore) -> Vec<Claimed> {
    let workers = [WorkerId::new(), WorkerId::new(), WorkerId::new()];
    let mut claimed = Vec::new();
    loop {
        let before = claimed.len();
        for worker in workers {
            let two = claim(worker, vec![unshared(name("p"), 2)]);
            claimed.extend(t.store.claim(two).await.unwrap().claimed);
        }
        if claimed.len() == before {
            return claimed;
        }
    }
}

/// Nothing more begins until this time, and then something does.
async fn resumes_at(t: &TestStore, at: Timestamp) -> Vec<Claimed> {
    let report = claim_all(t).await;
    assert_eq!((report.claimed.len(), report.resumes.get(&name("p"))), (0, Some(&at)));
    // The clock alone moves: leases are not what this is about.
    t.clock.advance(at.since(t.clock.now()) - std::time::Duration::from_micros(1));
    assert_eq!(claim_all(t).await.claimed.len(), 0, "not a moment too early");
    t.clock.advance(std::time::Duration::from_micros(1));
    let claimed = in_turn(t).await;
    assert!(!claimed.is_empty(), "what was said to resume did not");
    claimed
}

pub(crate) async fn no_more_requests_begin_within_a_minute_than_the_budget_admits(t: &TestStore) {
    declare(t, requests(5)).await;
    let all = t.submit_plain("p", 13).await;
    let begun = t.clock.now();
    assert_eq!(ids(&in_turn(t).await), all[..5]);
    assert_eq!(ids(&resumes_at(t, begun + 61 * SECOND).await), all[5..10]);
    assert_eq!(ids(&resumes_at(t, begun + 122 * SECOND).await), all[10..]);
}

pub(crate) async fn no_more_tokens_begin_within_a_minute_than_the_budgets_admit(t: &TestStore) {
    for (rates, demand) in [(input(100), (30, 500)), (output(100), (500, 30))] {
        declare(t, rates).await;
        for _ in 0..7 {
            t.submit_demanding("p", None, demand).await;
        }
        let begun = t.clock.now();
        assert_eq!(in_turn(t).await.len(), 3);
        assert_eq!(resumes_at(t, begun + 61 * SECOND).await.len(), 3);
        assert_eq!(resumes_at(t, begun + 122 * SECOND).await.len(), 1);
        t.clock.advance(61 * SECOND);
    }
}

pub(crate) async fn a_models_budget_holds_back_its_own_work_only(t: &TestStore) {
    let models = [("m".to_owned(), requests(2))].into();
    let limits = Limits { models, rates: requests(5), ..Limits::concurrent(100) };
    t.declare_limits("p", limits).await;
    let mut of_model = Vec::new();
    for _ in 0..4 {
        of_model.push(t.submit_demanding("p", Some("m"), (0, 0)).await);
    }
    let others = t.submit_plain("p", 2).await;
    let unheard_of = t.submit_demanding("p", Some("n"), (0, 0)).await;
    let begun = t.clock.now();
    let mut claimed = ids(&in_turn(t).await);
    claimed.sort_unstable();
    assert_eq!(claimed, [of_model[0], of_model[1], others[0], others[1], unheard_of]);
    assert_eq!(ids(&resumes_at(t, begun + 61 * SECOND).await), of_model[2..]);
}

pub(crate) async fn a_settlement_with_less_usage_frees_what_it_did_not_take(t: &TestStore) {
    declare(t, input(100)).await;
    t.submit_demanding("p", None, (60, 0)).await;
    let waiting = t.submit_demanding("p", None, (60, 0)).await;
    let claimed = in_turn(t).await;
    assert_eq!(claimed.len(), 1);
    t.settle_telling(&claimed[0], succeeded(10, 0), None).await;
    assert_eq!(ids(&in_turn(t).await), [waiting]);
}

pub(crate) async fn a_settlement_with_more_usage_takes_it(t: &TestStore) {
    declare(t, input(100)).await;
    t.submit_demanding("p", None, (10, 0)).await;
    let begun = t.clock.now();
    let claimed = in_turn(t).await;
    t.settle_telling(&claimed[0], succeeded(95, 0), None).await;
    let waiting = t.submit_demanding("p", None, (10, 0)).await;
    assert_eq!(ids(&resumes_at(t, begun + 61 * SECOND).await), [waiting]);
}

pub(crate) async fn what_ends_after_its_minute_leaves_the_budget_as_it_is(t: &TestStore) {
    declare(t, input(100)).await;
    t.submit_demanding("p", None, (90, 0)).await;
    let long = in_turn(t).await;
    t.clock.advance(70 * SECOND);
    t.submit_demanding("p", None, (90, 0)).await;
    assert_eq!(in_turn(t).await.len(), 1);
    t.submit_demanding("p", None, (90, 0)).await;
    t.settle_telling(&long[0], succeeded(1, 0), None).await;
    assert_eq!(in_turn(t).await.len(), 0, "what began a moment ago still counts");
}

pub(crate) async fn what_asks_for_more_than_the_budget_begins_when_nothing_else_did(t: &TestStore) {
    declare(t, input(100)).await;
    t.submit_demanding("p", None, (1, 0)).await;
    let huge = t.submit_demanding("p", None, (5_000, 0)).await;
    let begun = t.clock.now();
    assert_eq!(in_turn(t).await.len(), 1);
    let claimed = resumes_at(t, begun + 61 * SECOND).await;
    assert_eq!(ids(&claimed), [huge]);
    assert_eq!(claimed[0].reserved.as_ref().unwrap().input_tokens, 100, "the whole of it");
}

pub(crate) async fn a_large_one_is_not_overtaken_by_small_ones_behind_it(t: &TestStore) {
    declare(t, input(100)).await;
    t.submit_demanding("p", None, (60, 0)).await;
    let large = t.submit_demanding("p", None, (60, 0)).await;
    let small = t.submit_demanding("p", None, (10, 0)).await;
    let begun = t.clock.now();
    assert_eq!(in_turn(t).await.len(), 1);
    assert_eq!(ids(&resumes_at(t, begun + 61 * SECOND).await), [large, small]);
}

pub(crate) async fn what_is_only_to_be_stopped_takes_nothing_of_a_budget(t: &TestStore) {
    declare(t, requests(1)).await;
    let id = t.submit_with("p", |_| {}).await;
    let run = Handle::new(serde_json::Map::from_iter([("run".to_owned(), 1.into())])).unwrap();
    t.store.attach(t.claim_one("p").await, run).await.unwrap().unwrap();
    t.cancel(id).await;
    t.clock.advance(61 * SECOND);
    t.submit_plain("p", 2).await;
    assert_eq!(in_turn(t).await.len(), 1, "the budget is spent");
    t.pass(LEASE + GRACE - 20 * SECOND).await;
    assert_eq!(t.state(id).await, State::Pending);
    let claimed = in_turn(t).await;
    assert_eq!((ids(&claimed), claimed[0].cancel_requested), (vec![id], true));
    assert_eq!(claimed[0].reserved, None);
}

//! Lists, totals, and the register of workers.

use std::collections::BTreeMap;

use flowgate::domain::{Clock, ExecutionId, State, WorkerId};
use flowgate::store::{ListQuery, Totals, WorkerRow, WorkerStatus};

use crate::store::fixture::{SECOND, TestStore, failed, name};

fn query() -> ListQuery {
    ListQuery { limit: 100, ..ListQuery::default() }
}

async fn list(t: &TestStore, query: ListQuery) -> Vec<ExecutionId> {
    t.store.list(&query).await.unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) async fn executions_are_listed_newest_first(t: &TestStore) {
    let mut ids = t.submit_plain("p", 5).await;
    ids.reverse();
    assert_eq!(list(t, query()).await, ids);
}

pub(crate) async fn filters_leave_only_what_matches(t: &TestStore) {
    t.declare("p", 1).await;
    let first = t.submit_plain("p", 2).await;
    t.clock.advance(SECOND);
    let middle = t.clock.now();
    let second = t.submit_plain("q", 1).await;
    t.settle(&t.claim_one("p").await, failed()).await.unwrap();

    let providers = vec![name("q"), name("unknown")];
    assert_eq!(list(t, ListQuery { providers, ..query() }).await, second);
    let states = vec![State::Failed, State::Running];
    assert_eq!(list(t, ListQuery { states, ..query() }).await, first[..1]);
    let created_after = Some(middle);
    assert_eq!(list(t, ListQuery { created_after, ..query() }).await, second);
    let created_before = Some(middle);
    let newest_first = [first[1], first[0]];
    assert_eq!(list(t, ListQuery { created_before, ..query() }).await, newest_first);
    let both = ListQuery {
        providers: vec![name("p")],
        states: vec![State::Pending],
        created_before,
        ..query()
    };
    assert_eq!(list(t, both).await, first[1..]);
}

pub(crate) async fn labels_match_only_when_all_do(t: &TestStore) {
    let given = labels(&[("team", "a"), ("x.y/z", "it's \"1\"")]);
    let id = t.submit_with("p", |spec| spec.labels = given.clone()).await;
    t.submit_with("p", |spec| spec.labels = labels(&[("team", "b")])).await;
    t.submit_with("p", |_| {}).await;
    let with = |labels| ListQuery { labels, ..query() };
    assert_eq!(list(t, with(labels(&[("team", "a")]))).await, [id]);
    assert_eq!(list(t, with(given)).await, [id]);
    assert_eq!(list(t, with(labels(&[("team", "a"), ("x.y/z", "2")]))).await, []);
    assert_eq!(list(t, with(labels(&[("nothing", "")]))).await, []);
}

pub(crate) async fn pages_are_stable_while_executions_are_added(t: &TestStore) {
    let mut expected = t.submit_plain("p", 10).await;
    expected.reverse();
    let mut seen = Vec::new();
    loop {
        let page = list(t, ListQuery { before: seen.last().copied(), limit: 3, ..query() }).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
        t.submit_plain("p", 2).await;
    }
    assert_eq!(seen, expected);
}

pub(crate) async fn executions_run_again_can_be_left_out(t: &TestStore) {
    let first = t.submit_plain("p", 2).await;
    let again = t.submit_with("p", |spec| spec.retry_of = Some(first[0])).await;
    let left = list(t, ListQuery { not_retried: true, ..query() }).await;
    assert_eq!(left, [again, first[1]]);
    assert_eq!(list(t, query()).await.len(), 3);
}

pub(crate) async fn totals_count_everything(t: &TestStore) {
    t.declare("p", 2).await;
    let ids = t.submit_plain("p", 5).await;
    let claimed = t.claim("p", 2).await;
    t.succeed(&claimed[0].lease).await;
    t.settle(&claimed[1].lease, failed()).await.unwrap();
    t.cancel(ids[4]).await;
    t.claim("p", 1).await;
    let totals = Totals { size_bytes: 0, ..t.store.totals().await.unwrap() };
    let expected = Totals {
        submitted: 5,
        pending: 1,
        running: 1,
        succeeded: 1,
        failed: 1,
        cancelled: 1,
        size_bytes: 0,
    };
    assert_eq!(totals, expected);
}

pub(crate) async fn workers_are_listed_as_they_last_were(t: &TestStore) {
    let worker = |status| WorkerRow {
        id: t.worker,
        host: "höst".to_owned(),
        version: "1".to_owned(),
        status,
        started_at: t.clock.now(),
        heartbeat_at: t.clock.now(),
        figures: serde_json::json!({ "slots": 4, "deep": [1.5, null] }),
    };
    t.store.beat(worker(WorkerStatus::Serving)).await.unwrap();
    t.store.beat(worker(WorkerStatus::Stopping)).await.unwrap();
    let started_at = t.clock.now() + SECOND;
    let newer = WorkerRow { id: WorkerId::new(), started_at, ..worker(WorkerStatus::Serving) };
    t.store.beat(newer.clone()).await.unwrap();
    assert_eq!(t.store.workers().await.unwrap(), [newer, worker(WorkerStatus::Stopping)]);
    assert_eq!(t.head().await, 0, "a heartbeat is not logged");
}

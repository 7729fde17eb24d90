//! Submitting: once per `request_id`, all or nothing.

use std::collections::BTreeMap;

use flowgate::domain::{
    Change, ErrorCode, ExecutionId, Input, RetryPolicy, State, TraceContext, Wait,
};
use flowgate::store::{NewExecution, Payload, SubmitRefused, Submitted};
use futures_util::future::join_all;

use crate::store::fixture::{SECOND, TestStore, succeeded};

fn requested(t: &TestStore, request_id: &str, hash: &str) -> NewExecution {
    let mut new = t.new_with("p", |spec| spec.request_id = Some(request_id.to_owned()));
    hash.clone_into(&mut new.request_hash);
    new
}

pub(crate) async fn a_new_execution_is_pending_and_in_the_log(t: &TestStore) {
    t.declare("p", 1).await;
    let new = t.new_with("p", |_| {});
    let id = new.spec.id;
    let answers = t.store.submit(vec![new]).await.unwrap().unwrap();
    let execution = t.get(id).await;
    let at = execution.updated_at;
    assert_eq!(answers, [Submitted::New { wait: Wait::None, revision: 2, at }]);
    assert_eq!((execution.state, execution.revision), (State::Pending, 2));
    assert_eq!(t.changes(id).await, [Change::Submitted { wait: Wait::None }]);
}

pub(crate) async fn what_was_submitted_is_read_back_as_it_was(t: &TestStore) {
    let original = t.submit_with("p", |_| {}).await;
    let new = t.new_with("p", |spec| {
        let json = "{\"text\":\"\u{1F600} \\u0000 \\\" ' \\n\",\"n\":12345678901234567890.5}";
        spec.input = Input { json: json.to_owned(), exact: true };
        spec.request_id = Some("order 'ä' \"1\"".to_owned());
        spec.priority = i32::MIN;
        spec.labels = BTreeMap::from([("team/a.b-c_d".to_owned(), "O'Brien \"x\"".to_owned())]);
        spec.schedule_at = Some(spec.created_at + SECOND);
        spec.queue_timeout = Some(SECOND / 3);
        spec.run_timeout = SECOND * 7;
        spec.retry = RetryPolicy {
            max_attempts: u32::MAX,
            initial_backoff: SECOND / 7,
            max_backoff: SECOND * 9,
            multiplier: 1.5,
            retry_on: vec![ErrorCode::ModuleFailed],
        };
        spec.retry_of = Some(original);
        spec.trace = Some(TraceContext {
            traceparent: "00-aa-bb-01".to_owned(),
            tracestate: Some("a=1".to_owned()),
        });
    });
    let spec = new.spec.clone();
    t.submit(new).await;
    assert_eq!(*t.get(spec.id).await.spec, *spec);
}

pub(crate) async fn a_repeated_request_is_answered_with_the_first_execution(t: &TestStore) {
    let first = t.submit(requested(t, "r", "one")).await;
    let head = t.head().await;
    let again = t.store.submit(vec![requested(t, "r", "one")]).await.unwrap().unwrap();
    assert_eq!(again, [Submitted::Replayed(first)]);
    assert_eq!(t.head().await, head, "a replay changes nothing");
}

pub(crate) async fn a_request_id_reused_for_another_request_is_a_conflict_that_names_the_first(
    t: &TestStore,
) {
    let first = t.submit(requested(t, "r", "one")).await;
    let conflict = t.store.submit(vec![requested(t, "r", "two")]).await.unwrap();
    assert_eq!(conflict, Err(SubmitRefused::RequestIdConflict { index: 0, first }));
}

pub(crate) async fn a_request_repeated_within_a_batch_gives_one_execution(t: &TestStore) {
    let batch = vec![requested(t, "a", "1"), requested(t, "b", "2"), requested(t, "a", "1")];
    let (a, b) = (batch[0].spec.id, batch[1].spec.id);
    let answers = t.store.submit(batch).await.unwrap().unwrap();
    assert!(matches!(answers[0], Submitted::New { revision: 1, .. }));
    assert!(matches!(answers[1], Submitted::New { revision: 2, .. }));
    assert_eq!(answers[2], Submitted::Replayed(a));
    assert_eq!(t.store.list(&all()).await.unwrap(), [b, a]);
}

pub(crate) async fn a_conflict_anywhere_in_a_batch_stores_nothing_of_it(t: &TestStore) {
    let first = t.submit(requested(t, "r", "one")).await;
    let batch = vec![requested(t, "new", "1"), requested(t, "r", "two")];
    let conflict = t.store.submit(batch).await.unwrap();
    assert_eq!(conflict, Err(SubmitRefused::RequestIdConflict { index: 1, first }));
    let batch = vec![requested(t, "s", "1"), requested(t, "s", "2")];
    let first_of_batch = batch[0].spec.id;
    let conflict = t.store.submit(batch).await.unwrap();
    assert_eq!(conflict, Err(SubmitRefused::RequestIdConflict { index: 1, first: first_of_batch }));
    assert_eq!(t.store.list(&all()).await.unwrap(), [first]);
}

pub(crate) async fn concurrent_submits_of_one_request_give_one_execution(t: &TestStore) {
    let submits = (0..20).map(|_| t.store.submit(vec![requested(t, "r", "one")]));
    let answers: Vec<_> =
        join_all(submits).await.into_iter().map(|a| a.unwrap().unwrap()).collect();
    let listed = t.store.list(&all()).await.unwrap();
    assert_eq!(listed.len(), 1);
    let new = answers.iter().filter(|a| matches!(a[..], [Submitted::New { .. }])).count();
    let replayed = answers.iter().filter(|a| a[..] == [Submitted::Replayed(listed[0])]).count();
    assert_eq!((new, replayed), (1, 19));
}

pub(crate) async fn an_execution_read_twice_at_once_is_whole_both_times(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.succeed(&t.claim_one("p").await).await;
    let expected = t.get(id).await;
    let both = t.store.executions(&[id, id], Payload::With).await.unwrap();
    assert_eq!(both, [expected.clone(), expected]);
}

pub(crate) async fn a_read_without_payload_leaves_out_input_and_output(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    t.settle(&t.claim_one("p").await, succeeded("[1]")).await.unwrap();
    let bare = t.store.execution(id, Payload::Without).await.unwrap().unwrap();
    assert_eq!((bare.spec.input.json.as_str(), bare.output.as_deref()), ("{}", None));
    let full = t.get(id).await;
    assert_eq!(
        (full.spec.input.json.as_str(), full.output.as_deref()),
        (r#"{"a":1}"#, Some("[1]"))
    );
}

pub(crate) async fn unknown_executions_are_left_out(t: &TestStore) {
    let id = t.submit_with("p", |_| {}).await;
    let found = t.store.executions(&[ExecutionId::new(), id], Payload::With).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(t.store.execution(ExecutionId::new(), Payload::With).await.unwrap().is_none());
}

fn all() -> flowgate::store::ListQuery {
    flowgate::store::ListQuery { limit: 100, ..Default::default() }
}

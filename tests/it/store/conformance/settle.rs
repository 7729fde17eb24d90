//! Settlements: how an attempt ends, and what follows.

use flowgate::domain::{
    Change, Clock, EndCause, Ending, ErrorCode, MAX_CRASHES, State, Usage, Wait,
};

use crate::store::fixture::{SECOND, TestStore, crashed, failure, retry, succeeded};

pub(crate) async fn a_success_keeps_its_result_and_usage(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.clock.advance(SECOND);
    let usage = Some(Usage { input_tokens: 3, output_tokens: i64::MAX });
    t.settle(&lease, Ending::Succeeded { output: r#"{"x":1}"#.into(), usage }).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Succeeded);
    assert_eq!(execution.output.as_deref(), Some(r#"{"x":1}"#));
    assert_eq!(execution.attempts[0].usage(), usage);
    assert_eq!(execution.ended_at, Some(t.clock.now()));
    assert_eq!(execution.started_at(), Some(t.clock.now() - SECOND));
    assert_eq!(execution.failure, None);
}

pub(crate) async fn a_failure_keeps_what_there_is_of_a_result(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let mut failure = failure(ErrorCode::ModuleFailed);
    failure.details = Some(serde_json::json!({ "exit_code": 3, "text": "\u{0}ä" }));
    let output = Some("[3]".into());
    let ending = Ending::Failed { failure: failure.clone(), output, usage: None };
    t.settle(&t.claim_one("p").await, ending).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Failed);
    assert_eq!(execution.output.as_deref(), Some("[3]"));
    assert_eq!(execution.failure.as_ref(), Some(&failure));
    let end = execution.attempts[0].end.clone().unwrap();
    assert_eq!((end.cause, end.failure), (EndCause::Failed, Some(failure)));
}

pub(crate) async fn a_retry_keeps_count_of_attempts(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    for attempt in 1..=3 {
        let claimed = t.claim("p", 1).await;
        assert_eq!((claimed[0].attempt, claimed[0].charged), (attempt, attempt));
        assert_eq!(claimed[0].lease.token.0, i64::from(attempt));
        t.settle(&claimed[0].lease, retry(SECOND)).await.unwrap();
        let attempts = t.get(id).await.attempts;
        let end = attempts.last().and_then(|attempt| attempt.end.clone()).unwrap();
        assert_eq!(end.failure.unwrap().code, ErrorCode::Transient);
        t.pass(SECOND).await;
    }
    assert_eq!(t.get(id).await.attempts.len(), 3);
}

pub(crate) async fn an_uncharged_retry_costs_no_attempt(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let failure = failure(ErrorCode::RateLimited);
    let ending = Ending::Retry { failure, delay: SECOND, charged: false, usage: None };
    t.settle(&t.claim_one("p").await, ending).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!((execution.charged, execution.attempts.len(), execution.crashes), (0, 1, 0));
    t.pass(SECOND).await;
    let claimed = t.claim("p", 1).await;
    assert_eq!((claimed[0].attempt, claimed[0].charged), (2, 1));
    assert!(!claimed[0].interrupted);
}

pub(crate) async fn a_crash_is_uncharged_and_tried_again_first(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    t.submit_with("p", |spec| spec.priority = 9).await;
    t.settle(&lease, crashed()).await.unwrap();
    let execution = t.get(id).await;
    assert_eq!((execution.state, execution.wait), (State::Pending, Wait::None));
    assert_eq!((execution.charged, execution.crashes), (0, 1));
    assert_eq!(t.claim("p", 1).await[0].lease.id, id);
}

pub(crate) async fn the_third_crash_is_the_last(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    for crash in 1..=MAX_CRASHES {
        assert_eq!(t.state(id).await, State::Pending);
        t.settle(&t.claim_one("p").await, crashed()).await.unwrap();
        assert_eq!(t.get(id).await.crashes, crash);
    }
    let execution = t.get(id).await;
    assert_eq!(execution.state, State::Failed);
    assert_eq!(execution.failure.unwrap().code, ErrorCode::Crashed);
    assert_eq!(t.claim("p", 1).await.len(), 0);
}

pub(crate) async fn a_release_is_uncharged_and_tried_again_first(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    for _ in 0..MAX_CRASHES * 2 {
        t.settle(&t.claim_one("p").await, Ending::Released { begun: true }).await.unwrap();
    }
    let execution = t.get(id).await;
    assert_eq!((execution.state, execution.wait), (State::Pending, Wait::None));
    assert_eq!((execution.charged, execution.crashes), (0, 0));
    assert_eq!(execution.failure, None);
    let last = t.changes(id).await.pop().unwrap();
    assert!(matches!(last, Change::Requeued { ended, .. } if ended.cause == EndCause::Released));
    t.submit_with("p", |spec| spec.priority = 9).await;
    assert_eq!(t.claim("p", 1).await[0].lease.id, id);
}

pub(crate) async fn a_result_of_any_text_is_read_back_as_it_was(t: &TestStore) {
    t.declare("p", 1).await;
    let text = "{\"a\":\"'\\u0000\\\\ \u{7f}\u{2028}\u{1F600}\",\"n\":1e400,\"z\":[ 1 ]}";
    let id = t.submit_with("p", |_| {}).await;
    t.settle(&t.claim_one("p").await, succeeded(text)).await.unwrap();
    assert_eq!(t.get(id).await.output.as_deref(), Some(text));
}

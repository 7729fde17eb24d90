//! What the tests of `langgraph`, `langflow` and `n8n` share: work that goes on at the provider under
//! an id of its own.

use std::time::{Duration, SystemTime};

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::matrix::{Ended, KEY, Started, json_of, struct_value};
use crate::support::eventually;
use crate::support::providers::{Replay, Reply, Request};

/// The handle of the newest attempt, as soon as it is kept.
pub(super) async fn handle(gate: &Started, id: &str) -> Value {
    let kept = eventually("a handle is kept", async || {
        let execution = gate.server.get(id).await;
        execution.attempts.last()?.handle.clone()
    });
    json_of(struct_value(kept.await))
}

/// The handles of all attempts, their endpoint left out.
pub(super) fn handles(ended: &Ended) -> Vec<Value> {
    let handles = ended.execution.attempts.iter().map(|attempt| attempt.handle.clone());
    let handles = handles.map(|handle| handle.map(|handle| json_of(struct_value(handle))));
    handles.map(|handle| without_endpoint(handle.unwrap_or_default())).collect()
}

fn without_endpoint(mut handle: Value) -> Value {
    if let Value::Object(ids) = &mut handle {
        ids.remove("endpoint");
    }
    handle
}

/// The requests for `route` that came so far: `METHOD /path`, `*` for any segment.
pub(super) fn asked(replay: &Replay, route: &str) -> Vec<Request> {
    let (method, path) = route.split_once(' ').expect("a method and a path");
    let wanted: Vec<&str> = path.split('/').collect();
    let fits = |request: &Request| {
        let found: Vec<&str> = request.path().split('/').collect();
        request.method == method
            && found.len() == wanted.len()
            && wanted.iter().zip(found).all(|(wanted, found)| *wanted == "*" || *wanted == found)
    };
    replay.requests().into_iter().filter(fits).collect()
}

/// Waits until there was a request for `route`, and returns the first.
pub(super) async fn is_asked(replay: &Replay, route: &str) -> Request {
    eventually(route, async || asked(replay, route).into_iter().next()).await
}

/// Scripts refusals of `route` for a while, in seconds and as a date, and checks after the end that
/// they were waited for and cost nothing.
pub(super) struct RateLimits {
    date: String,
}

impl RateLimits {
    pub(super) fn on(replay: &Replay, route: &str) -> Self {
        let refuses = |status| Reply::json(status, &json!({ "detail": "slow down" }));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
        replay.on(route, refuses(429).header("Retry-After", "1"));
        replay.on(route, refuses(503).header("Retry-After", &date));
        Self { date }
    }

    pub(super) fn were_waited_for(&self, ended: &Ended) {
        ended.success();
        let attempts = &ended.execution.attempts;
        assert_eq!(attempts.len(), 3, "though one was all that it had");
        for attempt in &attempts[..2] {
            let error = attempt.error.as_ref().unwrap();
            assert_eq!(error.code(), ErrorCode::RateLimited, "{error:?}");
            assert!(error.message.contains("slow down"), "{error:?}");
        }
        let seconds = |time: Option<prost_types::Timestamp>| {
            let time = time.unwrap();
            time.seconds as f64 + f64::from(time.nanos) / 1e9
        };
        let pause = seconds(attempts[1].start_time) - seconds(attempts[0].end_time);
        assert!(pause >= 1.0, "{pause}");
        let date = httpdate::parse_http_date(&self.date).unwrap();
        let begun = seconds(attempts[2].start_time);
        assert!(begun >= seconds(Some(date.into())), "it began before the time that was named");
    }
}

/// Asserts that it was stopped at the provider, which confirmed that.
pub(super) fn was_stopped_there(ended: &Ended) {
    let stopped = json!({ "by": "provider", "confirmed": true });
    assert_eq!(ended.details()["stopped"], stopped, "{:?}", ended.details());
}

/// Asserts that the connection was dropped and that this may not have stopped the work.
pub(super) fn may_run_on(ended: &Ended) {
    ended.was_dropped();
    assert_eq!(ended.details()["may_run_on"], json!(true), "{:?}", ended.details());
}

/// Cancels, and waits for the end.
pub(super) async fn cancelled(gate: &Started, id: &str) -> Ended {
    gate.cancel(id).await;
    let ended = gate.ended(id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled, "{:?}", ended.output());
    assert_eq!(ended.execution.error.as_ref().unwrap().code(), ErrorCode::Cancelled);
    ended
}

/// Asserts that every request for `route` was shown the key in `header`.
pub(super) fn all_show_the_key(replay: &Replay, route: &str, header: &str) {
    let requests = asked(replay, route);
    assert!(!requests.is_empty(), "{route}");
    for request in requests {
        assert_eq!(request.header(header), Some(KEY), "{}", request.target);
    }
}

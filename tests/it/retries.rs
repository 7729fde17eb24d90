//! What follows a failed attempt, by the public door: a provider's defaults and a submission's own word,
//! which codes are tried again, the time a server asks for, and the budget.

use std::time::Duration;

use flowgate::pb::{
    ErrorCode, Execution, ExecutionState, GetProviderRequest, Provider, RetryPolicy,
    SubmitExecutionRequest, WaitReason,
};
use prost_types::Timestamp;
use prost_types::value::Kind;
use serde_json::{Value, json};

use crate::support::providers::{Replay, Reply};
use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    an_execution_keeps_the_defaults_it_was_submitted_under;
    #[tokio::test(flavor = "multi_thread")]
    what_is_over_the_budget_waits_longer_and_is_not_lost;
}

/// A provider `x` whose failures close no gate, with these lines on how it retries.
fn simulated(retry: &str) -> Config {
    Config::new().toml(&simulated_toml(retry))
}

fn simulated_toml(retry: &str) -> String {
    format!(
        "[providers.x]\nkind = 'simulated'\nmax_concurrent = 5\ngate_failures = 0\n\
         [providers.x.retry]\n{retry}"
    )
}

fn failing(how: &str, policy: Option<RetryPolicy>) -> SubmitExecutionRequest {
    SubmitExecutionRequest { retry_policy: policy, ..submit("x", json!({ "fail": how })) }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

async fn provider(server: &TestServer, name: &str) -> Provider {
    let request = GetProviderRequest { provider: name.to_owned() };
    server.provider().get_provider(request).await.unwrap().into_inner().provider.unwrap()
}

/// The execution once it waits for the end of a backoff, or has ended.
async fn failed_once(server: &TestServer, id: &str) -> Execution {
    eventually("the first attempt has failed", async || {
        let execution = server.get(id).await;
        let waits = execution.wait_reason.as_ref().map(flowgate::pb::WaitStatus::code);
        let settled = waits == Some(WaitReason::Backoff) || execution.end_time.is_some();
        settled.then_some(execution)
    })
    .await
}

fn span(from: Timestamp, to: Timestamp) -> f64 {
    let micros = |time: Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
    Duration::from_micros((micros(to) - micros(from)).try_into().unwrap()).as_secs_f64()
}

/// From the end of its only attempt to the time at which the next may begin.
fn wait(execution: &Execution) -> f64 {
    let until = execution.wait_reason.as_ref().and_then(|reason| reason.until).unwrap();
    span(execution.attempts[0].start_time.unwrap(), until)
}

fn was_held_back(execution: &Execution) -> bool {
    let details = execution.attempts[0].error.as_ref().and_then(|error| error.details.as_ref());
    let by = details.and_then(|details| details.fields.get("held_back_by"));
    by.and_then(|by| by.kind.as_ref()) == Some(&Kind::StringValue("retry_budget".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_defaults_hold_where_a_submission_says_nothing() {
    let retry = "max_attempts = 2\ninitial_backoff = '0s'\nmax_backoff = '7s'\n\
                 backoff_multiplier = 3.0";
    let server = TestServer::start(simulated(retry)).await;
    let defaults = RetryPolicy {
        max_attempts: Some(2),
        initial_backoff: Some(seconds(0)),
        max_backoff: Some(seconds(7)),
        backoff_multiplier: Some(3.0),
        retry_on: vec![],
    };
    assert_eq!(provider(&server, "x").await.retry_policy, Some(defaults.clone()));
    let none = server.submit(failing("transient", None)).await.id;
    let none = server.ended(&none).await;
    assert_eq!((none.state(), none.attempt_count), (ExecutionState::Failed, 2));
    assert_eq!(none.retry_policy, Some(defaults.clone()));
    // A field of one's own leaves the others to the provider.
    let own = RetryPolicy { max_attempts: Some(3), ..Default::default() };
    let own = server.submit(failing("transient", Some(own))).await.id;
    let own = server.ended(&own).await;
    assert_eq!((own.state(), own.attempt_count), (ExecutionState::Failed, 3));
    assert_eq!(own.retry_policy, Some(RetryPolicy { max_attempts: Some(3), ..defaults }));
    let other = provider(&server, "ollama").await.retry_policy.unwrap();
    assert_eq!((other.max_attempts, other.max_backoff), (Some(4), Some(seconds(60))));
}

async fn an_execution_keeps_the_defaults_it_was_submitted_under(db: Db) {
    let with = |lines| Config::on(db).toml(&simulated_toml(lines));
    let mut before = TestServer::start(with("max_attempts = 2\ninitial_backoff = '0s'")).await;
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
    let mut request = failing("transient", None);
    request.request_id = "once".to_owned();
    request.schedule_time = Some(tomorrow.into());
    let first = before.submit(request.clone()).await;
    before.kill9();
    let after = TestServer::start_at(before.store().clone(), with("max_attempts = 9")).await;
    // Another default makes no other request of it.
    let again = after.execution().submit_execution(request).await.unwrap().into_inner();
    assert!(again.replayed);
    let again = again.execution.unwrap();
    assert_eq!((&again.id, again.max_attempts), (&first.id, 2));
    assert_eq!(again.retry_policy, first.retry_policy);
    let fresh = after.submit(failing("transient", None)).await;
    assert_eq!(fresh.max_attempts, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_not_to_be_retried_fails_at_once() {
    let server = TestServer::start(simulated("no_retry_on = ['TRANSIENT']")).await;
    let shown = provider(&server, "x").await;
    assert_eq!(shown.retryable_codes, [i32::from(ErrorCode::Timeout)]);
    let id = server.submit(failing("transient", None)).await.id;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (ExecutionState::Failed, 1));
    let error = ended.error.unwrap();
    assert_eq!((error.code(), error.retryable), (ErrorCode::Transient, false));
    // Whoever names it for an execution of one's own has it retried.
    let own = RetryPolicy {
        initial_backoff: Some(seconds(0)),
        retry_on: vec![ErrorCode::Transient.into()],
        ..Default::default()
    };
    let id = server.submit(failing("transient", Some(own))).await.id;
    assert_eq!(server.ended(&id).await.attempts.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_to_be_retried_is_though_the_provider_calls_it_permanent() {
    let server =
        TestServer::start(simulated("retry_on = ['PERMANENT']\ninitial_backoff = '0s'")).await;
    let shown = provider(&server, "x").await;
    let codes = [ErrorCode::Transient, ErrorCode::Permanent, ErrorCode::Timeout];
    assert_eq!(shown.retryable_codes, codes.map(i32::from));
    assert_eq!(shown.retry_policy.unwrap().retry_on, [i32::from(ErrorCode::Permanent)]);
    let input = json!({ "fail": "permanent", "fail_attempts": 1 });
    let id = server.submit(submit("x", input)).await.id;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.attempt_count), (ExecutionState::Succeeded, 2));
    let error = ended.attempts[0].error.as_ref().unwrap();
    assert_eq!((error.code(), error.retryable), (ErrorCode::Permanent, true));
    // It is the provider's rule, and not the execution's own.
    assert_eq!(ended.retry_policy.unwrap().retry_on, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_names_a_time_waits_for_it_even_beyond_the_longest_backoff() {
    let replay = Replay::start().await;
    let toml = format!(
        "[providers.x]\nkind = 'http'\nbase_url = {:?}\nmax_concurrent = 9\ngate_failures = 0\n\
         [providers.x.retry]\nmax_backoff = '1ms'\nretry_on = ['PERMANENT']",
        replay.url()
    );
    let server = TestServer::start(Config::new().toml(&toml)).await;
    for (status, header, stated, asked) in [
        (500, "Retry-After", "2", 2.0),
        (502, "retry-after-ms", "90000", 90.0),
        (500, "Retry-After", "7200", 7_200.0),
        // As GitHub says that it is asked too often; retried here since the operator wants that.
        (403, "Retry-After", "60", 60.0),
        // Nobody is believed for more than a day.
        (500, "Retry-After", "999999999", 86_400.0),
    ] {
        let reply = Reply::json(status, &json!({ "error": "down" })).header(header, stated);
        replay.on("GET /work", reply);
        let id = server.submit(submit("x", json!({ "path": "/work" }))).await.id;
        let waiting = failed_once(&server, &id).await;
        let waits = wait(&waiting);
        assert!((asked..asked + 10.0).contains(&waits), "{status} {header}: {stated}: {waits} s");
        assert_eq!(waiting.attempt_count, 1);
    }
    assert_eq!(replay.requests().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_to_wait_is_made_when_the_time_is_over() {
    let server = TestServer::start(simulated("max_backoff = '0s'")).await;
    let input = json!({ "fail": "transient", "fail_attempts": 1, "retry_after_ms": 300 });
    let id = server.submit(submit("x", input)).await.id;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.attempt_count), (ExecutionState::Succeeded, 2));
    let [first, second] = [0, 1].map(|n| ended.attempts[n].start_time.unwrap());
    assert!(span(first, second) >= 0.3);
    audit_is_clean(&server.store_url());
}

async fn what_is_over_the_budget_waits_longer_and_is_not_lost(db: Db) {
    let retry = "max_attempts = 2\ninitial_backoff = '0s'\nmax_backoff = '10m'\nbudget = 0.2\n\
                 budget_min = 1";
    let server = TestServer::start(Config::on(db).toml(&simulated_toml(retry))).await;
    // Ten first attempts leave room for two retries, and there is one more in any case.
    for _ in 0..5 {
        let id = server.submit(submit("x", json!({}))).await.id;
        assert_eq!(server.ended(&id).await.state(), ExecutionState::Succeeded);
    }
    let mut ids = Vec::new();
    // That a client would not wait is no way around the budget.
    let hasty = RetryPolicy { max_backoff: Some(seconds(0)), ..Default::default() };
    for _ in 0..5 {
        ids.push(server.submit(failing("transient", Some(hasty.clone()))).await.id);
    }
    let mut held_back = 0;
    for id in &ids {
        let execution = failed_once(&server, id).await;
        if execution.end_time.is_some() {
            assert_eq!((execution.attempt_count, was_held_back(&execution)), (2, false));
            continue;
        }
        held_back += 1;
        assert!(was_held_back(&execution), "{execution:?}");
        let waits = wait(&execution);
        assert!((300.0..=610.0).contains(&waits), "{waits} s");
    }
    // Of five that failed at the same time the last ones saw all ten first attempts.
    assert!((2..=3).contains(&held_back), "{held_back} were held back");
    audit_is_clean(&server.store_url());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_every_retry_has_the_backoff_of_its_policy() {
    let server = TestServer::start(simulated("initial_backoff = '0s'\nmax_attempts = 3")).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(server.submit(failing("transient", None)).await.id);
    }
    for id in &ids {
        let ended = server.ended(id).await;
        assert_eq!((ended.attempt_count, was_held_back(&ended)), (3, false));
    }
}

#[test]
fn the_command_line_shows_the_rules_of_a_provider() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start(simulated("no_retry_on = ['TIMEOUT']")));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flowgate"))
        .args(["providers", "x", "--output", "json", "--server"])
        .arg(format!("http://{}", server.grpc_addr()))
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = &said["providers"][0];
    assert_eq!(shown["retryableCodes"], json!(["ERROR_CODE_TRANSIENT"]));
    assert_eq!(shown["retryPolicy"]["maxAttempts"], 4);
}

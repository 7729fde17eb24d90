//! Gates that close by themselves (promise P8): when a provider asks to be called less often, and when
//! it fails again and again. Nothing is spent on it meanwhile, and it is tried again by itself.

use flowgate::domain::Change;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    Execution, ExecutionState, GateState, GetProviderRequest, Provider, ResumeProviderRequest,
    RetryPolicy, SubmitExecutionRequest, WaitReason,
};
use flowgate::store::EventQuery;
use serde_json::{Value, json};

use crate::support::providers::{Replay, Reply};
use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, on_both, on_postgres, submit,
};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_rate_limit_closes_the_gate_for_everybody_until_the_stated_time;
    #[tokio::test(flavor = "multi_thread")]
    failures_close_the_gate_and_one_probe_opens_it;
    #[tokio::test(flavor = "multi_thread")]
    a_closed_gate_outlives_the_server;
    #[tokio::test(flavor = "multi_thread")]
    an_operator_opens_a_closed_gate_at_once;
    #[tokio::test(flavor = "multi_thread")]
    an_impatient_client_closes_no_gate;
}

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    one_answer_429_holds_back_every_replica;
}

/// One that asks once to be left alone for this long.
fn limited(provider: &str, retry_after_ms: u64) -> SubmitExecutionRequest {
    let input = json!({ "fail": "rate_limited", "fail_attempts": 1,
                        "retry_after_ms": retry_after_ms });
    submit(provider, input)
}

async fn provider(server: &TestServer, name: &str) -> Provider {
    let request = GetProviderRequest { provider: name.to_owned() };
    server.provider().get_provider(request).await.unwrap().into_inner().provider.unwrap()
}

async fn gate_is(server: &TestServer, name: &str, state: GateState) -> Provider {
    eventually(&format!("the gate of {name} is {}", state.as_str_name()), async || {
        let provider = provider(server, name).await;
        (provider.gate_state() == state).then_some(provider)
    })
    .await
}

/// Everything that is known of the provider's gate, from the log.
async fn gate_changes(server: &TestServer) -> Vec<Change> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: 10_000 };
    let events = store.events(&query).await.unwrap();
    let changes = events.into_iter().map(|event| event.change);
    changes.filter(Change::is_gate).collect()
}

async fn a_rate_limit_closes_the_gate_for_everybody_until_the_stated_time(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 4)).await;
    let first = server.submit(limited("sim", 1_500)).await.id;
    let closed = gate_is(&server, "sim", GateState::Closed).await;
    assert!(closed.gate_reason.starts_with("rate limited"), "{closed:?}");
    let mut others = Vec::new();
    for _ in 0..12 {
        others.push(server.submit(submit("sim", json!({ "duration_ms": 5 }))).await);
    }
    for other in &others {
        let reason = other.wait_reason.clone().unwrap();
        assert_eq!((reason.code(), reason.until), (WaitReason::GateClosed, closed.gate_until));
    }
    let watched = server.watch_to_end(&others[0].id).await;
    let said = |message: &flowgate::pb::WatchExecutionResponse| match &message.event {
        Some(Event::Execution(execution)) => {
            execution.wait_reason.as_ref().map(flowgate::pb::WaitStatus::code)
        }
        _ => None,
    };
    assert_eq!(watched.first().and_then(said), Some(WaitReason::GateClosed));
    for id in others.iter().map(|other| &other.id).chain([&first]) {
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.attempt_count), (ExecutionState::Succeeded, 1));
    }
    assert_eq!(server.get(&first).await.attempts.len(), 2);
    let open = gate_is(&server, "sim", GateState::Open).await;
    assert_eq!((open.gate_until, open.gate_reason.as_str()), (None, ""));
    use Change::{GateClosed, GateOpened, GateProbing};
    let changes = gate_changes(&server).await;
    assert!(
        matches!(changes[..], [GateClosed { .. }, GateProbing { .. }, GateOpened {}]),
        "{changes:?}"
    );
    // No claim came before its time: the audit would say so.
    audit_is_clean(&server.store_url());
}

async fn failures_close_the_gate_and_one_probe_opens_it(db: Db) {
    let toml = "[providers.flaky]\nkind = 'simulated'\nmax_concurrent = 3\ngate_failures = 3\n\
                gate_pause = '600ms'";
    let server = TestServer::start(Config::on(db).simulated("well", 2).toml(toml)).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut request = submit("flaky", json!({ "fail": "transient", "fail_attempts": 1 }));
        let zero = Some(prost_types::Duration::default());
        request.retry_policy = Some(RetryPolicy { initial_backoff: zero, ..Default::default() });
        ids.push(server.submit(request).await.id);
    }
    let closed = gate_is(&server, "flaky", GateState::Closed).await;
    assert!(closed.gate_reason.contains("3 failures"), "{closed:?}");
    assert_eq!(provider(&server, "well").await.gate_state(), GateState::Open);
    for id in &ids {
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.attempt_count), (ExecutionState::Succeeded, 2));
    }
    gate_is(&server, "flaky", GateState::Open).await;
    audit_is_clean(&server.store_url());
}

async fn a_closed_gate_outlives_the_server(db: Db) {
    let mut server = TestServer::start(Config::on(db).simulated("sim", 4).lease("1s")).await;
    let first = server.submit(limited("sim", 6_000)).await.id;
    let closed = gate_is(&server, "sim", GateState::Closed).await;
    server.kill9();
    server.restart().await;
    let still = provider(&server, "sim").await;
    assert_eq!((still.gate_state(), still.gate_until), (GateState::Closed, closed.gate_until));
    let second = server.submit(submit("sim", json!({}))).await;
    assert_eq!(second.wait_reason.unwrap().code(), WaitReason::GateClosed);
    for id in [first, second.id] {
        assert_eq!(server.ended(&id).await.state(), ExecutionState::Succeeded);
    }
    audit_is_clean(&server.store_url());
}

async fn an_operator_opens_a_closed_gate_at_once(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 4)).await;
    let first = server.submit(limited("sim", 3_600_000)).await;
    gate_is(&server, "sim", GateState::Closed).await;
    let waiting = server.submit(submit("sim", json!({}))).await;
    let request = ResumeProviderRequest { provider: "sim".to_owned(), ..Default::default() };
    let resumed = server.provider().resume_provider(request).await.unwrap().into_inner();
    assert_eq!(resumed.provider.unwrap().gate_state(), GateState::Open);
    // The one that was told to wait goes on with the others.
    for id in [first.id, waiting.id] {
        assert_eq!(server.ended(&id).await.state(), ExecutionState::Succeeded);
    }
    audit_is_clean(&server.store_url());
}

async fn an_impatient_client_closes_no_gate(db: Db) {
    let toml = "[providers.slow]\nkind = 'simulated'\nmax_concurrent = 10\ngate_failures = 3\n\
                run_timeout = '100ms'";
    let server = TestServer::start(Config::on(db).toml(toml)).await;
    let timed_out = async |run_timeout| {
        let mut request = submit("slow", json!({ "duration_ms": 60_000 }));
        request.run_timeout = run_timeout;
        request.retry_policy = Some(RetryPolicy { max_attempts: Some(1), ..Default::default() });
        for _ in 0..3 {
            let id = server.submit(request.clone()).await.id;
            assert_eq!(server.ended(&id).await.state(), ExecutionState::Failed);
        }
    };
    timed_out(Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 })).await;
    assert_eq!(provider(&server, "slow").await.gate_state(), GateState::Open);
    timed_out(None).await;
    assert_eq!(provider(&server, "slow").await.gate_state(), GateState::Closed);
}

async fn one_answer_429_holds_back_every_replica() {
    let replay = Replay::start().await;
    let slow_down = json!({ "error": { "type": "rate_limit_error", "message": "slow down" } });
    replay.on("POST /chat/completions", Reply::json(429, &slow_down).header("Retry-After", "2"));
    replay.always("POST /chat/completions", Reply::json(200, &completion()));
    let toml = format!(
        "[providers.remote]\nkind = 'openai'\nmax_concurrent = 4\nbase_url = {:?}",
        replay.url()
    );
    let replicas = TestServer::replicas(Config::on(Db::Postgres).toml(&toml), 3).await;
    let input = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    let first = replicas[0].submit(submit("remote", input.clone())).await.id;
    gate_is(&replicas[1], "remote", GateState::Closed).await;
    let mut ids = vec![first];
    for n in 0..60 {
        let submitted = replicas[n % 3].submit(submit("remote", input.clone())).await;
        ids.push(submitted.id);
    }
    assert_eq!(replay.requests().len(), 1, "nothing leaves while the gate is closed");
    for id in &ids {
        let ended: Execution = replicas[2].ended(id).await;
        assert_eq!((ended.state(), ended.attempt_count), (ExecutionState::Succeeded, 1));
    }
    assert_eq!(replay.requests().len(), ids.len() + 1);
    audit_is_clean(&replicas[0].store_url());
}

fn completion() -> Value {
    let message = json!({ "role": "assistant", "content": "hello" });
    json!({
        "id": "c", "object": "chat.completion",
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 1 },
    })
}

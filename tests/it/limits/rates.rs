//! What is over a rate waits and says until when; what is not goes on beside it.

use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    Execution, ExecutionState, GetProviderRequest, Provider, ProviderLimits, RateLimits,
    SetLimitsRequest, WaitReason, WatchExecutionRequest,
};
use serde_json::{Value, json};

use super::set::{of, set};
use crate::support::providers::{Replay, Reply};
use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test]
    no_more_start_within_a_minute_than_may_and_the_rest_say_until_when;
    #[tokio::test]
    the_rate_of_a_model_holds_back_its_own_work_only;
    #[tokio::test]
    tokens_are_counted_as_estimated_and_then_as_consumed;
}

/// The execution once a watch says that it waits for a rate.
async fn held_by_rate(server: &TestServer, id: &str) -> Execution {
    let request = WatchExecutionRequest { id: id.to_owned(), ..Default::default() };
    let mut stream = server.execution().watch_execution(request).await.unwrap().into_inner();
    let waits = async {
        while let Some(message) = stream.message().await.unwrap() {
            let Some(Event::Execution(execution)) = message.event else { continue };
            if reason(&execution) == Some(WaitReason::Rate) {
                return execution;
            }
        }
        panic!("the watch ended before the execution waited")
    };
    let deadline = std::time::Duration::from_secs(20);
    tokio::time::timeout(deadline, waits).await.expect("it never said that it waits")
}

fn reason(execution: &Execution) -> Option<WaitReason> {
    execution.wait_reason.as_ref().map(flowgate::pb::WaitStatus::code)
}

async fn provider(server: &TestServer, name: &str) -> Provider {
    let request = GetProviderRequest { provider: name.to_owned() };
    server.provider().get_provider(request).await.unwrap().into_inner().provider.unwrap()
}

async fn no_more_start_within_a_minute_than_may_and_the_rest_say_until_when(db: Db) {
    let toml = "[providers.sim]\nkind = 'simulated'\nmax_concurrent = 10\nrequests_per_minute = 3";
    let server = TestServer::start(Config::on(db).toml(toml)).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(server.submit(submit("sim", json!({}))).await.id);
    }
    for id in &ids[..3] {
        assert_eq!(server.ended(id).await.state(), ExecutionState::Succeeded);
    }
    for id in &ids[3..] {
        let pushed = held_by_rate(&server, id).await;
        let read = server.get(id).await;
        assert_eq!(read.state(), ExecutionState::Pending);
        for shown in [pushed, read] {
            assert_eq!(reason(&shown), Some(WaitReason::Rate), "{shown:?}");
            let until = shown.wait_reason.unwrap().until.expect("it is known");
            let created = shown.create_time.unwrap();
            // Not before the first that counts is a minute old, and no later than that and a second.
            assert!((50..=62).contains(&(until.seconds - created.seconds)), "{until} {created}");
        }
    }
    let shown = provider(&server, "sim").await;
    let hold = &shown.holds[0];
    assert_eq!((shown.holds.len(), hold.reason(), &*hold.model), (1, WaitReason::Rate, ""));
    assert!(hold.until.is_some() && shown.ready_count == 2, "{shown:?}");

    // An operator who takes the rate away need not wait.
    let limits = vec![ProviderLimits { requests_per_minute: Some(0), ..of("sim") }];
    let reply = set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    assert_eq!(reply.effects[0].starts, 2);
    for id in &ids[3..] {
        assert_eq!(server.ended(id).await.state(), ExecutionState::Succeeded);
    }
    eventually("nothing is held back", async || {
        provider(&server, "sim").await.holds.is_empty().then_some(())
    })
    .await;
    audit_is_clean(&server.store_url());
}

/// A server with a provider that speaks as OpenAI does, with `limits`.
async fn remote(db: Db, limits: &str) -> (TestServer, Replay) {
    let replay = Replay::start().await;
    replay.always("POST /chat/completions", Reply::json(200, &completion()));
    let url = replay.url();
    let toml = format!(
        "[providers.remote]\nkind = 'openai'\nmax_concurrent = 9\nbase_url = '{url}'\n{limits}"
    );
    (TestServer::start(Config::on(db).toml(&toml)).await, replay)
}

fn chat(model: &str, max_tokens: u32) -> Value {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    json!({ "model": model, "messages": messages, "max_tokens": max_tokens })
}

fn completion() -> Value {
    let message = json!({ "role": "assistant", "content": "hello" });
    json!({
        "id": "c", "object": "chat.completion",
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 1 },
    })
}

async fn the_rate_of_a_model_holds_back_its_own_work_only(db: Db) {
    let (server, replay) =
        remote(db, "[providers.remote.models.'large-1.5']\nrequests_per_minute = 1").await;
    let submitted = async |model: &str| server.submit(submit("remote", chat(model, 9))).await.id;
    let first = submitted("large-1.5").await;
    assert_eq!(server.ended(&first).await.state(), ExecutionState::Succeeded);
    let second = submitted("large-1.5").await;
    held_by_rate(&server, &second).await;
    for _ in 0..3 {
        let small = submitted("small").await;
        assert_eq!(server.ended(&small).await.state(), ExecutionState::Succeeded);
    }
    let shown = provider(&server, "remote").await;
    let held: Vec<_> = shown.holds.iter().map(|hold| (&*hold.model, hold.reason())).collect();
    assert_eq!(held, [("large-1.5", WaitReason::Rate)]);
    assert_eq!(
        (server.get(&second).await.state(), replay.requests().len()),
        (ExecutionState::Pending, 4)
    );
    // Its own rate, raised, lets it go.
    let more = RateLimits { requests_per_minute: Some(2), ..Default::default() };
    let models = [("large-1.5".to_owned(), more)].into();
    let limits = vec![ProviderLimits { models, ..of("remote") }];
    set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    assert_eq!(server.ended(&second).await.state(), ExecutionState::Succeeded);
    audit_is_clean(&server.store_url());
}

async fn tokens_are_counted_as_estimated_and_then_as_consumed(db: Db) {
    let (server, replay) = remote(db, "output_tokens_per_minute = 100").await;
    let (reply, pieces) = Reply::new(200, "application/json", completion().to_string()).stepped();
    replay.on("POST /chat/completions", reply);
    let first = server.submit(submit("remote", chat("m", 80))).await.id;
    replay.request(0).await;
    // 80 of 100 are reserved, so that 30 do not fit until it is known that it was one.
    let second = server.submit(submit("remote", chat("m", 30))).await.id;
    held_by_rate(&server, &second).await;
    pieces.rest().await;
    for id in [&first, &second] {
        assert_eq!(server.ended(id).await.state(), ExecutionState::Succeeded);
    }
    // More than the whole budget waits until nothing else counts.
    let huge = server.submit(submit("remote", chat("m", 1_000))).await.id;
    held_by_rate(&server, &huge).await;
    audit_is_clean(&server.store_url());
}

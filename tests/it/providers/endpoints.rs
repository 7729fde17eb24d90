//! Several base URLs of one provider.

use flowgate::pb::ErrorCode;
use serde_json::{Value, json};

use super::matrix::{Gate, Started};
use crate::support::eventually;
use crate::support::providers::{Ending, Replay, Reply};

const ROUTE: &str = "POST /api/generate";

fn input() -> Value {
    json!({ "model": "m", "prompt": "hi" })
}

fn done() -> Reply {
    let done = json!({ "response": "x", "done": true });
    Reply::new(200, "application/x-ndjson", format!("{done}\n"))
}

async fn gate(replays: &[&Replay]) -> Started {
    let urls: Vec<String> = replays.iter().map(|replay| replay.url()).collect();
    let settings = format!("endpoints = {urls:?}\nmax_concurrent = 8\nconnect_timeout = '1s'");
    Gate::at("ollama", &settings).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_with_least_to_do_is_asked() {
    let (one, two, three) = (Replay::start().await, Replay::start().await, Replay::start().await);
    let replays = [&one, &two, &three];
    for replay in replays {
        replay.always(ROUTE, Reply::hang());
    }
    let gate = gate(&replays).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(gate.submit(input()).await);
    }
    for replay in replays {
        replay.request(1).await;
        assert_eq!(replay.requests().len(), 2);
    }
    // Two are done, so the next two go there.
    for id in &ids {
        gate.cancel(id).await;
    }
    for id in &ids {
        gate.ended(id).await;
    }
    for _ in 0..3 {
        gate.submit(input()).await;
    }
    for replay in replays {
        replay.request(2).await;
        assert_eq!(replay.requests().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_costs_no_attempt_and_is_back_when_it_answers() {
    let (mut one, two) = (Replay::start().await, Replay::start().await);
    one.always(ROUTE, done());
    two.always(ROUTE, done());
    let gate = gate(&[&one, &two]).await;
    gate.run(input()).await.success();
    assert_eq!((one.requests().len(), two.requests().len()), (1, 0), "the first of equals");
    one.go_away().await;
    for _ in 0..5 {
        let ended = gate.run(input()).await;
        ended.success();
        assert_eq!(ended.execution.attempts.len(), 1);
    }
    assert_eq!(two.requests().len(), 5);
    one.come_back().await;
    eventually("the first is asked again", async || {
        gate.run(input()).await.success();
        (one.requests().len() > 1).then_some(())
    })
    .await;
    let others = two.requests().len();
    gate.run(input()).await.success();
    assert_eq!(two.requests().len(), others, "it is the first of equals again");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_it_is_told() {
    let (mut one, mut two) = (Replay::start().await, Replay::start().await);
    one.go_away().await;
    two.go_away().await;
    let gate = gate(&[&one, &two]).await;
    let ended = gate.run(input()).await;
    ended.failed(ErrorCode::Transient, "cannot connect to http://127.0.0.1:");
    // Out as they are they are tried all the same.
    two.come_back().await;
    two.always(ROUTE, done());
    gate.run(input()).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_its_server_is_passed_over() {
    let (one, two) = (Replay::start().await, Replay::start().await);
    one.always(ROUTE, Reply::new(502, "text/html", "<html>bad gateway</html>"));
    two.always(ROUTE, done());
    let gate = gate(&[&one, &two]).await;
    let id = gate.submit_tried(input(), 2).await;
    let ended = gate.ended(&id).await;
    ended.success();
    assert_eq!(ended.execution.attempts.len(), 2);
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_sent_to_another() {
    let (one, two) = (Replay::start().await, Replay::start().await);
    one.always(ROUTE, Reply::close());
    two.always(ROUTE, done());
    let gate = gate(&[&one, &two]).await;
    let ended = gate.run(input()).await;
    ended.failed(ErrorCode::Transient, "no answer from");
    assert_eq!(one.ended(0).await, Ending::CutOff);
    assert!(two.requests().is_empty(), "it may have been done");
}

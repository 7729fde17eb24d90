//! What must be so against llama.cpp and aimock, whichever of their protocols is spoken.

use std::time::{Duration, Instant};

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::{Value, json};

use super::matrix::{Gate, next_text};
use crate::support::eventually;
use crate::support::providers::{self, RealServer};

/// A protocol that real servers speak.
pub(super) struct Spoken {
    pub(super) kind: &'static str,
    /// What follows the server's address in the base URL.
    pub(super) base: &'static str,
    /// An input that says this, for an answer of so many tokens.
    pub(super) input: fn(&str, u32) -> Value,
    /// The text of a result.
    pub(super) text: fn(&Value) -> &str,
}

pub(super) async fn llama_answers(spoken: &Spoken) {
    let gate = Gate::real(spoken.kind, providers::llama().await, spoken.base).start().await;
    let ended = gate.run((spoken.input)("hi", 8)).await;
    let output = ended.success();
    let text = (spoken.text)(&output);
    assert_eq!(text, " would he how he one place more in", "{output}");
    assert_eq!(ended.text(), text);
    let (read, written) = ended.usage().unwrap();
    assert!(read > 0 && written == 8, "{read} {written}");
}

pub(super) async fn llama_refuses_a_wrong_key(spoken: &Spoken) {
    let server = providers::llama().await;
    let gate = Gate::of(spoken.kind, &format!("{}{}", server.url, spoken.base)).start().await;
    let ended = gate.run((spoken.input)("hi", 8)).await;
    ended.failed(ErrorCode::Permanent, "401 Unauthorized: Invalid API Key");
    assert_eq!(ended.execution.attempts.len(), 1);
}

pub(super) async fn llama_refuses_what_is_too_long(spoken: &Spoken) {
    let gate = Gate::real(spoken.kind, providers::llama().await, spoken.base).start().await;
    let ended = gate.run((spoken.input)(&"hello ".repeat(5_000), 8)).await;
    ended.failed(ErrorCode::Permanent, "exceeds the available context size");
    assert_eq!(ended.details()["http_status"], json!(400));
}

/// The server works on two at a time, so this one shares it with others of its kind.
pub(super) async fn llama_stops_when_cancelled(spoken: &Spoken) {
    let server = RealServer::start(&providers::LLAMA_SLOW).await;
    let gate = Gate::real(spoken.kind, &server, spoken.base).start().await;
    let id = gate.submit((spoken.input)("hi", 1_900)).await;
    let mut watch = gate.watch(&id).await;
    let (_, state) = next_text(&mut watch).await;
    assert_eq!(state, ExecutionState::Running);
    assert_eq!(busy_slots(&server).await, 1);
    gate.cancel(&id).await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    ended.was_dropped();
    ended.kept_part();
    assert_eq!((spoken.text)(&ended.output()), ended.text());
    eventually("a free slot", async || (busy_slots(&server).await == 0).then_some(())).await;
}

async fn busy_slots(server: &RealServer) -> usize {
    let request = providers::http().get(format!("{}/slots", server.url)).bearer_auth(server.key);
    let slots: Value = request.send().await.unwrap().json().await.unwrap();
    slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
}

pub(super) async fn aimock_answers(spoken: &Spoken) {
    let gate = Gate::real(spoken.kind, providers::aimock().await, spoken.base).start().await;
    let ended = gate.run((spoken.input)("hello", 50)).await;
    assert_eq!((spoken.text)(&ended.success()), "Hello! This is a deterministic answer.");
    assert_eq!(ended.text(), "Hello! This is a deterministic answer.");
}

pub(super) async fn aimock_says_wait(spoken: &Spoken) {
    for (text, says) in
        [("fail-429", "slow down"), ("fail-503", "unavailable"), ("fail-529", "overloaded")]
    {
        // One of its own for each: the gate stays closed longer every time.
        let gate = Gate::real(spoken.kind, providers::aimock().await, spoken.base).start().await;
        let id = gate.submit((spoken.input)(text, 50)).await;
        let attempts = eventually("a second attempt", async || {
            let attempts = gate.server.get(&id).await.attempts;
            (attempts.len() > 1).then_some(attempts)
        });
        let attempts = attempts.await;
        let error = attempts[0].error.as_ref().unwrap();
        assert_eq!(error.code(), ErrorCode::RateLimited, "{error:?}");
        assert!(error.message.contains(says), "{error:?}");
        if text == "fail-429" {
            let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
            let pause = seconds(attempts[1].start_time) - seconds(attempts[0].end_time);
            assert!(pause >= 1, "it began after {pause} s though 2 were asked for");
        }
        gate.cancel(&id).await;
        gate.ended(&id).await;
    }
}

pub(super) async fn aimock_fails(spoken: &Spoken) {
    let gate = Gate::real(spoken.kind, providers::aimock().await, spoken.base).start().await;
    let id = gate.submit_tried((spoken.input)("fail-500", 50), 2).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Transient, "upstream exploded");
    assert_eq!(ended.execution.attempts.len(), 2);
}

pub(super) async fn aimock_breaks_off(spoken: &Spoken) {
    let gate = Gate::real(spoken.kind, providers::aimock().await, spoken.base).start().await;
    let ended = gate.run((spoken.input)("cut", 50)).await;
    let (code, message) = ended.failure();
    assert_eq!(code, ErrorCode::Transient, "{message}");
    ended.kept_part();
    assert!("This stream is cut in the middle".starts_with(&ended.text()), "{}", ended.text());
    assert_eq!((spoken.text)(&ended.output()), ended.text());
}

/// From the server's first byte of text to a watch, printed: `--nocapture`.
pub(super) async fn a_first_chunk_is_seen_at_once(spoken: &Spoken) {
    let server = RealServer::start(&providers::LLAMA_SLOW).await;
    let gate = Gate::real(spoken.kind, &server, spoken.base).start().await;
    let submitted = Instant::now();
    let id = gate.submit((spoken.input)("hi", 1_900)).await;
    let mut watch = gate.watch(&id).await;
    let (first, state) = next_text(&mut watch).await;
    let took = submitted.elapsed();
    assert_eq!(state, ExecutionState::Running);
    assert!(!first.is_empty());
    // A generation of 13 s has hardly begun.
    assert_eq!(gate.server.get(&id).await.state(), ExecutionState::Running);
    println!("{}: first chunk {:.1} ms after the submission", spoken.kind, millis(took));
    gate.cancel(&id).await;
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A module with a test for each of these functions.
macro_rules! real {
    ($module:ident, $spoken:expr; $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    $crate::providers::real::$test(&$spoken).await;
                }
            )*
        }
    };
}
pub(super) use real;

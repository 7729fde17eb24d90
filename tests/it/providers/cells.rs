//! What must be so whichever protocol a provider speaks: the cells of the matrix that a replayed
//! server is enough for. Its replies are written by hand from the vendors' documentation; what real
//! servers say is in each protocol's own file.
//!
//! `matrix!(chat, CHAT)` makes a module of tests out of them.

use std::time::{Duration, Instant, SystemTime};

use flowgate::pb::{ErrorCode, ExecutionState, WaitReason};
use serde_json::{Value, json};

use super::matrix::{Ended, Gate, KEY, Started, next_text};
use super::real::millis;
use crate::support::eventually;
use crate::support::providers::{Ending, Replay, Reply};

/// One way to ask a provider, and what it says then.
pub(super) struct Protocol {
    pub(super) kind: &'static str,
    /// What follows the server's address in the base URL.
    pub(super) base: &'static str,
    pub(super) route: &'static str,
    /// The header that shows the key, and what it holds before the key.
    pub(super) key: (&'static str, &'static str),
    pub(super) input: fn() -> Value,
    /// A streamed answer that says "Hello there.".
    pub(super) content_type: &'static str,
    pub(super) stream: &'static str,
    /// How many of its pieces there are up to and with the first one that says something.
    pub(super) opening: usize,
    /// Without this the answer is not complete. `None`: only the connection tells.
    pub(super) terminator: Option<&'static str>,
    /// What is stored in the end.
    pub(super) output: fn() -> Value,
    pub(super) usage: Option<(i64, i64)>,
    /// An error as this vendor puts it: its name and message.
    pub(super) refusal: fn(&str, &str) -> String,
    /// The same as a piece of a stream, if there is such a thing.
    pub(super) told: Option<fn(&str, &str) -> String>,
}

impl Protocol {
    async fn start(&self, replay: &Replay) -> Started {
        self.gate(replay).start().await
    }

    fn gate(&self, replay: &Replay) -> Gate {
        Gate::of(self.kind, &(replay.url() + self.base))
    }

    fn whole(&self) -> Reply {
        Reply::new(200, self.content_type, self.stream).chunked()
    }

    fn refuses(&self, status: u16, name: &str, message: &str) -> Reply {
        Reply::new(status, "application/json", (self.refusal)(name, message))
    }

    /// Runs an execution against a server that says this every time.
    async fn against(&self, reply: Reply) -> Ended {
        let replay = Replay::start().await;
        replay.always(self.route, reply);
        let gate = self.start(&replay).await;
        gate.run((self.input)()).await
    }
}

pub(super) async fn streams_while_it_runs(protocol: &Protocol) {
    let replay = Replay::start().await;
    let (reply, mut pieces) = protocol.whole().stepped();
    replay.on(protocol.route, reply);
    let gate = protocol.start(&replay).await;
    let id = gate.submit((protocol.input)()).await;
    let (mut one, mut two) = (gate.watch(&id).await, gate.watch(&id).await);
    for _ in 0..protocol.opening {
        assert!(pieces.next().await);
    }
    let said = Instant::now();
    // The server has said nothing else yet.
    let (text, state) = next_text(&mut one).await;
    println!(
        "{} {}: {:.1} ms from the server to a watch",
        protocol.kind,
        protocol.route,
        millis(said.elapsed())
    );
    assert_eq!((text.trim_end(), state), ("Hello", ExecutionState::Running));
    pieces.rest().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success(), (protocol.output)());
    assert_eq!(ended.text().replace('\n', ""), "Hello there.");
    assert_eq!(ended.usage(), protocol.usage);
    let mut seen = Vec::new();
    while let Some(message) = two.message().await.unwrap() {
        seen.push(message);
    }
    let all = gate.server.watch_to_end(&id).await;
    let chunks = |messages: &[flowgate::pb::WatchExecutionResponse]| {
        use flowgate::pb::watch_execution_response::Event;
        let chunks = messages.iter().filter_map(|message| match &message.event {
            Some(Event::Output(chunk)) => Some((message.revision, chunk.clone())),
            _ => None,
        });
        chunks.collect::<Vec<_>>()
    };
    assert_eq!(chunks(&seen), chunks(&all), "both watches saw the same");
    let indexes: Vec<_> = chunks(&all).iter().map(|(_, chunk)| chunk.index).collect();
    assert!(indexes.len() > 1 && indexes.is_sorted(), "{indexes:?}");

    let request = replay.request(0).await;
    let (header, before) = protocol.key;
    assert_eq!(request.header(header), Some(format!("{before}{KEY}").as_str()));
}

pub(super) async fn survives_any_division_of_the_stream(protocol: &Protocol) {
    let replay = Replay::start().await;
    let gate = protocol.start(&replay).await;
    for length in [1, 2, 3, 7, 64] {
        replay.on(protocol.route, protocol.whole().pieces_of(length));
        let ended = gate.run((protocol.input)()).await;
        assert_eq!(ended.success(), (protocol.output)(), "in pieces of {length}");
    }
}

pub(super) async fn a_missing_key_is_told(protocol: &Protocol) {
    let replay = Replay::start().await;
    let url = replay.url() + protocol.base;
    let gate = Gate::at(protocol.kind, &format!("base_url = {url:?}\napi_key_env = 'NOT_SET'"));
    let gate = gate.start().await;
    let ended = gate.run((protocol.input)()).await;
    ended.failed(ErrorCode::Permanent, "key is missing").failed(ErrorCode::Permanent, "not set");
    assert!(replay.requests().is_empty());

    let gate = Gate::at(protocol.kind, &format!("base_url = {url:?}\napi_key_file = 'absent'"));
    let ended = gate.start().await.run((protocol.input)()).await;
    ended.failed(ErrorCode::Permanent, "cannot be read");
    assert!(replay.requests().is_empty());
}

pub(super) async fn refusals_are_permanent(protocol: &Protocol) {
    for (status, name, message) in [
        (400, "invalid_request_error", "this is too long"),
        (401, "authentication_error", "no such key"),
        (403, "permission_error", "not for you"),
        (404, "not_found_error", "no such model"),
        (413, "request_too_large", "too much"),
        (422, "unprocessable", "makes no sense"),
    ] {
        let ended = protocol.against(protocol.refuses(status, name, message)).await;
        ended
            .failed(ErrorCode::Permanent, message)
            .failed(ErrorCode::Permanent, &status.to_string());
        assert_eq!(ended.details()["http_status"], json!(status));
        assert_eq!(ended.execution.attempt_count, 1);
        assert!(!ended.execution.error.unwrap().retryable);
    }
}

pub(super) async fn faults_of_the_server_are_tried_again(protocol: &Protocol) {
    let replay = Replay::start().await;
    let gate = protocol.start(&replay).await;
    for status in [500, 502, 504, 408] {
        replay.on(protocol.route, protocol.refuses(status, "server_error", "boom"));
        replay.on(protocol.route, protocol.refuses(status, "server_error", "boom again"));
        let id = gate.submit_tried((protocol.input)(), 2).await;
        let ended = gate.ended(&id).await;
        ended.failed(ErrorCode::Transient, "boom again");
        assert_eq!(ended.execution.attempt_count, 2);
        assert!(ended.execution.error.unwrap().retryable);
    }
    replay.on(protocol.route, Reply::close());
    replay.on(protocol.route, protocol.whole());
    let id = gate.submit_tried((protocol.input)(), 2).await;
    assert_eq!(gate.ended(&id).await.success(), (protocol.output)());
}

pub(super) async fn a_rate_limit_waits_as_asked_and_costs_nothing(protocol: &Protocol) {
    let replay = Replay::start().await;
    let refuses = |status| protocol.refuses(status, "rate_limit_error", "slow down");
    replay.on(protocol.route, refuses(429).header("Retry-After", "1"));
    let in_three_seconds = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    replay.on(protocol.route, refuses(503).header("Retry-After", &in_three_seconds));
    replay.on(protocol.route, refuses(529).header("Retry-After", "0"));
    replay.on(protocol.route, refuses(429));
    replay.on(protocol.route, protocol.whole());
    let gate = protocol.start(&replay).await;
    let ended = gate.run((protocol.input)()).await;
    assert_eq!(ended.success(), (protocol.output)());
    let attempts = &ended.execution.attempts;
    assert_eq!(attempts.len(), 5, "though one was all that it had");
    for attempt in &attempts[..4] {
        let error = attempt.error.as_ref().unwrap();
        assert_eq!(error.code(), ErrorCode::RateLimited, "{error:?}");
        assert!(error.message.contains("slow down"), "{error:?}");
    }
    let seconds = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        time.seconds as f64 + f64::from(time.nanos) / 1e9
    };
    let pause = |n: usize| seconds(attempts[n].start_time) - seconds(attempts[n - 1].end_time);
    assert!(pause(1) >= 1.0, "{}", pause(1));
    let date = seconds(Some(httpdate::parse_http_date(&in_three_seconds).unwrap().into()));
    assert!(seconds(attempts[2].start_time) >= date, "it began before the time that was named");
}

pub(super) async fn a_rate_limit_is_told_while_it_waits(protocol: &Protocol) {
    let replay = Replay::start().await;
    let busy = protocol.refuses(429, "rate_limit_error", "slow down");
    replay.always(protocol.route, busy.header("Retry-After", "3600"));
    let gate = protocol.start(&replay).await;
    let id = gate.submit((protocol.input)()).await;
    let waiting = eventually("it waits", async || {
        let execution = gate.server.get(&id).await;
        (execution.state() == ExecutionState::Pending && execution.attempts.len() == 1)
            .then_some(execution)
    });
    let reason = waiting.await.wait_reason.unwrap();
    assert_eq!(reason.code(), WaitReason::GateClosed);
    let seconds = reason.until.unwrap().seconds;
    let now = prost_types::Timestamp::from(SystemTime::now()).seconds;
    assert!((3_500..3_700).contains(&(seconds - now)), "{}", seconds - now);
    // Cancelled while it waits, it asks no more.
    gate.cancel(&id).await;
    assert_eq!(gate.ended(&id).await.state(), ExecutionState::Cancelled);
    assert_eq!(replay.requests().len(), 1);
}

pub(super) async fn a_failure_told_inside_the_stream_is_one(protocol: &Protocol) {
    let Some(told) = protocol.told else { return };
    let replay = Replay::start().await;
    let gate = protocol.start(&replay).await;
    let first: usize = pieces(protocol).iter().take(protocol.opening).map(String::len).sum();
    for end in ["", protocol.stream] {
        let said =
            format!("{}{}{end}", &protocol.stream[..first], told("server_error", "it broke"));
        replay.on(protocol.route, Reply::new(200, protocol.content_type, said).chunked());
        let ended = gate.run((protocol.input)()).await;
        ended.failed(ErrorCode::Transient, "it broke").kept_part();
        assert_eq!(ended.text(), "Hello");
    }
}

pub(super) async fn a_stream_that_is_cut_is_a_failure(protocol: &Protocol) {
    let replay = Replay::start().await;
    let gate = protocol.start(&replay).await;
    let opening: usize = pieces(protocol).iter().take(protocol.opening).map(String::len).sum();
    let end = protocol
        .terminator
        .map_or(protocol.stream.len(), |last| protocol.stream.rfind(last).expect("it ends so"));
    // Wherever that falls, and by either of the ways in which a connection ends.
    let mut places: Vec<usize> = (0..end).step_by(end / 9).collect();
    places.extend([opening, end]);
    for place in places {
        let clean = protocol.terminator.map(|_| protocol.whole().truncated(place));
        let broken = Some(protocol.whole().cut_after(place.min(protocol.stream.len() - 1)));
        for (reply, how) in [(clean, "ended"), (broken, "broken off")] {
            let Some(reply) = reply else { continue };
            replay.on(protocol.route, reply);
            let ended = gate.run((protocol.input)()).await;
            let (code, message) = ended.failure();
            assert_eq!(code, ErrorCode::Transient, "{how} after {place}: {message}");
            if place >= opening {
                ended.kept_part();
                assert!(ended.output().to_string().contains("Hello"), "{}", ended.output());
                assert!(ended.text().starts_with("Hello"), "{how} after {place}");
            }
        }
    }
}

pub(super) async fn a_server_that_goes_mid_call_is_asked_again(protocol: &Protocol) {
    let mut replay = Replay::start().await;
    let (reply, mut pieces) = protocol.whole().stepped();
    replay.on(protocol.route, reply);
    replay.always(protocol.route, protocol.whole());
    let gate = protocol.start(&replay).await;
    let id = gate.submit_tried((protocol.input)(), 100).await;
    let mut watch = gate.watch(&id).await;
    for _ in 0..protocol.opening {
        assert!(pieces.next().await);
    }
    next_text(&mut watch).await;
    replay.go_away().await;
    eventually("another attempt finds nobody", async || {
        let attempts = gate.server.get(&id).await.attempts;
        let error = attempts.get(1).and_then(|attempt| attempt.error.clone());
        error.filter(|error| error.message.contains("cannot connect"))
    })
    .await;
    replay.come_back().await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.success(), (protocol.output)());
    let first = ended.execution.attempts[0].error.as_ref().unwrap();
    assert_eq!(first.code(), ErrorCode::Transient);
}

pub(super) async fn time_runs_out(protocol: &Protocol) {
    let replay = Replay::start().await;
    replay.on(protocol.route, Reply::hang());
    let (reply, mut pieces) = protocol.whole().stepped();
    replay.on(protocol.route, reply);
    let gate = protocol.start(&replay).await;
    let id = gate.submit_within((protocol.input)(), 300).await;
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out").was_dropped();
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);

    let id = gate.submit_within((protocol.input)(), 900).await;
    for _ in 0..protocol.opening {
        assert!(pieces.next().await);
    }
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Timeout, "timed out").was_dropped();
    ended.kept_part();
    assert_eq!(ended.text().trim_end(), "Hello");
    assert_eq!(replay.ended(1).await, Ending::ClientClosed);
}

pub(super) async fn a_server_that_falls_silent_is_left(protocol: &Protocol) {
    let replay = Replay::start().await;
    replay.on(protocol.route, Reply::hang());
    let (reply, mut pieces) = protocol.whole().stepped();
    replay.on(protocol.route, reply);
    let gate = protocol.gate(&replay).with("idle_timeout = '400ms'").start().await;
    let ended = gate.run((protocol.input)()).await;
    ended.failed(ErrorCode::Transient, "said nothing for 400ms");
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    let id = gate.submit((protocol.input)()).await;
    for _ in 0..protocol.opening {
        assert!(pieces.next().await);
    }
    let ended = gate.ended(&id).await;
    ended.failed(ErrorCode::Transient, "fell silent").kept_part();
    assert_eq!(replay.ended(1).await, Ending::ClientClosed);
}

pub(super) async fn a_cancelled_one_is_not_asked_for(protocol: &Protocol) {
    let replay = Replay::start().await;
    replay.always(protocol.route, Reply::hang());
    let gate = protocol.gate(&replay).with("max_concurrent = 1").start().await;
    let running = gate.submit((protocol.input)()).await;
    replay.request(0).await;
    let pending = gate.submit((protocol.input)()).await;
    gate.cancel(&pending).await;
    assert_eq!(gate.ended(&pending).await.state(), ExecutionState::Cancelled);
    gate.cancel(&running).await;
    let ended = gate.ended(&running).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    ended.was_dropped();
    assert_eq!(ended.output(), Value::Null);
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    assert_eq!(replay.requests().len(), 1);
}

pub(super) async fn cancelled_in_the_middle_it_keeps_what_came(protocol: &Protocol) {
    let replay = Replay::start().await;
    let (reply, mut pieces) = protocol.whole().stepped();
    replay.on(protocol.route, reply);
    let gate = protocol.start(&replay).await;
    let id = gate.submit((protocol.input)()).await;
    let mut watch = gate.watch(&id).await;
    for _ in 0..protocol.opening {
        assert!(pieces.next().await);
    }
    next_text(&mut watch).await;
    gate.cancel(&id).await;
    let ended = gate.ended(&id).await;
    assert_eq!(ended.state(), ExecutionState::Cancelled);
    ended.was_dropped();
    ended.kept_part();
    assert_eq!(ended.text().trim_end(), "Hello");
    assert_eq!(replay.ended(0).await, Ending::ClientClosed);
    assert!(!pieces.next().await, "nobody listens any more");
}

pub(super) async fn an_answer_without_end_is_left(protocol: &Protocol) {
    const MIB: u64 = 1024 * 1024;
    let replay = Replay::start().await;
    // Pieces without a terminator, and one piece without an end.
    let opening: usize = pieces(protocol).iter().take(protocol.opening).map(String::len).sum();
    let endless = Reply::new(200, protocol.content_type, &protocol.stream[..opening]).endless();
    replay.on(protocol.route, endless);
    replay.on(protocol.route, Reply::new(200, protocol.content_type, "data: xxxx").endless());
    replay.on(protocol.route, Reply::new(200, "application/json", "[[[[").endless());
    replay.on(protocol.route, Reply::new(400, "application/json", "xxxx").endless());
    let gate = protocol.start(&replay).await;
    for index in 0..3 {
        let ended = gate.run((protocol.input)()).await;
        ended.failed(ErrorCode::OutputTooLarge, "16 MiB");
        assert_eq!(replay.ended(index).await, Ending::ClientClosed);
    }
    let (code, _) = gate.run((protocol.input)()).await.failure();
    assert!(matches!(code, ErrorCode::Permanent | ErrorCode::OutputTooLarge), "{code:?}");
    let peak = gate.server.peak_bytes() / MIB;
    assert!(peak < 400, "{peak} MiB");
}

pub(super) async fn a_redirect_is_not_followed(protocol: &Protocol) {
    let (replay, elsewhere) = (Replay::start().await, Replay::start().await);
    let gate = protocol.start(&replay).await;
    for status in [301, 302, 303, 307, 308] {
        let to = elsewhere.url() + protocol.base;
        let moved = Reply::new(status, "text/plain", "").header("Location", &to);
        replay.on(protocol.route, moved);
        let ended = gate.run((protocol.input)()).await;
        ended.failed(ErrorCode::Permanent, "redirect");
    }
    assert!(elsewhere.requests().is_empty());
}

/// The pieces in which a stepped reply sends the stream.
fn pieces(protocol: &Protocol) -> Vec<String> {
    let separator = if protocol.content_type.contains("event-stream") { "\n\n" } else { "\n" };
    protocol.stream.split_inclusive(separator).map(str::to_owned).collect()
}

/// A module with a test for each cell.
macro_rules! matrix {
    ($module:ident, $protocol:expr) => {
        matrix!($module, $protocol;
            streams_while_it_runs
            survives_any_division_of_the_stream
            a_missing_key_is_told
            refusals_are_permanent
            faults_of_the_server_are_tried_again
            a_rate_limit_waits_as_asked_and_costs_nothing
            a_rate_limit_is_told_while_it_waits
            a_failure_told_inside_the_stream_is_one
            a_stream_that_is_cut_is_a_failure
            a_server_that_goes_mid_call_is_asked_again
            time_runs_out
            a_server_that_falls_silent_is_left
            a_cancelled_one_is_not_asked_for
            cancelled_in_the_middle_it_keeps_what_came
            an_answer_without_end_is_left
            a_redirect_is_not_followed
        );
    };
    ($module:ident, $protocol:expr; $($cell:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $cell() {
                    $crate::providers::cells::$cell(&$protocol).await;
                }
            )*
        }
    };
}
pub(super) use matrix;

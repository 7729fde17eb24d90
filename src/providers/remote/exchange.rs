//! One request and its answer, put together while it comes: what `openai`, `claude` and `ollama`
//! do for an attempt. Dropping the connection stops the work.
//!
//! What must stay true: an answer that does not say that it is complete is a failure; what came of
//! it by then is kept.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::answer::{Answer, Event};
use super::{Progress, Remote, Request, Rule, broken};
use crate::domain::{ErrorCode, Failure, FailureKind, Usage};
use crate::providers::{AttemptFailure, Call, StopReason, Success};

/// How long to wait for the end of an answer that is complete.
const DRAIN: Duration = Duration::from_millis(20);

/// How a streamed answer is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::providers) enum Framing {
    /// Server-sent events, content type `text/event-stream`.
    Events,
    /// JSON lines.
    Lines,
}

/// A piece of a streamed answer, and what it adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::providers) struct Piece {
    /// Text of the result, to be passed on at once.
    pub(in crate::providers) text: String,
    /// Whether the answer is complete with this.
    pub(in crate::providers) last: bool,
}

impl Piece {
    /// More text.
    pub(in crate::providers) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), last: false }
    }

    /// The end.
    pub(in crate::providers) fn last() -> Self {
        Self { text: String::new(), last: true }
    }
}

/// An answer in the making, in the shape that it would have if it were not streamed.
pub(in crate::providers) trait Assembly: Send {
    /// Takes the next piece: the data of an event, or a line.
    fn take(&mut self, data: &str) -> Result<Piece, AttemptFailure>;

    /// Takes an answer that came in one piece; returns its text.
    fn whole(&mut self, body: Value) -> Result<String, AttemptFailure>;

    /// The result, once the stream is over, if it is complete.
    fn finish(&mut self) -> Result<Value, AttemptFailure>;

    /// What there is so far.
    fn partial(&self) -> Option<Value>;

    /// What was consumed, as far as is known.
    fn usage(&self) -> Option<Usage>;
}

/// Sends the request and reads the answer until it is complete, fails, or is stopped.
pub(in crate::providers) async fn exchange(
    remote: &Remote,
    call: Call,
    request: Request,
    rules: &[Rule],
    framing: Framing,
    assembly: impl Assembly,
) -> Result<Success, AttemptFailure> {
    let assembly = Mutex::new(assembly);
    let progress = Progress::new(call.output.clone(), remote.redactor());
    let request = request.traced(call.trace.as_ref());
    let mut stop = call.stop.clone();
    let quota = OnceLock::new();
    let converse = async {
        let (_route, answer) = remote.first(&request).await?;
        let _ = quota.set(answer.quota());
        read(answer.accepted(rules).await?, framing, &assembly, &progress).await
    };
    let result = tokio::select! {
        biased;
        reason = stop.requested() => Err(dropped(reason)),
        result = converse => result,
    };
    let quota = quota.into_inner().flatten();
    progress.finish(result.is_ok()).await;
    let assembly = assembly.into_inner();
    let result = match result {
        Ok(output) => Ok(Success { quota, ..Success::new(output, assembly.usage()) }),
        Err(mut failed) => {
            if let Some(partial) = assembly.partial() {
                failed.output = Some(partial);
                failed.add_detail("partial_output", true.into());
            }
            failed.usage = assembly.usage();
            failed.quota = quota;
            Err(failed)
        }
    };
    progress.redactor().result(result)
}

async fn read(
    answer: Answer,
    framing: Framing,
    assembly: &Mutex<impl Assembly>,
    progress: &Progress,
) -> Result<Value, AttemptFailure> {
    let content_type = answer.content_type().to_owned();
    let mut body = answer.body();
    match framing {
        Framing::Lines => follow(body.lines(), assembly, progress).await,
        Framing::Events => match body.begins_with().await? {
            // Some servers do not stream although they are asked to, and not all say so.
            Some(b'{' | b'[') => {
                let body = body.json().await?;
                let text = assembly.lock().await.whole(body)?;
                progress.text(&text).await;
                assembly.lock().await.finish()
            }
            Some(b'<') => Err(broken(format!("the answer is {content_type}, not events or JSON"))),
            Some(_) | None => {
                let data = body.events().map(|event| event.map(|Event { data, .. }| data));
                follow(data, assembly, progress).await
            }
        },
    }
}

async fn follow(
    pieces: impl Stream<Item = Result<String, AttemptFailure>>,
    assembly: &Mutex<impl Assembly>,
    progress: &Progress,
) -> Result<Value, AttemptFailure> {
    let mut pieces = pin!(pieces);
    while let Some(data) = pieces.next().await {
        let piece = assembly.lock().await.take(&data?)?;
        if !piece.text.is_empty() {
            progress.text(&piece.text).await;
        }
        if piece.last {
            // Read to its end, the connection can be used again.
            let rest = async { while let Some(Ok(_)) = pieces.next().await {} };
            let _ = tokio::time::timeout(DRAIN, rest).await;
            break;
        }
    }
    assembly.lock().await.finish()
}

/// What is said of work that was stopped by dropping its connection.
pub(in crate::providers) fn dropped(reason: StopReason) -> AttemptFailure {
    let (code, kind, message) = match reason {
        StopReason::Cancelled => {
            (ErrorCode::Cancelled, FailureKind::Cancelled, "cancelled; the connection was dropped")
        }
        StopReason::TimedOut => {
            (ErrorCode::Timeout, FailureKind::Transient, "timed out; the connection was dropped")
        }
        StopReason::LeaseLost | StopReason::ShuttingDown => {
            (ErrorCode::Released, FailureKind::Transient, "the connection was dropped")
        }
    };
    let failure = Failure::new(code, code == ErrorCode::Timeout, message);
    let stopped = json!({"by": "connection_dropped", "confirmed": false});
    AttemptFailure::new(kind, failure).with_detail("stopped", stopped)
}

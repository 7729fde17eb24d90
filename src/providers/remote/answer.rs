//! What a server answers, read up to a cap and in the framing it comes in.

use std::pin::pin;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use sse_stream::SseByteStream;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::failure::{body_broken, refused};
use super::quota::quota;
use super::{MAX_ANSWER_BYTES, Redactor, Rule, broken, without_mark};
use crate::domain::{ErrorCode, Failure, FailureKind, Quota};
use crate::providers::AttemptFailure;

/// How much of an answer that is an error is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// The answer to one request.
#[derive(Debug)]
pub(in crate::providers) struct Answer {
    response: reqwest::Response,
    redactor: Redactor,
}

/// The head of an answer that tells of a failure.
#[derive(Debug)]
pub(in crate::providers) struct Verdict {
    status: StatusCode,
    headers: HeaderMap,
    endpoint: String,
    redactor: Redactor,
}

impl Verdict {
    /// What it means with this body, as `rules` have it.
    pub(in crate::providers) fn of(self, rules: &[Rule], body: &[u8]) -> AttemptFailure {
        let body = &body[..body.len().min(MAX_ERROR_BYTES)];
        let text = String::from_utf8_lossy(body);
        let mut failed = refused(rules, self.status, &self.headers, &text);
        failed.add_detail("endpoint", self.endpoint.into());
        self.redactor.text(&mut failed.failure.message);
        failed
    }
}

/// One event of a stream of them.
#[derive(Debug)]
pub(in crate::providers) struct Event {
    /// Its `event` field, empty if it has none.
    pub(in crate::providers) name: String,
    /// Its `data` fields.
    pub(in crate::providers) data: String,
    /// Where to go on after it, if the server says so.
    pub(in crate::providers) id: Option<String>,
}

type Result<T> = std::result::Result<T, AttemptFailure>;

impl Answer {
    pub(super) fn new(response: reqwest::Response, redactor: Redactor) -> Self {
        Self { response, redactor }
    }

    pub(in crate::providers) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(in crate::providers) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Whether the content type is `kind`, whatever its parameters.
    pub(in crate::providers) fn is(&self, kind: &str) -> bool {
        self.content_type().eq_ignore_ascii_case(kind)
    }

    /// Whether the content type says JSON.
    pub(in crate::providers) fn is_json(&self) -> bool {
        let kind = self.content_type().to_ascii_lowercase();
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    }

    /// The content type without its parameters; empty if there is none.
    pub(super) fn content_type(&self) -> &str {
        let given = self.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        given.and_then(|text| text.split(';').next()).unwrap_or_default().trim()
    }

    /// How many more requests the server takes for now, where it says.
    pub(in crate::providers) fn quota(&self) -> Option<Quota> {
        quota(self.headers())
    }

    /// The answer itself if it tells of success, else what it means as `rules` have it.
    pub(in crate::providers) async fn accepted(self, rules: &[Rule]) -> Result<Self> {
        if self.status().is_success() { Ok(self) } else { Err(self.refused(rules).await) }
    }

    /// What an answer that tells of a failure means as `rules` have it.
    pub(in crate::providers) async fn refused(self, rules: &[Rule]) -> AttemptFailure {
        let verdict = self.verdict();
        verdict.of(rules, &self.up_to(MAX_ERROR_BYTES).await)
    }

    /// What is left to be said of an answer that tells of a failure, once its body is read.
    pub(in crate::providers) fn verdict(&self) -> Verdict {
        Verdict {
            status: self.status(),
            headers: self.headers().clone(),
            endpoint: self.response.url().origin().ascii_serialization(),
            redactor: self.redactor.clone(),
        }
    }

    /// The body, to be read in the framing that it has.
    pub(in crate::providers) fn body(self) -> Body {
        let mut left = MAX_ANSWER_BYTES;
        let chunks = self.response.bytes_stream().map(move |chunk| {
            let chunk = chunk.map_err(|error| body_broken(&error))?;
            left = left.checked_sub(chunk.len()).ok_or_else(too_large)?;
            Ok(chunk.to_vec())
        });
        Body(chunks.boxed())
    }

    /// The whole body.
    pub(in crate::providers) async fn bytes(self) -> Result<Vec<u8>> {
        self.body().bytes().await
    }

    /// The whole body as JSON.
    pub(in crate::providers) async fn json(self) -> Result<Value> {
        self.body().json().await
    }

    /// The body as server-sent events.
    pub(in crate::providers) fn events(self) -> impl Stream<Item = Result<Event>> {
        self.body().events()
    }

    /// The body as it comes, up to [`MAX_ANSWER_BYTES`].
    pub(in crate::providers) fn chunks(self) -> impl Stream<Item = Result<Vec<u8>>> + Send {
        self.body().0
    }

    /// As much of the body as comes, up to `most`.
    async fn up_to(self, most: usize) -> Vec<u8> {
        let mut stream = pin!(self.chunks());
        let mut body = Vec::new();
        while let Some(Ok(chunk)) = stream.next().await {
            let room = most - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == most {
                break;
            }
        }
        body
    }
}

/// What follows the head of an answer, up to [`MAX_ANSWER_BYTES`].
pub(in crate::providers) struct Body(BoxStream<'static, Result<Vec<u8>>>);

impl Body {
    /// The first byte that is no space; not every server says what it sends. Nothing is lost.
    pub(super) async fn begins_with(&mut self) -> Result<Option<u8>> {
        let mut begun = Vec::new();
        let mut first = None;
        while first.is_none() {
            let Some(chunk) = self.0.try_next().await? else { break };
            begun.extend(chunk);
            let text = without_mark(&begun);
            first = text.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        }
        let rest = std::mem::replace(&mut self.0, futures_util::stream::empty().boxed());
        self.0 = futures_util::stream::once(async { Ok(begun) }).chain(rest).boxed();
        Ok(first)
    }

    async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.0.try_next().await? {
            body.extend(chunk);
        }
        Ok(body)
    }

    pub(super) async fn json(self) -> Result<Value> {
        let body = self.bytes().await?;
        serde_json::from_slice(without_mark(&body))
            .map_err(|error| broken(format!("the answer is not JSON: {error}")))
    }

    pub(super) fn events(self) -> impl Stream<Item = Result<Event>> {
        // The last event counts even where the server leaves out the empty line behind it; one that
        // was cut off is found out by who reads it.
        let end = futures_util::stream::once(async { Ok(b"\n\n".to_vec()) });
        let bytes = self.0.chain(end).map_ok(std::io::Cursor::new).map_err(Carried);
        SseByteStream::new(Box::pin(bytes)).filter_map(async |event| match event {
            Ok(event) => Some(Ok(Event {
                data: event.data.filter(|data| !data.is_empty())?,
                name: event.event.unwrap_or_default(),
                id: event.id,
            })),
            Err(sse_stream::Error::Body(error)) => Some(Err(Carried::from_source(&*error))),
            Err(error) => Some(Err(broken(format!("the events cannot be read: {error}")))),
        })
    }

    /// Lines, empty ones left out.
    pub(super) fn lines(self) -> impl Stream<Item = Result<String>> {
        let bytes = self.0.map_ok(std::io::Cursor::new).map_err(Carried);
        let reader = StreamReader::new(Box::pin(bytes.map_err(std::io::Error::other)));
        let codec = LinesCodec::new_with_max_length(MAX_ANSWER_BYTES);
        FramedRead::new(reader, codec).filter_map(async |line| match line {
            Ok(line) => Some(Ok(line)).filter(|line| line.as_ref().is_ok_and(|l| !l.is_empty())),
            Err(LinesCodecError::MaxLineLengthExceeded) => Some(Err(too_large())),
            Err(LinesCodecError::Io(error)) => Some(Err(match error.get_ref() {
                Some(source) => Carried::from_source(source),
                None => broken(format!("the lines cannot be read: {error}")),
            })),
        })
    }
}

/// A failure on its way through a library that passes errors on.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.0.failure.message)]
struct Carried(AttemptFailure);

impl Carried {
    fn from_source(source: &(dyn std::error::Error + 'static)) -> AttemptFailure {
        match source.downcast_ref::<Self>() {
            Some(Self(failed)) => failed.clone(),
            None => broken(format!("the answer broke off: {source}")),
        }
    }
}

fn too_large() -> AttemptFailure {
    let mib = MAX_ANSWER_BYTES / (1024 * 1024);
    let message = format!("the answer is larger than the {mib} MiB that are kept");
    let failure = Failure::new(ErrorCode::OutputTooLarge, false, message);
    AttemptFailure::new(FailureKind::Permanent, failure)
}

//! What to say to one request, put together by a test.

use std::sync::Arc;

use super::Request;
use super::body::{Body, Pieces};
use super::transcript::Transcript;

/// One reply: a head, a body, and how much of it is sent in what way.
#[derive(Clone)]
pub(crate) struct Reply {
    /// With the reason, as in `200 OK`.
    pub(super) status: String,
    /// Without those that say how long the body is.
    pub(super) headers: Vec<(String, String)>,
    pub(super) bytes: Vec<u8>,
    /// Sent in chunks, as a stream is; otherwise its length is announced.
    pub(super) is_chunked: bool,
    pub(super) body: Body,
}

impl Reply {
    /// A reply with a body of known length.
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let code =
            http::StatusCode::from_u16(status).expect("a status is a number of three digits");
        Self {
            // Codes without a registered reason, such as 529, have an empty one.
            status: format!("{status} {}", code.canonical_reason().unwrap_or_default()),
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            bytes: body.into(),
            is_chunked: false,
            body: Body::Whole,
        }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// A stream of server-sent events, written out.
    pub(crate) fn sse(events: &str) -> Self {
        Self::new(200, "text/event-stream", events).chunked()
    }

    /// What a real server said: `tests/servers/transcripts/NAME.txt`.
    pub(crate) fn transcript(name: &str) -> Self {
        let Transcript { status, headers, is_chunked, body } = Transcript::read(name);
        Self { status, headers, bytes: body, is_chunked, body: Body::Whole }
    }

    /// A reply that depends on the request, such as one that repeats an id of the client's.
    pub(crate) fn computed(reply: impl Fn(&Request) -> Self + Send + Sync + 'static) -> Self {
        let mut computed = Self::new(200, "text/plain", "");
        computed.body = Body::Computed(Arc::new(reply));
        computed
    }

    /// No reply at all, for as long as the client waits.
    pub(crate) fn hang() -> Self {
        let mut reply = Self::new(200, "text/plain", "");
        reply.body = Body::Never;
        reply
    }

    /// The connection is closed instead of a reply.
    pub(crate) fn close() -> Self {
        let mut reply = Self::new(200, "text/plain", "");
        reply.body = Body::Closed;
        reply
    }

    /// Sets a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends the body in chunks, without announcing its length.
    pub(crate) fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    /// Sends the first `length` bytes of the body and breaks off, so that the client can tell.
    pub(crate) fn cut_after(mut self, length: usize) -> Self {
        self.body = Body::Cut(length);
        self
    }

    /// Sends the first `length` bytes of the body and ends as if that were all, so that only who
    /// understands the body can tell.
    pub(crate) fn truncated(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }

    /// Sends the body `length` bytes at a time, wherever that falls.
    pub(crate) fn pieces_of(mut self, length: usize) -> Self {
        self.body = Body::InPieces(length);
        self
    }

    /// Sends the body again and again, without end.
    pub(crate) fn endless(mut self) -> Self {
        self.body = Body::Endless;
        self.chunked()
    }

    /// Sends the head at once, and the body piece by piece as the test says: events of
    /// `text/event-stream`, and lines of anything else.
    pub(crate) fn stepped(mut self) -> (Self, Pieces) {
        let separators: &[&[u8]] =
            if self.is_event_stream() { &[b"\n\n", b"\r\n\r\n"] } else { &[b"\n"] };
        let (body, pieces) = Body::stepped(split_after(&self.bytes, separators));
        self.body = body;
        (self, pieces)
    }

    fn is_event_stream(&self) -> bool {
        let is_content_type = |name: &str| name.eq_ignore_ascii_case("content-type");
        let mut headers = self.headers.iter();
        headers.any(|(name, value)| is_content_type(name) && value.contains("event-stream"))
    }
}

/// The pieces of `bytes`, each with the separator that ends it.
fn split_after(bytes: &[u8], separators: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    for byte in bytes {
        piece.push(*byte);
        if separators.iter().any(|separator| piece.ends_with(separator)) {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

//! The way of output from a running attempt to the store: bounded, so that a provider that
//! produces faster than the store takes is slowed and memory is not filled.

use tokio::sync::mpsc;

use crate::domain::{ChunkContent, OutputStream};

/// A piece of output as the provider produced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it came from.
    pub stream: OutputStream,
    /// What was produced.
    pub content: ChunkContent,
}

/// The provider's end. Output after the attempt has ended goes nowhere.
#[derive(Debug, Clone)]
pub struct Output(mpsc::Sender<OutputChunk>);

impl Output {
    /// Both ends of a way that holds `capacity` pieces.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<OutputChunk>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self(sender), receiver)
    }

    /// Hands on text of the result.
    pub async fn result_text(&self, text: impl Into<String>) {
        self.text(OutputStream::Result, text).await;
    }

    /// Hands on text of `stream`.
    pub async fn text(&self, stream: OutputStream, text: impl Into<String>) {
        let content = ChunkContent::Text(text.into());
        // The receiver goes away when the attempt is over; what is left then is of no use.
        let _ = self.0.send(OutputChunk { stream, content }).await;
    }
}

/// The length of `bytes` without a character at the end that is not complete yet.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    (1..=tail.len())
        .find(|back| {
            let last = &tail[tail.len() - back..];
            matches!(std::str::from_utf8(last), Err(error) if error.error_len().is_none() && error.valid_up_to() == 0)
        })
        .map_or(bytes.len(), |back| bytes.len() - back)
}

//! What a running attempt tells before its end, on its way to the store: pieces of output, and how
//! the provider knows the work.
//!
//! What must stay true: the pieces of an attempt are numbered without a gap, in the order in which
//! they were produced; a handle is stored before the attempt goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Engine;
use super::lease::{next_pause, passed};
use crate::domain::{Chunk, Fenced, Handle, Lease};
use crate::providers::{Keeper, LeaseLost, OutputChunk};
use crate::store::{Claimed, StoreError, with_sources};

/// Output is put together up to this long and this large before it is stored. The first piece after
/// a pause of that length is stored at once.
const COALESCE_TIME: Duration = Duration::from_millis(50);
const COALESCE_BYTES: usize = 4 * 1024;

/// Keeps the handles of one attempt.
pub(super) struct AttemptKeeper {
    pub(super) engine: Engine,
    pub(super) lease: Lease,
    pub(super) deadline: watch::Receiver<Instant>,
    /// Whether there is a handle, or one on its way to the store.
    pub(super) attached: Arc<AtomicBool>,
}

#[async_trait]
impl Keeper for AttemptKeeper {
    async fn keep(&self, handle: &Handle) -> Result<(), LeaseLost> {
        let Self { engine, lease, deadline, attached } = self;
        attached.store(true, Ordering::Relaxed);
        let stored = engine.until_answered("store a handle", || {
            engine.0.store.attach(lease.clone(), handle.clone())
        });
        let kept = tokio::select! {
            kept = stored => kept,
            () = passed(deadline.clone()) => false,
        };
        if kept { Ok(()) } else { Err(LeaseLost) }
    }
}

impl Engine {
    /// Stores output while it is produced, put together into fewer and larger pieces.
    pub(super) async fn pump_output(
        &self,
        claimed: &Claimed,
        mut chunks: mpsc::Receiver<OutputChunk>,
        deadline: watch::Receiver<Instant>,
    ) {
        let mut index = 0;
        let mut flush_at = Instant::now();
        while let Some(first) = chunks.recv().await {
            let mut pending = vec![first];
            let mut bytes = pending[0].content.len();
            while bytes < COALESCE_BYTES {
                let next = match chunks.try_recv() {
                    Ok(chunk) => Some(chunk),
                    Err(_) => {
                        tokio::time::timeout_at(flush_at, chunks.recv()).await.unwrap_or_default()
                    }
                };
                let Some(chunk) = next else { break };
                bytes += chunk.content.len();
                merge(&mut pending, chunk);
            }
            let stored: Vec<_> = (index..)
                .zip(pending)
                .map(|(index, OutputChunk { stream, content })| Chunk {
                    attempt: claimed.attempt,
                    index,
                    stream,
                    content,
                })
                .collect();
            let pieces = i64::try_from(stored.len()).unwrap_or(i64::MAX);
            let lease = &claimed.lease;
            let append = self.until_answered("store output", || {
                self.0.store.append_output(lease.clone(), stored.clone())
            });
            tokio::select! {
                kept = append => {
                    // What was not stored leaves no hole in the numbers.
                    index += if kept { pieces } else { 0 };
                }
                () = passed(deadline.clone()) => return,
            }
            flush_at = Instant::now() + COALESCE_TIME;
        }
    }

    /// Asks the store until it answers; `false` if the lease is lost or the store is closed.
    pub(super) async fn until_answered<F>(&self, doing: &str, mut ask: impl FnMut() -> F) -> bool
    where
        F: Future<Output = crate::store::Result<Result<(), Fenced>>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            match ask().await {
                Ok(Ok(())) => return true,
                // The keeper of the lease stops the work.
                Ok(Err(Fenced)) => {
                    self.0.instruments().stale_write();
                    return false;
                }
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::warn!(error, "cannot {doing}, trying again");
                    tokio::time::sleep(pause).await;
                    pause = next_pause(pause);
                }
            }
        }
    }
}

/// Appends to the newest piece if it continues it.
fn merge(pending: &mut Vec<OutputChunk>, next: OutputChunk) {
    use crate::domain::ChunkContent::{Data, Text};
    let Some(last) = pending.last_mut().filter(|last| last.stream == next.stream) else {
        return pending.push(next);
    };
    match (&mut last.content, next.content) {
        (Text(text), Text(more)) => text.push_str(&more),
        (Data(data), Data(more)) => data.extend(more),
        (Text(_) | Data(_), content) => pending.push(OutputChunk { stream: next.stream, content }),
    }
}

//! The engine's end of one watch's stream.
//!
//! What must stay true: the room for the last word is reserved from the start, so that a stream
//! that ends before its time always says so, however slow its client.

use std::time::Duration;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::{Engine, Watch, WatchEnd, WatchEvent, WatchItem};
use crate::store::StoreError;

/// Messages that wait for a slow client before its watch waits too.
const BUFFER: usize = 4;
/// How often an idle watch says how far it has come.
const HEARTBEAT: Duration = Duration::from_secs(10);

type Message = Result<WatchItem, WatchEnd>;

/// Where a watch puts its messages, and how far it has come.
pub(super) struct Outlet {
    sender: mpsc::Sender<Message>,
    last: Last,
    engine: Engine,
    /// The revision from which the client would go on.
    pub(super) cursor: i64,
    /// When the next heartbeat is due.
    pub(super) heartbeat: Instant,
}

/// The reserved room, with what is said in it if the watch's task panics.
struct Last(Option<OwnedPermit<Message>>);

impl Last {
    fn say(mut self, end: WatchEnd) {
        if let Some(permit) = self.0.take() {
            permit.send(Err(end));
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(permit) = self.0.take()
        {
            permit.send(Err(WatchEnd::Panicked));
        }
    }
}

/// The watch is over: the client is gone or the server is going.
pub(super) struct Closed;

impl Outlet {
    /// An outlet and the stream it feeds.
    pub(super) fn new(engine: &Engine, cursor: i64) -> (Self, Watch) {
        let (sender, receiver) = mpsc::channel(BUFFER + 1);
        let last = sender.clone().try_reserve_owned();
        let last = Last(Some(last.unwrap_or_else(|_| unreachable!("a new channel has room"))));
        let heartbeat = Instant::now() + HEARTBEAT;
        let outlet = Self { sender, last, engine: engine.clone(), cursor, heartbeat };
        (outlet, ReceiverStream::new(receiver))
    }

    /// Hands a message over, however slow the client. An ending is said by the outlet itself.
    pub(super) async fn send(self, item: WatchItem) -> Result<Self, Closed> {
        let revision = item.revision;
        let sent = tokio::select! {
            biased;
            () = self.engine.stopping() => None,
            sent = self.sender.send(Ok(item)) => Some(sent.is_ok()),
        };
        match sent {
            None => Err(self.shut_down()),
            Some(false) => Err(Closed),
            Some(true) => {
                let heartbeat = Instant::now() + HEARTBEAT;
                Ok(Self { cursor: revision, heartbeat, ..self })
            }
        }
    }

    /// Waits for `wake`, sending heartbeats meanwhile; returns at `recheck` at the latest.
    pub(super) async fn idle(
        self,
        wake: impl Future<Output = ()>,
        recheck: Instant,
    ) -> Result<Self, Closed> {
        let mut beat = false;
        tokio::select! {
            () = wake => {}
            () = tokio::time::sleep_until(self.heartbeat) => beat = true,
            () = tokio::time::sleep_until(recheck) => {}
            () = self.engine.stopping() => return Err(self.shut_down()),
            () = self.sender.closed() => return Err(Closed),
        }
        if beat {
            let revision = self.cursor;
            return self.send(WatchItem { revision, event: WatchEvent::Heartbeat }).await;
        }
        Ok(self)
    }

    /// Goes on without waiting: sends the heartbeat if it is due, and notices an ending. For a
    /// watch that has much to read and nothing to send.
    pub(super) async fn breathe(self) -> Result<Self, Closed> {
        if self.engine.0.streaming.is_cancelled() {
            return Err(self.shut_down());
        }
        if self.sender.is_closed() {
            return Err(Closed);
        }
        if Instant::now() < self.heartbeat {
            return Ok(self);
        }
        let revision = self.cursor;
        self.send(WatchItem { revision, event: WatchEvent::Heartbeat }).await
    }

    /// Ends the stream because the log cannot be read.
    pub(super) fn fail(self, source: StoreError) -> Closed {
        let revision = self.cursor;
        self.last.say(WatchEnd::Store { revision, source });
        Closed
    }

    fn shut_down(self) -> Closed {
        let revision = self.cursor;
        self.last.say(WatchEnd::ShuttingDown { revision });
        Closed
    }
}

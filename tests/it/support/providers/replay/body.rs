//! How the body of a reply goes out, and a test's hold on one that goes out piece by piece.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::{DEADLINE, Reply, Request};

#[derive(Clone)]
pub(super) enum Body {
    Whole,
    InPieces(usize),
    /// This many bytes; then the connection is closed.
    Cut(usize),
    Endless,
    /// Neither head nor body.
    Never,
    /// Nor that, and the connection is closed.
    Closed,
    Stepped(Arc<Mutex<Steps>>),
    Computed(Arc<dyn Fn(&Request) -> Reply + Send + Sync>),
}

/// The server's end of a body that goes out piece by piece.
pub(super) struct Steps {
    pub(super) pieces: VecDeque<Vec<u8>>,
    /// Each asks for a piece, and is told when that is in the socket.
    pub(super) orders: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Body {
    pub(super) fn stepped(pieces: Vec<Vec<u8>>) -> (Self, Pieces) {
        let (sender, orders) = mpsc::channel(1);
        let left = pieces.len();
        let steps = Steps { pieces: pieces.into(), orders };
        (Self::Stepped(Arc::new(Mutex::new(steps))), Pieces { orders: sender, left })
    }
}

/// The test's end. Dropped before the last piece was sent, it breaks the connection off.
pub(crate) struct Pieces {
    orders: mpsc::Sender<oneshot::Sender<()>>,
    left: usize,
}

impl Pieces {
    /// How many are to be sent yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Sends the next piece, after the last of them the end of the body too, and returns once it
    /// is in the socket; waits for the request, if it has not come yet. Returns false if the
    /// connection is gone.
    pub(crate) async fn next(&mut self) -> bool {
        self.left = self.left.checked_sub(1).expect("there is a piece left to send");
        let (done, is_done) = oneshot::channel();
        let sent = async { self.orders.send(done).await.is_ok() && is_done.await.is_ok() };
        let sent = tokio::time::timeout(DEADLINE, sent).await;
        sent.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: a request for the pieces"))
    }

    /// Sends all that is left.
    pub(crate) async fn rest(mut self) {
        while self.left > 0 && self.next().await {}
    }
}

//! A port from the moment it is bound to the end of the server behind it.

use std::fmt::Display;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::tasks::Tasks;

/// A bound port that nothing serves yet; clients that connect wait.
pub(super) struct Port {
    listener: TcpListener,
    addr: SocketAddr,
    protocol: &'static str,
}

impl Port {
    pub(super) async fn bind(addr: String, protocol: &'static str) -> Result<Self, ServeError> {
        let bound = match TcpListener::bind(&addr).await {
            Ok(listener) => listener.local_addr().map(|addr| (listener, addr)),
            Err(source) => Err(source),
        };
        let (listener, bound) =
            bound.map_err(|source| ServeError::Listen { addr, protocol, source })?;
        Ok(Self { listener, addr: bound, protocol })
    }

    /// Runs the server that `make` makes on this port.
    pub(super) fn serve<F, E>(self, tasks: &Tasks, make: impl FnOnce(TcpListener) -> F) -> Listening
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let Self { listener, addr, protocol } = self;
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let server = make(listener);
        let task = tasks.spawn(async move {
            // Dropped however this task ends, a panic included.
            let _guard = guard;
            if let Err(error) = server.await {
                tracing::error!(error = %error, protocol, "A server failed");
            }
        });
        Listening { addr, ended, abort: task.abort_handle() }
    }
}

/// A port that is served.
pub(super) struct Listening {
    addr: SocketAddr,
    ended: CancellationToken,
    abort: AbortHandle,
}

impl Listening {
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the server has ended, for whatever reason.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) fn abort(&self) {
        self.abort.abort();
    }
}

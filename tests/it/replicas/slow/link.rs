//! A way to PostgreSQL on which everything that is said takes its time, so that what happens between
//! two statements of a transaction happens every time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A way that ends with the test.
pub(super) struct SlowLink {
    port: u16,
    delay_ms: Arc<AtomicU64>,
}

impl SlowLink {
    /// A way to the server on this port, which takes no time yet.
    pub(super) async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = Arc::clone(&delay_ms);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass_on(from_client, to_server, Arc::clone(&delay)));
                tokio::spawn(pass_on(from_server, to_client, Arc::default()));
            }
        });
        Self { port, delay_ms }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The same store by this way.
    pub(super) fn lead(&self, url: &str) -> String {
        let (server, database) = url.rsplit_once('/').expect("it names a database");
        let (host, _) = server.rsplit_once(':').expect("it names a port");
        format!("{host}:{}/{database}", self.port)
    }

    /// How long from now on whatever is said to the server takes.
    pub(super) fn takes(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("a short time");
        self.delay_ms.store(millis, Ordering::Relaxed);
    }
}

/// Ends when either side does, and with it the other way back.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: Arc<AtomicU64>) {
    let mut said = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut said).await {
        let delay = delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if to.write_all(&said[..bytes]).await.is_err() {
            return;
        }
    }
}

//! The other side of a provider: real servers written by others, and one that says what a test
//! tells it to.
//!
//! ```ignore
//! let server = providers::llama().await;                  // one for the whole test process
//! let own = RealServer::start(&LANGGRAPH).await;          // one's own, gone when it is dropped
//! let replay = Replay::start().await;
//! replay.on("POST /api/chat", Reply::transcript("ollama_chat"));
//! ```
//!
//! What must stay true: however the test process ends, no server of its outlives it; and nothing
//! here listens on anything but 127.0.0.1.

mod port;
mod real;
mod replay;

use std::sync::Once;

pub(crate) use port::Port;
pub(crate) use real::{AIMOCK, LANGGRAPH, LLAMA_SLOW, RealServer};
#[allow(unused_imports, reason = "for tests/real_providers, which brings kinds of its own")]
pub(crate) use real::{Kind, shared};
pub(crate) use real::{aimock, langgraph, llama, llama_slow};
pub(crate) use replay::{Ending, Replay, Reply, Request, transcripts};

/// A client of a test's own, which goes straight to the server.
pub(crate) fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // It fails only if the process has one already, and that one will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy().build().expect("a client can be made")
}

//! The HTTP port: what people and the machines that look after a server ask it without gRPC.

mod page;
mod probes;

use axum::Router;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::shutdown::Phase;
use crate::store::Store;

/// What is served on the HTTP port.
pub fn routes(phase: watch::Receiver<Phase>, store: Store, engine: Engine) -> Router {
    probes::routes(phase, store).merge(page::routes(engine))
}

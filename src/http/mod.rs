//! The HTTP port: what people and the machines that look after a server ask it without gRPC.

mod page;
mod probes;

use axum::Router;

use crate::engine::Engine;
use crate::health::Condition;

/// What is served on the HTTP port.
pub fn routes(condition: Condition, engine: Engine) -> Router {
    probes::routes(condition).merge(page::routes(engine))
}

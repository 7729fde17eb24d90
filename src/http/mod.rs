//! The HTTP port: what people and the machines that look after a server ask it without gRPC.

mod metrics;
mod page;
mod probes;

use std::sync::Arc;

use axum::Router;

use crate::engine::Engine;
use crate::health::Condition;

/// What is served on the HTTP port.
pub fn routes(condition: Condition, engine: Engine) -> Router {
    let instruments = Arc::clone(engine.instruments());
    probes::routes(condition.clone())
        .merge(metrics::routes(condition, instruments))
        .merge(page::routes(engine))
}

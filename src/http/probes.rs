//! Probes of the process: whether it lives, and whether it takes work.
//!
//! What must stay true: `/healthz` asks nothing of anyone, so that an orchestrator never kills a
//! server because its store is slow; `/readyz` is 200 only while work is taken.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use crate::shutdown::Phase;
use crate::store::Store;

/// How long the store may take to answer a probe; shorter than probes usually wait.
const STORE_WAIT: Duration = Duration::from_millis(800);

#[derive(Clone)]
struct Probes {
    phase: watch::Receiver<Phase>,
    store: Store,
}

/// The routes of the probes.
pub(super) fn routes(phase: watch::Receiver<Phase>, store: Store) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Probes { phase, store })
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    let phase = *probes.phase.borrow();
    match phase {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining(_) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        Phase::Serving => match tokio::time::timeout(STORE_WAIT, probes.store.head()).await {
            Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "Not ready");
                (StatusCode::SERVICE_UNAVAILABLE, "the store is unavailable\n")
            }
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
        },
    }
}

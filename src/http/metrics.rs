//! `/metrics`, for Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::health::Condition;
use crate::metrics::{Format, Instruments};

/// The route of the metrics; there is none if none are kept.
pub(super) fn routes(condition: Condition, instruments: Arc<Instruments>) -> Router {
    if !instruments.is_full() {
        return Router::new();
    }
    Router::new().route("/metrics", get(metrics)).with_state((condition, instruments))
}

async fn metrics(
    State((condition, instruments)): State<(Condition, Arc<Instruments>)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    instruments.set_ready(condition.is_ready());
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let head = [(CONTENT_TYPE, format.content_type()), (VARY, "Accept")];
    (head, instruments.expose(format))
}

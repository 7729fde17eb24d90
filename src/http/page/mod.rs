//! The page at `/`: what the service is doing, live, for people. It only shows; nothing here changes anything.
//!
//! What must stay true: whatever comes from data (names, reasons, operators' words) reaches the page as
//! JSON and is put there as text, and the policy sent along lets nothing run but the page's own file;
//! who looks costs the store nothing beyond what the first who looks costs; and no open page holds up
//! the end of the server.

mod live;
mod picture;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::engine::Engine;
use live::Live;

const INDEX: &str = include_str!("index.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// What the browser lets the page do: run and show its own files, and read its own events.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What every answer carries.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    // A server of another version serves another page.
    (CACHE_CONTROL, "no-store"),
];

/// How long whoever finds no room is to wait, in seconds.
const TRY_AGAIN: &str = "5";

/// The routes of the page.
pub(super) fn routes(engine: Engine) -> Router {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", INDEX)))
        .route("/page.js", get(async || file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/page.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/events", get(events))
        .layer(map_response(with_headers))
        .with_state(Arc::new(Live::new(engine)))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// The picture, pushed: see [`Live`].
async fn events(State(live): State<Arc<Live>>, headers: HeaderMap) -> Response {
    if !is_own_request(&headers) {
        return (StatusCode::FORBIDDEN, "only for the page of this server\n").into_response();
    }
    match live.watch() {
        // A proxy that collects what it passes on would show a page of the past.
        Some(events) => {
            ([(HeaderName::from_static("x-accel-buffering"), "no")], events).into_response()
        }
        None => {
            let why = "too many pages are open, or the server is shutting down\n";
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, TRY_AGAIN)], why).into_response()
        }
    }
}

/// Whether no other site's page makes its visitor's browser ask, as browsers tell; others do not tell.
fn is_own_request(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    matches!(site, None | Some(b"same-origin" | b"none"))
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

//! Probes of the process: whether it lives, and whether it takes work.
//!
//! What must stay true: neither asks anything of anyone, both tell what is known; `/healthz` is 503 only if the
//! process is stuck, so that an orchestrator never kills a server because its store is slow or gone; `/readyz` is
//! 200 only while work is taken.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::routing::get;

use crate::health::{Condition, Readiness};
use crate::shutdown::Phase;

/// The routes of the probes.
pub(super) fn routes(condition: Condition) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(condition)
}

async fn healthz(State(condition): State<Condition>) -> (StatusCode, &'static str) {
    if condition.is_stuck() {
        (StatusCode::SERVICE_UNAVAILABLE, "stuck\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(
    State(condition): State<Condition>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    let found = condition.readiness().borrow().clone();
    let (status, head) = match condition.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining(_) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        Phase::Serving if found.is_ready() => (StatusCode::OK, "ready\n"),
        Phase::Serving => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let verbose = query.as_deref().is_some_and(|query| query.split('&').any(is_verbose));
    (status, head.to_owned() + &lines(&found, verbose))
}

/// `?verbose`, as Kubernetes has it, with or without a value.
fn is_verbose(parameter: &str) -> bool {
    parameter.split('=').next() == Some("verbose")
}

/// A line for each check that fails, or for every one.
fn lines(found: &Readiness, all: bool) -> String {
    let mut lines = String::new();
    for (name, wrong) in found.checks() {
        // Writing to a text never fails.
        let _ = match wrong {
            Some(wrong) => writeln!(lines, "[-] {name}: {wrong}"),
            None if all => writeln!(lines, "[+] {name}"),
            None => Ok(()),
        };
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fails_is_listed_unless_all_is_asked_for() {
        let found = Readiness { store: Some("is unavailable".to_owned()), ..Readiness::default() };
        assert_eq!(lines(&found, false), "[-] store: is unavailable\n");
        assert_eq!(
            lines(&found, true),
            "[-] store: is unavailable\n[+] migrations\n[+] dispatcher\n"
        );
        assert_eq!(lines(&Readiness::default(), false), "");
        assert!(is_verbose("verbose") && is_verbose("verbose=1") && !is_verbose("verboseness"));
    }
}

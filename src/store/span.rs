//! The store's transactions and statements as spans, where `trace_level` asks for them. They tell
//! what is done, never with what.

use tracing::Span;

use super::{Lane, StoreKind};
use crate::telemetry::{self, STORE_TARGET};

/// How many of its operations a transaction links to.
const MOST_LINKS: usize = 128;

/// The span of whoever asks for an operation, where anything is traced: transactions may be, too.
pub(super) fn caller() -> Span {
    if telemetry::traces_are_on() { Span::current() } else { Span::none() }
}

/// The span of one transaction. It belongs to none of those it works for, and links to them.
pub(super) fn transaction<'a>(
    kind: StoreKind,
    lane: Lane,
    operations: usize,
    callers: impl Iterator<Item = &'a Span>,
) -> Span {
    let span = tracing::debug_span!(
        target: STORE_TARGET,
        parent: None,
        "transaction",
        otel.status_code = tracing::field::Empty,
        db.system.name = system(kind),
        lane = lane.as_str(),
        operations = i64::try_from(operations).unwrap_or(i64::MAX),
    );
    if !span.is_disabled() {
        for caller in callers.filter(|caller| !caller.is_disabled()).take(MOST_LINKS) {
            span.follows_from(caller);
        }
    }
    span
}

/// The span of one statement.
pub(super) fn statement(kind: StoreKind, doing: &'static str) -> Span {
    tracing::debug_span!(
        target: STORE_TARGET,
        "statement",
        otel.name = doing,
        otel.kind = "client",
        db.system.name = system(kind),
        db.query.summary = doing,
    )
}

/// The database's name in the conventions of OpenTelemetry.
const fn system(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Sqlite => "sqlite",
        StoreKind::Postgres => "postgresql",
        StoreKind::Memory => "memory",
    }
}

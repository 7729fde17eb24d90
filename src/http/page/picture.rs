//! What the page shows, as one JSON document: everything the page reads of the engine is read here.
//!
//! What must stay true: counts are of the whole service; rates and times are of the replica that answers,
//! and the page says so. Times are spans in milliseconds before or after `read`, so that the clock of
//! whoever looks does not matter.

use std::time::Duration;

use serde::Serialize;

use crate::domain::{ClosedBy, GateState, HeldBy, Hold, ProviderRecord, Timestamp};
use crate::engine::{Engine, Overview, ProviderView, Status, WorkerView};
use crate::store::{ProviderRow, WorkerStatus};

/// The most workers that are shown.
const MOST_WORKERS: usize = 100;

/// Reads the picture.
pub(super) async fn read(
    engine: &Engine,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let Overview { status, providers, workers } = engine.overview().await?;
    Ok(serde_json::to_string(&Picture::of(&status, &providers, &workers, engine.now()))?)
}

#[derive(Debug, Serialize)]
struct Picture {
    version: &'static str,
    /// When it was read, in milliseconds since 1970.
    read: i64,
    /// The replica that answers.
    worker: String,
    up_ms: u64,
    store: &'static str,
    revision: i64,
    totals: Totals,
    /// Of the last minute, at the replica that answers.
    succeeded_lately: u64,
    failed_lately: u64,
    /// Of what ended, and of what began, within that minute; nothing if nothing did.
    mean_run_ms: Option<u64>,
    mean_wait_ms: Option<u64>,
    /// Attempts and slots of all replicas that live.
    active: u64,
    slots: u64,
    scaling: String,
    providers: Vec<Provider>,
    workers: Vec<Worker>,
    workers_left_out: usize,
}

#[derive(Debug, Serialize)]
struct Totals {
    running: u64,
    pending: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
}

#[derive(Debug, Serialize)]
struct Provider {
    name: String,
    kind: String,
    limit: u32,
    /// What else is to be known of its limits.
    limit_note: String,
    running: u64,
    pending: u64,
    oldest_ms: Option<u64>,
    gate: &'static str,
    /// Until the gate is tried again by itself.
    gate_ms: Option<u64>,
    /// What keeps its work waiting, a sentence each.
    why: Vec<String>,
    succeeded_per_minute: f64,
    failed_per_minute: f64,
}

#[derive(Debug, Serialize)]
struct Worker {
    id: String,
    host: String,
    version: String,
    status: &'static str,
    /// The one that answers.
    here: bool,
    active: u64,
    slots: u32,
    succeeded: u64,
    failed: u64,
    heard_ms: u64,
    up_ms: u64,
    cpu_share: Option<f64>,
    memory_bytes: Option<u64>,
}

impl Picture {
    fn of(
        status: &Status,
        providers: &[ProviderView],
        workers: &[WorkerView],
        now: Timestamp,
    ) -> Self {
        let totals = &status.totals;
        let lately = status.last_minute.as_ref();
        let live = || workers.iter().filter(|worker| worker.is_live());
        let mut known: Vec<_> =
            workers.iter().filter(|it| it.row.status != WorkerStatus::Stopped).collect();
        known.sort_by_key(|it| (it.lost, it.row.host.clone(), it.row.started_at));
        let shown = known.iter().take(MOST_WORKERS);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            read: now.as_micros() / 1_000,
            worker: status.worker.to_string(),
            up_ms: millis(now.since(status.started_at)),
            store: status.store_kind,
            revision: status.head.revision,
            totals: Totals {
                running: totals.running,
                pending: totals.pending,
                succeeded: totals.succeeded,
                failed: totals.failed,
                cancelled: totals.cancelled,
            },
            succeeded_lately: lately.map_or(0, |it| it.counts.succeeded),
            failed_lately: lately.map_or(0, |it| it.counts.failed),
            mean_run_ms: lately.and_then(|it| it.counts.runs.mean()).map(millis),
            mean_wait_ms: lately.and_then(|it| it.counts.waits.mean()).map(millis),
            active: live().map(|it| it.report.figures.active).sum(),
            slots: live().map(|it| u64::from(it.report.slots)).sum(),
            scaling: status.scaling.message.clone(),
            providers: providers.iter().map(|it| Provider::of(it, now)).collect(),
            workers: shown.map(|it| Worker::of(it, status, now)).collect(),
            workers_left_out: known.len().saturating_sub(MOST_WORKERS),
        }
    }
}

impl Provider {
    fn of(view: &ProviderView, now: Timestamp) -> Self {
        let ProviderView { row, kind, unavailable, .. } = view;
        let record = &row.record;
        let (gate, until, why_not) = gate(&record.gate(), now);
        let mut why: Vec<_> = why_not.into_iter().collect();
        why.extend(waiting(row, gate == "OPEN", now));
        why.extend(unavailable.iter().map(|why| format!("Takes no submissions: {why}")));
        Self {
            name: record.name.to_string(),
            kind: kind.clone(),
            limit: record.effective().max_concurrent,
            limit_note: limit_note(record),
            running: row.running,
            pending: row.pending,
            oldest_ms: view.oldest_pending_age.map(millis),
            gate,
            gate_ms: until.map(|until| millis(until.since(now))),
            why,
            succeeded_per_minute: view.succeeded_per_minute,
            failed_per_minute: view.failed_per_minute,
        }
    }
}

/// The state of a gate, until when, and why.
fn gate(gate: &GateState, now: Timestamp) -> (&'static str, Option<Timestamp>, Option<String>) {
    match gate {
        GateState::Open | GateState::Held(_) => ("OPEN", None, None),
        GateState::Paused(pause) => {
            let why = match pause.reason.as_str() {
                "" => "Paused".to_owned(),
                reason => format!("Paused: {reason}"),
            };
            ("PAUSED", pause.until, Some(why))
        }
        GateState::Short(shortage) => {
            ("SHORT", None, Some(format!("Too little left: {}", shortage.lack)))
        }
        GateState::Closed { cause, until, reason } => {
            // The time may be over before anybody asks.
            ("CLOSED", Some(*until).filter(|until| *until > now), Some(closed(*cause, reason)))
        }
        GateState::Probing { cause, reason } => {
            let why = format!("One execution is let through to see. {}", closed(*cause, reason));
            ("PROBING", None, Some(why))
        }
    }
}

/// What else keeps work waiting.
fn waiting(row: &ProviderRow, is_open: bool, now: Timestamp) -> Vec<String> {
    let record = &row.record;
    let limit = u64::from(record.effective().max_concurrent);
    let holds = record.flow.holds();
    let mut why: Vec<_> = holds.iter().map(|hold| held(hold, now)).collect();
    if is_open && row.ready > 0 && row.running >= limit {
        why.push(format!("{} at the limit", waits(row.ready)));
    } else if is_open && row.ready > 0 && holds.is_empty() {
        why.push(format!("{} for a slot", waits(row.ready)));
    }
    let later = row.pending.saturating_sub(row.ready);
    if later > 0 {
        why.push(format!("{later} scheduled, or to be tried again later"));
    }
    why
}

fn waits(count: u64) -> String {
    if count == 1 { "1 waits".to_owned() } else { format!("{count} wait") }
}

fn held(hold: &Hold, now: Timestamp) -> String {
    let whose = hold.model.as_ref().map(|model| format!("Model {model}: ")).unwrap_or_default();
    let seconds = |until: Timestamp| until.since(now).as_secs_f64().ceil();
    match &hold.by {
        HeldBy::Rate { until } => {
            format!("{whose}This minute's budget is spent; more in {} s", seconds(*until))
        }
        HeldBy::Closed { cause, until, reason } => {
            format!("{whose}{}; tried again in {} s", closed(*cause, reason), seconds(*until))
        }
        HeldBy::Probing { cause, reason } => {
            format!("{whose}One execution is let through to see. {}", closed(*cause, reason))
        }
        HeldBy::NoWorker => format!("{whose}No worker that lives is configured for it"),
    }
}

/// Why a gate closed by itself.
fn closed(cause: ClosedBy, reason: &str) -> String {
    match cause {
        ClosedBy::RateLimit => format!("Rate limited: {reason}"),
        ClosedBy::Failures => format!("The provider fails: {reason}"),
    }
}

fn limit_note(record: &ProviderRecord) -> String {
    let limits = record.effective();
    let mut notes = Vec::new();
    if !limits.is_plain() {
        notes.push(limits.to_string());
    }
    if !record.overriding.is_empty() {
        notes.push(format!("set; declared {}", record.declared));
    }
    notes.join(" · ")
}

impl Worker {
    fn of(view: &WorkerView, status: &Status, now: Timestamp) -> Self {
        let WorkerView { row, report, lost } = view;
        let figures = &report.figures;
        Self {
            id: row.id.to_string(),
            host: row.host.clone(),
            version: row.version.clone(),
            status: match row.status {
                _ if *lost => "LOST",
                WorkerStatus::Serving => "ACTIVE",
                WorkerStatus::Stopping => "DRAINING",
                WorkerStatus::Stopped => "STOPPED",
            },
            here: row.id == status.worker,
            active: figures.active,
            slots: report.slots,
            succeeded: figures.succeeded,
            failed: figures.failed,
            heard_ms: millis(now.since(row.heartbeat_at)),
            up_ms: millis(now.since(row.started_at)),
            cpu_share: report.vitals.map(|it| it.cpu_share),
            memory_bytes: report.vitals.map(|it| it.resident_bytes),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Lack, Limits, Pause, Shortage, WorkerId};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn until(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    #[test]
    fn a_gate_that_is_not_open_says_why_and_for_how_long() {
        let reason = || "503".to_owned();
        let told = |state: &GateState| {
            let (name, until, why) = gate(state, NOW);
            (name, until.map(|it| it.since(NOW).as_secs()), why.unwrap_or_default())
        };
        assert_eq!(told(&GateState::Open), ("OPEN", None, String::new()));
        let paused = |reason: &str| {
            told(&GateState::Paused(Pause { reason: reason.to_owned(), until: Some(until(7)) }))
        };
        assert_eq!(paused("tea"), ("PAUSED", Some(7), "Paused: tea".to_owned()));
        assert_eq!(paused("").2, "Paused");
        let lack = Lack::Cpu { percent: 93, max_percent: 80 };
        let short = GateState::Short(Shortage { worker: WorkerId::new(), lack });
        assert_eq!(told(&short), ("SHORT", None, "Too little left: cpu 93 % of 80 %".to_owned()));
        let closed =
            |until| told(&GateState::Closed { cause: ClosedBy::Failures, until, reason: reason() });
        assert_eq!(closed(until(9)), ("CLOSED", Some(9), "The provider fails: 503".to_owned()));
        assert_eq!(closed(NOW).1, None, "the time is over");
        let probing = told(&GateState::Probing { cause: ClosedBy::RateLimit, reason: reason() });
        assert_eq!(probing.0, "PROBING");
        assert!(probing.2.ends_with("Rate limited: 503"), "{probing:?}");
    }

    #[test]
    fn what_waits_behind_an_open_gate_says_for_what() {
        let record = ProviderRecord::new("a".parse().unwrap(), Limits::concurrent(2));
        let row = |running, ready, pending| ProviderRow {
            running,
            ready,
            pending,
            ..ProviderRow::idle(record.clone())
        };
        assert_eq!(waiting(&row(2, 1, 1), true, NOW), ["1 waits at the limit"]);
        assert_eq!(waiting(&row(1, 4, 4), true, NOW), ["4 wait for a slot"]);
        assert_eq!(waiting(&row(2, 0, 3), true, NOW), ["3 scheduled, or to be tried again later"]);
        assert!(waiting(&row(0, 4, 4), false, NOW).is_empty(), "the gate says why");
        let hold = Hold { model: Some("gpt-5".to_owned()), by: HeldBy::Rate { until: until(3) } };
        let budget = "Model gpt-5: This minute's budget is spent; more in 3 s";
        assert_eq!(held(&hold, NOW), budget);
    }
}

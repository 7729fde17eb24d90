//! Rows as the database keeps them, to and from the domain's types.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    Change, Event, ExecutionId, Input, Limits, Pause, ProviderRecord, Record, RetryPolicy, Spec,
    State, Timestamp, Token, Wait,
};
use crate::store::{BackendError, Logged, NewExecution, WorkerRow, WorkerStatus};

type Result<T> = std::result::Result<T, BackendError>;

/// The columns of `records`, in the order that [`record`] reads and [`record_row`] writes them.
macro_rules! record_columns {
    () => {
        "id, provider, state, ready, wait, interrupted, priority, due_at, queue_deadline, token, \
         owner, lease_expires_at, attempts, charged, crashes, cancel_requested_at"
    };
}
pub(super) use record_columns;

/// The columns of `executions` that [`spec`] reads.
macro_rules! spec_columns {
    () => {
        "id, provider, request_id, created_at, input, input_exact, labels, options"
    };
}
pub(super) use spec_columns;

/// The columns of `providers`, in the order that [`provider`] reads and [`provider_row`] writes them.
macro_rules! provider_columns {
    () => {
        "name, declared_max, overriding_max, paused, pause_reason, pause_until, limits_revision, \
         gate_revision"
    };
}
pub(super) use provider_columns;

/// The parts of a [`Spec`] that nothing searches for.
#[derive(Serialize, Deserialize)]
struct Options {
    priority: i32,
    run_timeout: Duration,
    retry: RetryPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_of: Option<ExecutionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

pub(super) const fn state_number(state: State) -> i64 {
    match state {
        State::Pending => 0,
        State::Running => 1,
        State::Succeeded => 2,
        State::Failed => 3,
        State::Cancelled => 4,
    }
}

const fn kind_number(change: &Change) -> i64 {
    match change {
        Change::Submitted { .. }
        | Change::Claimed { .. }
        | Change::Requeued { .. }
        | Change::Finished { .. }
        | Change::CancelRequested { .. }
        | Change::WaitChanged { .. } => 0,
        Change::Output(_) => 1,
        Change::LimitsChanged { .. } => 2,
        Change::Paused { .. } | Change::Resumed { .. } => 3,
    }
}

/// JSON for one row of `records`.
pub(super) fn record_row(record: &Record) -> impl Serialize + use<> {
    let wait = match record.wait {
        Wait::None => 0,
        Wait::Limit => 1,
        Wait::Scheduled { .. } => 2,
        Wait::Backoff { .. } => 3,
    };
    (
        record.id,
        record.provider.clone(),
        state_number(record.state),
        i64::from(record.is_ready()),
        wait,
        i64::from(record.interrupted),
        record.priority,
        record.due_at,
        record.queue_deadline,
        record.token,
        record.owner,
        record.lease_expires_at,
        record.attempts,
        record.charged,
        record.crashes,
        record.cancel_requested_at,
    )
}

pub(super) fn record(row: &SqliteRow) -> Result<Record> {
    let due_at = Timestamp::from_micros(get(row, 7)?);
    Ok(Record {
        id: parse(row, 0)?,
        provider: parse(row, 1)?,
        state: match get::<i64>(row, 2)? {
            0 => State::Pending,
            1 => State::Running,
            2 => State::Succeeded,
            3 => State::Failed,
            4 => State::Cancelled,
            other => return Err(corrupt("a state", other)),
        },
        wait: match get::<i64>(row, 4)? {
            0 => Wait::None,
            1 => Wait::Limit,
            2 => Wait::Scheduled { until: due_at },
            3 => Wait::Backoff { until: due_at },
            other => return Err(corrupt("a wait reason", other)),
        },
        interrupted: get(row, 5)?,
        priority: get(row, 6)?,
        due_at,
        queue_deadline: time(row, 8)?,
        token: Token(get(row, 9)?),
        owner: get::<Option<String>>(row, 10)?.map(|text| text_as(&text)).transpose()?,
        lease_expires_at: time(row, 11)?,
        attempts: get(row, 12)?,
        charged: get(row, 13)?,
        crashes: get(row, 14)?,
        cancel_requested_at: time(row, 15)?,
    })
}

/// JSON for one row of `executions`.
pub(super) fn execution_row(new: &NewExecution) -> Result<impl Serialize + '_> {
    let spec = &*new.spec;
    let options = Options {
        priority: spec.priority,
        run_timeout: spec.run_timeout,
        retry: spec.retry.clone(),
        schedule_at: spec.schedule_at,
        queue_timeout: spec.queue_timeout,
        retry_of: spec.retry_of,
        traceparent: spec.traceparent.clone(),
    };
    Ok((
        spec.id,
        spec.provider.as_str(),
        &spec.request_id,
        &new.request_hash,
        spec.created_at,
        &spec.input.json,
        i64::from(spec.input.exact),
        json(&spec.labels)?,
        json(&options)?,
        spec.retry_of,
    ))
}

pub(super) fn spec(row: &SqliteRow) -> Result<Spec> {
    let labels: BTreeMap<String, String> = from_json("labels", &get::<String>(row, 6)?)?;
    let options: Options = from_json("options", &get::<String>(row, 7)?)?;
    Ok(Spec {
        id: parse(row, 0)?,
        provider: parse(row, 1)?,
        request_id: get(row, 2)?,
        created_at: Timestamp::from_micros(get(row, 3)?),
        input: Input { json: get(row, 4)?, exact: get(row, 5)? },
        labels,
        priority: options.priority,
        schedule_at: options.schedule_at,
        queue_timeout: options.queue_timeout,
        run_timeout: options.run_timeout,
        retry: options.retry,
        retry_of: options.retry_of,
        traceparent: options.traceparent,
    })
}

/// JSON for one row of `providers`.
pub(super) fn provider_row(record: &ProviderRecord) -> impl Serialize + '_ {
    let pause = record.pause.as_ref();
    (
        record.name.as_str(),
        record.declared.max_concurrent,
        record.overriding.map(|limits| limits.max_concurrent),
        i64::from(pause.is_some()),
        pause.map(|pause| &pause.reason),
        pause.and_then(|pause| pause.until),
        record.limits_revision,
        record.gate_revision,
    )
}

pub(super) fn provider(row: &SqliteRow) -> Result<ProviderRecord> {
    let paused: bool = get(row, 3)?;
    let pause = if paused {
        let reason = get::<Option<String>>(row, 4)?.unwrap_or_default();
        Some(Pause { reason, until: time(row, 5)? })
    } else {
        None
    };
    Ok(ProviderRecord {
        name: parse(row, 0)?,
        declared: Limits { max_concurrent: get(row, 1)? },
        overriding: get::<Option<u32>>(row, 2)?.map(|max_concurrent| Limits { max_concurrent }),
        pause,
        limits_revision: get(row, 6)?,
        gate_revision: get(row, 7)?,
    })
}

/// JSON for one row of `events`, but for its revision and time.
pub(super) fn event_row(entry: &Logged) -> Result<impl Serialize + '_> {
    let kind = kind_number(&entry.change);
    Ok((entry.execution, entry.provider.as_str(), kind, json(&entry.change)?))
}

/// Reads `revision, execution_id, provider, at, change`.
pub(super) fn event(row: &SqliteRow) -> Result<Event> {
    let execution = get::<Option<String>>(row, 1)?.map(|text| text_as(&text)).transpose()?;
    Ok(Event {
        revision: get(row, 0)?,
        execution,
        provider: parse(row, 2)?,
        at: Timestamp::from_micros(get(row, 3)?),
        change: from_json("a change", &get::<String>(row, 4)?)?,
    })
}

/// JSON for the row of a worker.
pub(super) fn worker_row(worker: &WorkerRow) -> Result<impl Serialize + '_> {
    Ok((
        worker.id,
        &worker.host,
        &worker.version,
        worker.status.as_str(),
        worker.started_at,
        worker.heartbeat_at,
        json(&worker.figures)?,
    ))
}

pub(super) fn worker(row: &SqliteRow) -> Result<WorkerRow> {
    let status: String = get(row, 3)?;
    Ok(WorkerRow {
        id: parse(row, 0)?,
        host: get(row, 1)?,
        version: get(row, 2)?,
        status: WorkerStatus::named(&status)
            .ok_or_else(|| corrupt("a worker", format_args!("unknown status {status}")))?,
        started_at: Timestamp::from_micros(get(row, 4)?),
        heartbeat_at: Timestamp::from_micros(get(row, 5)?),
        figures: from_json("a worker's figures", &get::<String>(row, 6)?)?,
    })
}

pub(super) fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|error| corrupt("a column", error))
}

pub(super) fn time(row: &SqliteRow, column: usize) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_micros))
}

pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(
    row: &SqliteRow,
    column: usize,
) -> Result<T> {
    text_as(&get::<String>(row, column)?)
}

fn text_as<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| corrupt("a name", error))
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt("a value to be written", error))
}

/// Rows as JSON arrays for statements, each with the number of its rows. An array grows to
/// [`STATEMENT_BYTES`] or one row: SQLite and its driver hold what a statement is given several
/// times over, and take no text above 1 GB.
pub(super) fn json_arrays<T: Serialize>(
    rows: &[T],
) -> impl Iterator<Item = Result<(usize, String)>> {
    let mut rows = rows.iter().peekable();
    std::iter::from_fn(move || {
        rows.peek()?;
        let (mut count, mut text) = (0, String::from("["));
        while let Some(row) = rows.next_if(|_| text.len() < STATEMENT_BYTES) {
            if count > 0 {
                text.push(',');
            }
            match json(row) {
                Ok(row) => text.push_str(&row),
                Err(error) => return Some(Err(error)),
            }
            count += 1;
        }
        text.push(']');
        Some(Ok((count, text)))
    })
}

const STATEMENT_BYTES: usize = 1024 * 1024;

fn from_json<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

pub(super) fn corrupt(what: &'static str, why: impl std::fmt::Display) -> BackendError {
    BackendError::Corrupt { what, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_by_size_and_none_is_lost() {
        let rows = ["x".repeat(STATEMENT_BYTES / 2), "y".repeat(STATEMENT_BYTES), "z".to_owned()];
        let arrays: Vec<_> = json_arrays(&rows).map(|array| array.unwrap()).collect();
        assert_eq!(arrays.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [2, 1]);
        let read = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap();
        let read: Vec<_> = arrays.iter().flat_map(|(_, text)| read(text)).collect();
        assert_eq!(read, rows);
        assert_eq!(json_arrays::<u8>(&[]).count(), 0);
    }
}

//! Rows of the embedded database: what it gives, and what its statements take, which is JSON.

use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::domain::{ProviderRecord, Record};
use crate::store::codec::{
    Columns, Options, corrupt, demand, flow, health, json, kind_number, limits, on_lost_number,
    state_number, wait_number,
};
use crate::store::{BackendError, Logged, NewExecution, WorkerRow};

type Result<T> = std::result::Result<T, BackendError>;

impl Columns for SqliteRow {
    fn int(&self, column: usize) -> Result<Option<i64>> {
        get(self, column)
    }

    fn flag(&self, column: usize) -> Result<bool> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<Option<&str>> {
        get(self, column)
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>> {
        let text: Option<&str> = get(self, column)?;
        text.map(|text| Uuid::try_parse(text).map_err(|error| corrupt("an id", error))).transpose()
    }
}

fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|error| corrupt("a column", error))
}

/// JSON for one row of `records`.
pub(super) fn record_row(record: &Record) -> impl Serialize + use<> {
    (
        record.id,
        record.provider.clone(),
        state_number(record.state),
        i64::from(record.is_ready()),
        wait_number(record.wait),
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
        // A tuple has no more than sixteen places.
        (
            record.cancel_requested_at,
            record.handle.as_ref().map(|handle| handle.as_json().to_owned()),
            on_lost_number(record.on_lost),
            record.rank,
            record.lane.clone(),
            demand(record),
        ),
    )
}

/// JSON for one row of `executions`.
pub(super) fn execution_row(new: &NewExecution) -> Result<impl Serialize + '_> {
    let spec = &*new.spec;
    Ok((
        spec.id,
        spec.provider.as_str(),
        &spec.request_id,
        &new.request_hash,
        spec.created_at,
        &spec.input.json,
        i64::from(spec.input.exact),
        json(&spec.labels)?,
        json(&Options::of(spec))?,
        spec.retry_of,
    ))
}

/// JSON for one row of `providers`.
pub(super) fn provider_row(record: &ProviderRecord) -> Result<impl Serialize + '_> {
    let pause = record.pause.as_ref();
    Ok((
        record.name.as_str(),
        record.declared.max_concurrent,
        record.overriding.max_concurrent,
        i64::from(pause.is_some()),
        pause.map(|pause| &pause.reason),
        pause.and_then(|pause| pause.until),
        record.limits_revision,
        record.gate_revision,
        record.shortage.as_ref().map(json).transpose()?,
        health(&record.health)?,
        record.health.closed_until(),
        record.effective().max_concurrent,
        limits(record)?,
        record.other_due_at(),
        flow(&record.flow)?,
    ))
}

/// JSON for one row of `events`, but for its revision and time.
pub(super) fn event_row(entry: &Logged) -> Result<impl Serialize + '_> {
    let kind = kind_number(&entry.change);
    Ok((entry.execution, entry.provider.as_str(), kind, json(&entry.change)?))
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

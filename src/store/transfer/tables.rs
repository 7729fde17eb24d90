//! The tables that every database has, and the statements that read one out and write it in again.
//!
//! What must stay true: [`TABLES`] names every table of the schema and every column of each. A
//! migration that adds one adds it here; the test below reads the schema and fails on one that is
//! missing. Both databases know them by the same names, so that one text serves for both.

use serde::Serialize;

use super::TransferError;
use crate::store::codec::{provider_columns, record_columns};

/// A table, and how it travels.
pub(in crate::store) struct Table {
    /// Its name.
    pub(in crate::store) name: &'static str,
    /// Its columns, in the order in which they travel.
    #[cfg(test)]
    pub(in crate::store) columns: &'static str,
    /// The one of them that PostgreSQL keeps as jsonb and not as text.
    pub(in crate::store) document: Option<usize>,
    /// Reads all rows, in the order of their key.
    pub(in crate::store) read: &'static str,
    /// Writes rows.
    pub(in crate::store) write: &'static str,
}

macro_rules! table {
    ($name:literal, by $key:literal, $document:expr, $($columns:tt)+) => {
        Table {
            name: $name,
            #[cfg(test)]
            columns: $($columns)+,
            document: $document,
            read: concat!("SELECT ", $($columns)+, " FROM ", $name, " ORDER BY ", $key),
            write: concat!("COPY ", $name, " (", $($columns)+, ") FROM STDIN"),
        }
    };
}

/// Every table, in the order in which writers lock them.
pub(in crate::store) const TABLES: &[Table] = &[
    table!("providers", by "name", None, provider_columns!()),
    table!(
        "executions", by "id", Some(7),
        "id, provider, request_id, request_hash, created_at, input, input_exact, labels, options, \
         retry_of"
    ),
    table!("records", by "id", None, record_columns!()),
    table!("outputs", by "id", None, "id, output"),
    table!("usage", by "provider", None, "provider, input_tokens, output_tokens"),
    table!("events", by "revision", None, "revision, execution_id, provider, kind, at, change"),
    table!(
        "workers", by "id", None,
        "id, host, version, status, started_at, heartbeat_at, figures"
    ),
    table!(
        "meta", by "id", None,
        "id, epoch, revision, compacted, submitted, succeeded, failed, cancelled"
    ),
];

/// What a store holds, in numbers that must be the same after a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Census {
    /// Which life of the store.
    pub epoch: String,
    /// The newest revision.
    pub revision: i64,
    /// The newest revision that is no longer held; 0 if all are.
    pub compacted: i64,
    /// Executions ever submitted.
    pub submitted: i64,
    /// Ever succeeded.
    pub succeeded: i64,
    /// Ever failed.
    pub failed: i64,
    /// Ever cancelled.
    pub cancelled: i64,
    /// Rows of the table.
    pub providers: i64,
    /// Rows of the table.
    pub executions: i64,
    /// Rows of the table.
    pub records: i64,
    /// Records that are pending.
    pub records_pending: i64,
    /// Records that are running.
    pub records_running: i64,
    /// Records that are succeeded.
    pub records_succeeded: i64,
    /// Records that are failed.
    pub records_failed: i64,
    /// Records that are cancelled.
    pub records_cancelled: i64,
    /// Rows of the table.
    pub outputs: i64,
    /// Tokens in, over all providers.
    pub input_tokens: i64,
    /// Tokens out, over all providers.
    pub output_tokens: i64,
    /// Rows of the table.
    pub events: i64,
    /// The oldest entry of the log that is held; 0 if none is.
    pub first_event: i64,
    /// The newest; 0 if none is.
    pub last_event: i64,
    /// Rows of the table.
    pub workers: i64,
}

/// Counts what a store holds, in either database.
pub(in crate::store) const CENSUS: &str = "
    SELECT
        epoch, revision, compacted, submitted, succeeded, failed, cancelled,
        (SELECT count(*) FROM providers) AS providers,
        (SELECT count(*) FROM executions) AS executions,
        states.records,
        states.records_pending,
        states.records_running,
        states.records_succeeded,
        states.records_failed,
        states.records_cancelled,
        (SELECT count(*) FROM outputs) AS outputs,
        (SELECT CAST(coalesce(sum(input_tokens), 0) AS bigint) FROM usage) AS input_tokens,
        (SELECT CAST(coalesce(sum(output_tokens), 0) AS bigint) FROM usage) AS output_tokens,
        log.events,
        log.first_event,
        log.last_event,
        (SELECT count(*) FROM workers) AS workers
    FROM meta
    CROSS JOIN (
        SELECT
            count(*) AS records,
            count(*) FILTER (WHERE state = 0) AS records_pending,
            count(*) FILTER (WHERE state = 1) AS records_running,
            count(*) FILTER (WHERE state = 2) AS records_succeeded,
            count(*) FILTER (WHERE state = 3) AS records_failed,
            count(*) FILTER (WHERE state = 4) AS records_cancelled
        FROM records
    ) AS states
    CROSS JOIN (
        SELECT
            count(*) AS events,
            coalesce(min(revision), 0) AS first_event,
            coalesce(max(revision), 0) AS last_event
        FROM events
    ) AS log";

impl Census {
    /// Whether nothing was ever kept here: a schema, and nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        let kept = [self.revision, self.compacted, self.submitted, self.succeeded, self.failed];
        let rows = [self.cancelled, self.providers, self.executions, self.records, self.outputs];
        kept.iter().chain(&rows).chain(&[self.events, self.workers]).all(|number| *number == 0)
    }

    /// That the log has every entry it should have: a watch could not go on from a cursor in a gap.
    pub(super) fn check_log(&self) -> Result<(), TransferError> {
        let expected = self.revision - self.compacted;
        let (first, last) = match expected {
            0 => (0, 0),
            _ => (self.compacted + 1, self.revision),
        };
        if (self.events, self.first_event, self.last_event) == (expected, first, last) {
            Ok(())
        } else {
            Err(TransferError::LogBroken { first, last, expected, found: self.events })
        }
    }

    /// What differs from another, in words; `None` if nothing does.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let [here, there] = [self, other].map(|census| serde_json::json!(census));
        let here = here.as_object().into_iter().flatten();
        let differing = here.filter(|(name, value)| there[name.as_str()] != **value);
        let said: Vec<_> = differing
            .map(|(name, value)| format!("{name}: {value}, then {}", there[name.as_str()]))
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// One entry of the log, as text, to be compared over databases.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
pub(in crate::store) struct Entry {
    execution: Option<String>,
    provider: String,
    at: i64,
    change: String,
}

/// Reads the entry at a revision, in either database.
pub(in crate::store) const ENTRY: &str = "
    SELECT CAST(execution_id AS text) AS execution, provider, at, change
    FROM events
    WHERE revision = $1";

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    #[tokio::test]
    async fn every_column_of_the_schema_travels() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await.unwrap();
        let columns: Vec<(String, String)> = sqlx::query_as(
            "SELECT tables.name, columns.name
             FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
             WHERE tables.type = 'table'
               AND tables.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut schema: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (table, column) in columns {
            schema.entry(table).or_default().insert(column);
        }
        let listed = |table: &Table| table.columns.split(", ").map(str::to_owned).collect();
        let travel: BTreeMap<_, BTreeSet<_>> =
            TABLES.iter().map(|table| (table.name.to_owned(), listed(table))).collect();
        assert_eq!(travel, schema);
    }

    #[test]
    fn the_document_is_the_labels() {
        let documents: Vec<_> = TABLES
            .iter()
            .filter_map(|table| Some((table.name, table.columns.split(", ").nth(table.document?))))
            .collect();
        assert_eq!(documents, [("executions", Some("labels"))]);
    }
}

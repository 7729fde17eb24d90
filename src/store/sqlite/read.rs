//! What is read beside the writer, on connections of their own.
//!
//! An execution is its specification with its log folded over it, so reading one takes no lock and
//! sees no half-made change. Its log is read before its result: whoever sees the end sees the
//! result too.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use sqlx::sqlite::{SqliteExecutor, SqlitePool, SqliteRow};
use tracing::Instrument;

use super::{span, statement};
use crate::domain::{Event, ExecutionId, ProviderName};
use crate::store::codec::{self, Columns as _, provider_columns, spec_columns, state_number};
use crate::store::{
    BackendError, EventQuery, FARTHEST_AHEAD, Head, History, ListQuery, Payload, ProviderRow,
    Totals, WorkerRow,
};

type Result<T> = std::result::Result<T, BackendError>;

const LOGS: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IN (SELECT value FROM json_each(?1))
      AND kind = 0
    ORDER BY revision";

const SPECS_WITH_PAYLOAD: &str = concat!(
    "SELECT ",
    spec_columns!(),
    ", (SELECT output FROM outputs WHERE outputs.id = executions.id)
    FROM executions
    WHERE id IN (SELECT value FROM json_each(?1))"
);

const SPECS_WITHOUT_PAYLOAD: &str = "
    SELECT id, provider, request_id, created_at, '{}' AS input, input_exact, labels, options, NULL
    FROM executions
    WHERE id IN (SELECT value FROM json_each(?1))";

// Each criterion is NULL where it does not apply. Newest first is by id: ids grow with time, and
// every id is below '~'.
const LIST: &str = "
    SELECT id
    FROM executions
    WHERE id < coalesce(?1 ->> 'before', '~')
      AND (?1 ->> 'created_after' IS NULL OR created_at >= ?1 ->> 'created_after')
      AND (?1 ->> 'created_before' IS NULL OR created_at < ?1 ->> 'created_before')
      AND (?1 -> 'providers' = '[]'
           OR provider IN (SELECT value FROM json_each(?1, '$.providers')))
      AND (?1 -> 'states' = '[]'
           OR (SELECT state FROM records WHERE records.id = executions.id)
              IN (SELECT value FROM json_each(?1, '$.states')))
      AND NOT EXISTS (
          SELECT 1
          FROM json_each(?1, '$.labels') AS wanted
          WHERE (SELECT given.value
                 FROM json_each(executions.labels) AS given
                 WHERE given.key = wanted.key) IS NOT wanted.value
      )
      AND (NOT ?1 ->> 'not_retried'
           OR NOT EXISTS (SELECT 1 FROM executions AS later WHERE later.retry_of = executions.id))
    ORDER BY id DESC
    LIMIT ?1 ->> 'limit'";

const EVENTS_OF_ALL: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE revision > ?1 ->> 'after'
      AND (kind <> 1 OR ?1 ->> 'output')
    ORDER BY revision
    LIMIT ?1 ->> 'limit'";

const EVENTS_OF_ONE: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id = ?1 ->> 'execution'
      AND revision > ?1 ->> 'after'
      AND (kind = 0 OR ?1 ->> 'output')
    UNION ALL
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = (SELECT provider FROM executions WHERE id = ?1 ->> 'execution')
      AND kind = 3
      AND revision > ?1 ->> 'after'
    ORDER BY revision
    LIMIT ?1 ->> 'limit'";

const GATE_AT: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = ?1 ->> 0
      AND kind = 3
      AND revision <= ?1 ->> 1
    ORDER BY revision DESC
    LIMIT 1";

const LIMIT_CHANGES: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = ?1 ->> 0
      AND kind = 2
      AND revision < ?1 ->> 1
    ORDER BY revision DESC
    LIMIT ?1 ->> 2";

const WAITING: &str = "
    SELECT name
    FROM providers
    WHERE EXISTS (SELECT 1 FROM records WHERE ready = 1 AND provider = name)";

const AHEAD_OF: &str = "
    SELECT
        (SELECT count(*)
         FROM (SELECT 1
               FROM records
               WHERE ready = 1
                 AND provider = mine.provider
                 AND lane = mine.lane
                 AND interrupted > mine.interrupted
               LIMIT ?1 ->> 1))
        + (SELECT count(*)
           FROM (SELECT 1
                 FROM records
                 WHERE ready = 1
                   AND provider = mine.provider
                   AND lane = mine.lane
                   AND interrupted = mine.interrupted
                   AND (rank, id) < (mine.rank, mine.id)
                 LIMIT ?1 ->> 1))
    FROM records AS mine
    WHERE id = ?1 ->> 0
      AND ready = 1";

const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    ",
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        (SELECT count(*) FROM records WHERE ready = 1 AND provider = name),
        (SELECT min(due_at) FROM records WHERE ready = 1 AND provider = name),
        coalesce(usage.input_tokens, 0),
        coalesce(usage.output_tokens, 0),
        coalesce(later.waiting, 0),
        CASE WHEN flow IS NULL THEN 0 ELSE (
            SELECT count(*) FROM records WHERE ready = 1 AND provider = name AND lane <> ''
        ) END
    FROM providers
    LEFT JOIN usage ON usage.provider = name
    LEFT JOIN (
        SELECT provider, count(*) AS waiting
        FROM records
        WHERE state = 0 AND ready = 0
        GROUP BY provider
    ) AS later ON later.provider = name
    ORDER BY name"
);

const TOTALS: &str = "
    SELECT
        submitted,
        (SELECT count(*) FROM records WHERE state = 1),
        succeeded,
        failed,
        cancelled,
        (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)
    FROM meta";

#[derive(Serialize)]
struct ListParameters<'a> {
    before: Option<ExecutionId>,
    created_after: Option<crate::domain::Timestamp>,
    created_before: Option<crate::domain::Timestamp>,
    providers: &'a [ProviderName],
    states: Vec<i16>,
    labels: &'a std::collections::BTreeMap<String, String>,
    not_retried: i64,
    limit: u32,
}

#[derive(Serialize)]
struct EventParameters {
    after: i64,
    execution: Option<ExecutionId>,
    output: i64,
    limit: u32,
}

pub(super) async fn histories(
    pool: &SqlitePool,
    ids: &[ExecutionId],
    payload: Payload,
) -> Result<Vec<History>> {
    let mut logs: HashMap<ExecutionId, Vec<Event>> = HashMap::new();
    for row in rows(pool, "read the log of executions", LOGS, &ids).await? {
        let event = codec::event(&row)?;
        if let Some(id) = event.execution {
            logs.entry(id).or_default().push(event);
        }
    }
    let sql = match payload {
        Payload::With => SPECS_WITH_PAYLOAD,
        Payload::Without => SPECS_WITHOUT_PAYLOAD,
    };
    let mut histories = Vec::with_capacity(ids.len());
    for row in rows(pool, "read executions", sql, &ids).await? {
        let spec = codec::spec(&row)?;
        // One that was submitted after its log was read is not there yet.
        let Some(log) = logs.remove(&spec.id) else { continue };
        let output = row.text(8)?.map(Arc::from);
        histories.push(History { spec: Arc::new(spec), log, output });
    }
    Ok(histories)
}

pub(super) async fn list(pool: &SqlitePool, query: &ListQuery) -> Result<Vec<ExecutionId>> {
    let parameters = ListParameters {
        before: query.before,
        created_after: query.created_after,
        created_before: query.created_before,
        providers: &query.providers,
        states: query.states.iter().map(|state| state_number(*state)).collect(),
        labels: &query.labels,
        not_retried: i64::from(query.not_retried),
        limit: query.limit,
    };
    let rows = rows(pool, "list executions", LIST, &parameters).await?;
    rows.iter().map(|row| codec::execution_id(row, 0)).collect()
}

pub(super) async fn events(
    source: impl SqliteExecutor<'_>,
    query: &EventQuery,
) -> Result<Vec<Event>> {
    let parameters = EventParameters {
        after: query.after,
        execution: query.execution,
        output: i64::from(query.output),
        limit: query.limit,
    };
    let sql = if query.execution.is_some() { EVENTS_OF_ONE } else { EVENTS_OF_ALL };
    let rows = rows(source, "read the log", sql, &parameters).await?;
    rows.iter().map(codec::event).collect()
}

pub(super) async fn gate_at(
    pool: &SqlitePool,
    provider: &ProviderName,
    revision: i64,
) -> Result<Option<Event>> {
    let rows = rows(pool, "read a provider's gate", GATE_AT, &(provider, revision)).await?;
    rows.first().map(codec::event).transpose()
}

pub(super) async fn limit_changes(
    pool: &SqlitePool,
    provider: &ProviderName,
    before: i64,
    limit: u32,
) -> Result<Vec<Event>> {
    let parameters = (provider, before, limit);
    let rows = rows(pool, "read a provider's limits", LIMIT_CHANGES, &parameters).await?;
    rows.iter().map(codec::event).collect()
}

pub(super) async fn waiting(pool: &SqlitePool) -> Result<Vec<ProviderName>> {
    let rows = rows(pool, "look for providers with work", WAITING, &()).await?;
    rows.iter().map(|row| codec::parse(row, 0)).collect()
}

pub(super) async fn ahead_of(pool: &SqlitePool, id: ExecutionId) -> Result<Option<u64>> {
    let parameters = (id, FARTHEST_AHEAD);
    let rows = rows(pool, "find a place in a queue", AHEAD_OF, &parameters).await?;
    rows.first().map(|row| codec::number(row, 0)).transpose()
}

pub(super) async fn head(source: impl SqliteExecutor<'_>) -> Result<Head> {
    let sql = "SELECT epoch, revision, compacted FROM meta";
    let row = one(source, "read where the log stands", sql).await?;
    codec::head(&row)
}

/// The newest migration that was run; `None` if there is no schema.
pub(super) async fn schema_version(pool: &SqlitePool) -> Result<Option<i64>> {
    let doing = "read which version the schema has";
    let table = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    if codec::int(&one(pool, doing, table).await?, 0)? == 0 {
        return Ok(None);
    }
    one(pool, doing, "SELECT max(version) FROM _sqlx_migrations WHERE success").await?.int(0)
}

pub(super) async fn providers(pool: &SqlitePool) -> Result<Vec<ProviderRow>> {
    rows(pool, "read providers", PROVIDERS, &()).await?.iter().map(codec::provider_row).collect()
}

pub(super) async fn totals(pool: &SqlitePool) -> Result<Totals> {
    let row = one(pool, "read totals", TOTALS).await?;
    codec::totals(&row)
}

pub(super) async fn workers(pool: &SqlitePool) -> Result<Vec<WorkerRow>> {
    let sql = "
        SELECT id, host, version, status, started_at, heartbeat_at, figures
        FROM workers
        ORDER BY started_at DESC, id DESC";
    rows(pool, "read workers", sql, &()).await?.iter().map(codec::worker).collect()
}

/// Runs a statement over a pool, or over the one connection that holds a snapshot.
pub(super) async fn rows(
    source: impl SqliteExecutor<'_>,
    doing: &'static str,
    sql: &'static str,
    parameter: &impl Serialize,
) -> Result<Vec<SqliteRow>> {
    let parameter = codec::json(parameter)?;
    let query = sqlx::query(sql).bind(parameter);
    query.fetch_all(source).instrument(span(doing)).await.map_err(statement(doing))
}

async fn one(
    source: impl SqliteExecutor<'_>,
    doing: &'static str,
    sql: &'static str,
) -> Result<SqliteRow> {
    sqlx::query(sql).fetch_one(source).instrument(span(doing)).await.map_err(statement(doing))
}

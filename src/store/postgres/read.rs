//! What is read beside the writers, on connections of their own.
//!
//! An execution is its specification with its log folded over it, so reading one takes no lock and
//! sees no half-made change. Its log is read before its result: whoever sees the end sees the
//! result too.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::readers::{Make, Readers, Source};
use super::rows::is_claimable;
use crate::domain::{Event, ExecutionId, ProviderName, Timestamp};
use crate::store::codec::{self, Columns as _, provider_columns, state_number};
use crate::store::{
    BackendError, EventQuery, FARTHEST_AHEAD, Head, History, ListQuery, Notice, Payload,
    ProviderRow, Totals, WorkerRow,
};

type Result<T> = std::result::Result<T, BackendError>;

const LOGS: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id = ANY ($1)
      AND kind = 0
    ORDER BY revision";

const SPECS_WITH_PAYLOAD: &str = "
    SELECT
        id, provider, request_id, created_at, input, input_exact, labels::text, options,
        (SELECT output FROM outputs WHERE outputs.id = executions.id)
    FROM executions
    WHERE id = ANY ($1)";

const SPECS_WITHOUT_PAYLOAD: &str = "
    SELECT
        id, provider, request_id, created_at, '{}', input_exact, labels::text, options, NULL::text
    FROM executions
    WHERE id = ANY ($1)";

// Each criterion is NULL where it does not apply. Newest first is by id: ids grow with time.
const LIST: &str = "
    SELECT id
    FROM executions
    WHERE ($1::uuid IS NULL OR id < $1)
      AND ($2::bigint IS NULL OR created_at >= $2)
      AND ($3::bigint IS NULL OR created_at < $3)
      AND ($4::text[] IS NULL OR provider = ANY ($4))
      AND ($5::smallint[] IS NULL
           OR (SELECT state FROM records WHERE records.id = executions.id) = ANY ($5))
      AND ($6::text IS NULL OR labels @> $6::jsonb)
      AND (NOT $7
           OR NOT EXISTS (SELECT 1 FROM executions AS later WHERE later.retry_of = executions.id))
    ORDER BY id DESC
    LIMIT $8";

const EVENTS_OF_ALL: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE revision > $1
      AND (kind <> 1 OR $2)
    ORDER BY revision
    LIMIT $3";

const EVENTS_OF_ONE: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id = $4
      AND revision > $1
      AND (kind = 0 OR $2)
    UNION ALL
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = (SELECT provider FROM executions WHERE id = $4)
      AND kind = 3
      AND revision > $1
    ORDER BY revision
    LIMIT $3";

// That something was claimed concerns only those who watch it, and they read what it says.
const NOTICES: &str = "
    SELECT
        revision, execution_id, provider,
        CASE WHEN kind = 1 OR starts_with(change, '{\"claimed\"') THEN NULL ELSE change END
    FROM events
    WHERE revision > $1
    ORDER BY revision
    LIMIT $2";

const GATE_AT: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = $1
      AND kind = 3
      AND revision <= $2
    ORDER BY revision DESC
    LIMIT 1";

const WAITING: &str = "
    SELECT name
    FROM providers
    WHERE EXISTS (SELECT 1 FROM records WHERE ready AND provider = name)";

const AHEAD_OF: &str = "
    SELECT
        (SELECT count(*)
         FROM (SELECT 1
               FROM records
               WHERE ready
                 AND provider = mine.provider
                 AND lane = mine.lane
                 AND interrupted > mine.interrupted
               LIMIT $2) AS counted)
        + (SELECT count(*)
           FROM (SELECT 1
                 FROM records
                 WHERE ready
                   AND provider = mine.provider
                   AND lane = mine.lane
                   AND interrupted = mine.interrupted
                   AND (rank, id) < (mine.rank, mine.id)
                 LIMIT $2) AS counted)
    FROM records AS mine
    WHERE id = $1
      AND ready";

const CLAIMABLE: &str = concat!("SELECT name FROM providers WHERE ", is_claimable!());

const LIMIT_CHANGES: &str = "
    SELECT revision, execution_id, provider, at, change
    FROM events
    WHERE execution_id IS NULL
      AND provider = $1
      AND kind = 2
      AND revision < $2
    ORDER BY revision DESC
    LIMIT $3";

const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    ",
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        (SELECT count(*) FROM records WHERE ready AND provider = name),
        (SELECT min(due_at) FROM records WHERE ready AND provider = name),
        coalesce(usage.input_tokens, 0),
        coalesce(usage.output_tokens, 0),
        coalesce(later.waiting, 0),
        CASE WHEN flow IS NULL THEN 0 ELSE (
            SELECT count(*) FROM records WHERE ready AND provider = name AND lane <> ''
        ) END
    FROM providers
    LEFT JOIN usage ON usage.provider = name
    LEFT JOIN (
        SELECT provider, count(*) AS waiting
        FROM records
        WHERE state = 0 AND NOT ready
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
        (SELECT sum(pg_total_relation_size(name::regclass))::bigint
         FROM unnest(ARRAY['meta', 'providers', 'executions', 'records', 'outputs', 'events',
                           'workers']) AS name)
    FROM meta";

const WORKERS: &str = "
    SELECT id, host, version, status, started_at, heartbeat_at, figures
    FROM workers
    ORDER BY started_at DESC, id DESC";

pub(super) async fn histories(
    readers: &Readers,
    ids: &[ExecutionId],
    payload: Payload,
) -> Result<Vec<History>> {
    let ids: Vec<_> = ids.iter().map(|id| Uuid::from(*id)).collect();
    let mut logs: HashMap<ExecutionId, Vec<Event>> = HashMap::new();
    let query = || sqlx::query(LOGS).bind(&ids);
    for row in readers.rows("read the log of executions", &query).await? {
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
    for row in readers.rows("read executions", &|| sqlx::query(sql).bind(&ids)).await? {
        let spec = codec::spec(&row)?;
        // One that was submitted after its log was read is not there yet.
        let Some(log) = logs.remove(&spec.id) else { continue };
        let output = row.text(8)?.map(Arc::from);
        histories.push(History { spec: Arc::new(spec), log, output });
    }
    Ok(histories)
}

pub(super) async fn list(readers: &Readers, query: &ListQuery) -> Result<Vec<ExecutionId>> {
    let names: Vec<_> = query.providers.iter().map(ProviderName::as_str).collect();
    let states: Vec<_> = query.states.iter().map(|state| state_number(*state)).collect();
    let labels = if query.labels.is_empty() { None } else { Some(codec::json(&query.labels)?) };
    let statement = || {
        sqlx::query(LIST)
            .bind(query.before.map(Uuid::from))
            .bind(query.created_after.map(Timestamp::as_micros))
            .bind(query.created_before.map(Timestamp::as_micros))
            .bind((!names.is_empty()).then_some(&names))
            .bind((!states.is_empty()).then_some(&states))
            .bind(labels.as_deref())
            .bind(query.not_retried)
            .bind(i64::from(query.limit))
    };
    let rows = readers.rows("list executions", &statement).await?;
    rows.iter().map(|row| codec::execution_id(row, 0)).collect()
}

pub(super) async fn events(mut source: Source<'_>, query: &EventQuery) -> Result<Vec<Event>> {
    let sql = if query.execution.is_some() { EVENTS_OF_ONE } else { EVENTS_OF_ALL };
    let statement = || {
        let all = sqlx::query(sql).bind(query.after).bind(query.output);
        let all = all.bind(i64::from(query.limit));
        match query.execution {
            Some(id) => all.bind(Uuid::from(id)),
            None => all,
        }
    };
    source.rows("read the log", &statement).await?.iter().map(codec::event).collect()
}

pub(super) async fn notices(readers: &Readers, after: i64, limit: u32) -> Result<Vec<Notice>> {
    let query = || sqlx::query(NOTICES).bind(after).bind(i64::from(limit));
    readers.rows("follow the log", &query).await?.iter().map(codec::notice).collect()
}

pub(super) async fn claimable(
    readers: &Readers,
    names: &[ProviderName],
) -> Result<Vec<ProviderName>> {
    let names: Vec<_> = names.iter().map(ProviderName::as_str).collect();
    let query = || sqlx::query(CLAIMABLE).bind(&names);
    let rows = readers.rows("look for work to claim", &query).await?;
    rows.iter().map(|row| codec::parse(row, 0)).collect()
}

pub(super) async fn gate_at(
    readers: &Readers,
    provider: &ProviderName,
    revision: i64,
) -> Result<Option<Event>> {
    let query = || sqlx::query(GATE_AT).bind(provider.as_str()).bind(revision);
    let rows = readers.rows("read a provider's gate", &query).await?;
    rows.first().map(codec::event).transpose()
}

pub(super) async fn limit_changes(
    readers: &Readers,
    provider: &ProviderName,
    before: i64,
    limit: u32,
) -> Result<Vec<Event>> {
    let limit = i64::from(limit);
    let query = || sqlx::query(LIMIT_CHANGES).bind(provider.as_str()).bind(before).bind(limit);
    let rows = readers.rows("read a provider's limits", &query).await?;
    rows.iter().map(codec::event).collect()
}

pub(super) async fn waiting(readers: &Readers) -> Result<Vec<ProviderName>> {
    let query = || sqlx::query(WAITING);
    let rows = readers.rows("look for providers with work", &query).await?;
    rows.iter().map(|row| codec::parse(row, 0)).collect()
}

pub(super) async fn ahead_of(readers: &Readers, id: ExecutionId) -> Result<Option<u64>> {
    let query = || sqlx::query(AHEAD_OF).bind(Uuid::from(id)).bind(i64::from(FARTHEST_AHEAD));
    let rows = readers.rows("find a place in a queue", &query).await?;
    rows.first().map(|row| codec::number(row, 0)).transpose()
}

pub(super) async fn head(source: Source<'_>) -> Result<Head> {
    let query = || sqlx::query("SELECT epoch, revision, compacted FROM meta");
    one(source, "read where the log stands", &query, codec::head).await
}

pub(super) async fn providers(readers: &Readers) -> Result<Vec<ProviderRow>> {
    let rows = readers.rows("read providers", &|| sqlx::query(PROVIDERS)).await?;
    rows.iter().map(codec::provider_row).collect()
}

pub(super) async fn totals(readers: &Readers) -> Result<Totals> {
    one(Source::Pool(readers), "read totals", &|| sqlx::query(TOTALS), codec::totals).await
}

pub(super) async fn workers(readers: &Readers) -> Result<Vec<WorkerRow>> {
    let rows = readers.rows("read workers", &|| sqlx::query(WORKERS)).await?;
    rows.iter().map(codec::worker).collect()
}

async fn one<T>(
    mut source: Source<'_>,
    doing: &'static str,
    query: Make<'_, '_>,
    read: fn(&sqlx::postgres::PgRow) -> Result<T>,
) -> Result<T> {
    let rows = source.rows(doing, query).await?;
    let row = rows.first().ok_or_else(|| codec::corrupt("the store", "meta is empty"))?;
    read(row)
}

//! The writer's statements: each takes all of its rows as one JSON parameter.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::OwnedMutexGuard;

use super::{rows, statement};
use crate::domain::{ExecutionId, ProviderName, ProviderRecord, Record, Spec, Timestamp, WorkerId};
use crate::store::codec::{self, Counts, provider_columns, record_columns, spec_columns};
use crate::store::{
    Appended, BackendError, Due, Load, Logged, NewExecution, Transaction, WorkerRow,
};

type Result<T> = std::result::Result<T, BackendError>;

/// Begins a transaction that holds the write lock from the start. What a transaction before left
/// open, because its task was dropped, is undone first.
pub(super) async fn begin(connection: &mut SqliteConnection) -> Result<()> {
    let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
    if begun.is_err() {
        // Fails when there is nothing to undo; the second BEGIN tells whether all is well.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
        let again = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
        again.map_err(statement("begin a transaction"))?;
    }
    Ok(())
}

/// A transaction on the writing connection. Dropped without a commit, it is undone by the next
/// [`begin`].
pub(super) struct SqliteTransaction {
    connection: OwnedMutexGuard<SqliteConnection>,
}

impl SqliteTransaction {
    pub(super) fn new(connection: OwnedMutexGuard<SqliteConnection>) -> Self {
        Self { connection }
    }

    async fn rows(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        rows: &impl Serialize,
    ) -> Result<Vec<SqliteRow>> {
        sqlx::query(sql)
            .bind(codec::json(rows)?)
            .fetch_all(&mut *self.connection)
            .await
            .map_err(statement(doing))
    }

    async fn write(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        rows: &[impl Serialize],
    ) -> Result<()> {
        for array in rows::json_arrays(rows) {
            let (_, array) = array?;
            let query = sqlx::query(sql).bind(array);
            query.execute(&mut *self.connection).await.map_err(statement(doing))?;
        }
        Ok(())
    }

    /// Records of each provider by a statement that takes a name and a number.
    async fn first_of(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        wanted: &[(ProviderName, u32)],
    ) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for wanted in wanted {
            for row in &self.rows(doing, sql, wanted).await? {
                records.push(codec::record(row)?);
            }
        }
        Ok(records)
    }
}

const RECORDS: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE id IN (SELECT value FROM json_each(?1))"
);

const RUNNING_ELSEWHERE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND owner IS NOT ?1 ->> 0"
);

const READY: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND provider = ?1 ->> 0
    ORDER BY interrupted DESC, priority DESC, due_at, id
    LIMIT ?1 ->> 1"
);

const CANCELLING: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND interrupted = 1
      AND cancel_requested_at IS NOT NULL
      AND provider = ?1 ->> 0
    ORDER BY id
    LIMIT ?1 ->> 1"
);

const UNMARKED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND wait = 0
      AND provider = ?1 ->> 0
    ORDER BY id
    LIMIT ?1 ->> 1"
);

const PROMOTABLE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 0
      AND ready = 0
      AND due_at <= ?1 ->> 0
    ORDER BY due_at
    LIMIT ?1 ->> 1"
);

const EXPIRED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE queue_deadline <= ?1 ->> 0
    ORDER BY queue_deadline
    LIMIT ?1 ->> 1"
);

const LOST: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND lease_expires_at <= ?1 ->> 0
    LIMIT ?1 ->> 1"
);

const NEXT_DUE: &str = "
    SELECT min(at)
    FROM (
        SELECT min(due_at) AS at FROM records WHERE state = 0 AND ready = 0
        UNION ALL
        SELECT min(queue_deadline) FROM records WHERE queue_deadline IS NOT NULL
        UNION ALL
        SELECT min(CASE WHEN paused = 1 THEN pause_until ELSE closed_until END) FROM providers
    )";

const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE name IN (SELECT value FROM json_each(?1))
    ORDER BY name"
);

const GATES_DUE: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE CASE WHEN paused = 1 THEN pause_until ELSE closed_until END <= ?1 ->> 0
    ORDER BY name"
);

const LOADS: &str = "
    SELECT
        name,
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready = 1 AND wait = 0 AND provider = name),
        coalesce(overriding_max, declared_max)
    FROM providers
    WHERE name IN (SELECT value FROM json_each(?1))";

const REQUESTS: &str = "
    SELECT request_id, id, request_hash
    FROM executions
    WHERE request_id IN (SELECT value FROM json_each(?1))";

const SPECS: &str = concat!(
    "SELECT ",
    spec_columns!(),
    " FROM executions
    WHERE id IN (SELECT value FROM json_each(?1))"
);

const INSERT_EXECUTIONS: &str = "
    INSERT INTO executions
        (id, provider, request_id, request_hash, created_at, input, input_exact, labels, options,
         retry_of)
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9
    FROM json_each(?1)";

// `WHERE true` tells the parser that ON belongs to the conflict clause.
const PUT_RECORDS: &str = concat!(
    "INSERT INTO records (",
    record_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14, value ->> '$[15][0]', value ->> '$[15][1]',
        value ->> '$[15][2]'
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (id) DO UPDATE SET
        state = excluded.state,
        ready = excluded.ready,
        wait = excluded.wait,
        interrupted = excluded.interrupted,
        due_at = excluded.due_at,
        queue_deadline = excluded.queue_deadline,
        token = excluded.token,
        owner = excluded.owner,
        lease_expires_at = excluded.lease_expires_at,
        attempts = excluded.attempts,
        charged = excluded.charged,
        crashes = excluded.crashes,
        cancel_requested_at = excluded.cancel_requested_at,
        handle = excluded.handle"
);

const PUT_OUTPUTS: &str = "
    INSERT INTO outputs (id, output)
    SELECT value ->> 0, value ->> 1
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (id) DO UPDATE SET output = excluded.output";

const CREATE_PROVIDERS: &str = concat!(
    "INSERT OR IGNORE INTO providers (",
    provider_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10
    FROM json_each(?1)"
);

const PUT_PROVIDERS: &str = concat!(
    "INSERT OR REPLACE INTO providers (",
    provider_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10
    FROM json_each(?1)"
);

const ADD_USAGE: &str = "
    INSERT INTO usage (provider, input_tokens, output_tokens)
    SELECT value ->> 0, value ->> 1, value ->> 2
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (provider) DO UPDATE SET
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens";

const PUT_WORKER: &str = "
    INSERT OR REPLACE INTO workers
        (id, host, version, status, started_at, heartbeat_at, figures)
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM json_each(?1)";

const FORGET_WORKERS: &str = "
    DELETE FROM workers
    WHERE heartbeat_at < (SELECT value FROM json_each(?1))";

const COUNT_UP: &str = "
    UPDATE meta SET
        revision = revision + (?1 ->> 0),
        submitted = submitted + (?1 ->> 1),
        succeeded = succeeded + (?1 ->> 2),
        failed = failed + (?1 ->> 3),
        cancelled = cancelled + (?1 ->> 4)
    RETURNING revision";

const APPEND: &str = "
    INSERT INTO events (revision, at, execution_id, provider, kind, change)
    SELECT
        ?2 + key, ?3, value ->> 0, value ->> 1, value ->> 2, value ->> 3
    FROM json_each(?1)";

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        let rows = self.rows("read records", RECORDS, &ids).await?;
        rows.iter().map(codec::record).collect()
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        let rows: Vec<_> = providers.iter().map(rows::provider_row).collect::<Result<_>>()?;
        self.write("add providers", CREATE_PROVIDERS, &rows).await
    }

    async fn lock_providers(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        let rows = self.rows("lock providers", PROVIDERS, &names).await?;
        rows.iter().map(codec::provider).collect()
    }

    async fn gates_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        let rows = self.rows("look for gates to be tried", GATES_DUE, &[now]).await?;
        rows.iter().map(codec::provider).collect()
    }

    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        let rows = self.rows("count running executions", LOADS, &names).await?;
        rows.iter().map(|row| Ok((codec::parse(row, 0)?, codec::load(row)?))).collect()
    }

    async fn ready(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        self.first_of("pick ready executions", READY, wanted).await
    }

    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        self.first_of("pick executions to be stopped", CANCELLING, wanted).await
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for name in providers {
            let wanted = (name, limit);
            let rows = self.rows("look for unmarked records", UNMARKED, &wanted).await?;
            for row in &rows {
                records.push(codec::record(row)?);
            }
        }
        Ok(records)
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        let promotable = self.rows("look for due records", PROMOTABLE, &(now, limit)).await?;
        let expired = self.rows("look for expired records", EXPIRED, &(now, limit)).await?;
        let lost = self.rows("look for lost leases", LOST, &(reclaim, limit)).await?;
        let read = |rows: Vec<SqliteRow>| rows.iter().map(codec::record).collect::<Result<_>>();
        Ok(Due { promotable: read(promotable)?, expired: read(expired)?, lost: read(lost)? })
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        let rows = self.rows("look for the next due time", NEXT_DUE, &()).await?;
        rows.first().map_or(Ok(None), |row| codec::time(row, 0))
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        let rows = self.rows("look for abandoned work", RUNNING_ELSEWHERE, &[worker]).await?;
        rows.iter().map(codec::record).collect()
    }

    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>> {
        let rows = self.rows("look up request ids", REQUESTS, &request_ids).await?;
        rows.iter().map(codec::request).collect()
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        let rows = self.rows("read executions", SPECS, &ids).await?;
        rows.iter().map(codec::spec).collect()
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        let rows = executions.iter().map(|(new, _)| rows::execution_row(new));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        self.write("insert executions", INSERT_EXECUTIONS, &rows).await?;
        let records: Vec<_> = executions.iter().map(|(_, record)| *record).collect();
        self.put_records(&records).await
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        let rows: Vec<_> = records.iter().map(|record| rows::record_row(record)).collect();
        self.write("write records", PUT_RECORDS, &rows).await
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        self.write("write results", PUT_OUTPUTS, outputs).await
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        let rows: Vec<_> =
            providers.iter().map(|&record| rows::provider_row(record)).collect::<Result<_>>()?;
        self.write("write providers", PUT_PROVIDERS, &rows).await
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        self.write("write a worker", PUT_WORKER, &[rows::worker_row(worker)?]).await?;
        self.write("forget workers", FORGET_WORKERS, &[forget]).await
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let Counts { entries, submitted, succeeded, failed, cancelled } = Counts::of(changes);
        let counts = [entries, submitted, succeeded, failed, cancelled];
        let usage: Vec<_> = codec::usage_of(changes)
            .into_iter()
            .map(|(name, usage)| (name.clone(), usage.input_tokens, usage.output_tokens))
            .collect();
        self.write("add up usage", ADD_USAGE, &usage).await?;
        let rows = self.rows("count up the revision", COUNT_UP, &counts).await?;
        let row = rows.first().ok_or_else(|| codec::corrupt("the revision", "meta is empty"))?;
        let last: i64 = codec::int(row, 0)?;
        let first = last - entries + 1;
        let entries = changes.iter().map(rows::event_row).collect::<Result<Vec<_>>>()?;
        let mut next = first;
        for array in rows::json_arrays(&entries) {
            let (count, array) = array?;
            let query = sqlx::query(APPEND).bind(array).bind(next).bind(at.as_micros());
            query.execute(&mut *self.connection).await.map_err(statement("append to the log"))?;
            next += i64::try_from(count).unwrap_or(i64::MAX);
        }
        Ok(Appended { first, at })
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        sqlx::raw_sql("COMMIT")
            .execute(&mut *self.connection)
            .await
            .map_err(statement("commit"))
            .map(drop)
    }
}

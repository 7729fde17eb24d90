//! The writers' statements: each takes all of its rows as one array a column.
//!
//! What must stay true: rows are locked in the order providers by name, executions by id, the counter
//! last; whoever looks for rows by anything but their names takes only those that nobody holds, so that
//! no two transactions can wait for each other. What a claim counts it counts in a statement of its
//! own, after the lock: in READ COMMITTED each statement sees what was committed before it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::connect::{Address, ClockSource, within};
use super::outcome::{self, Mark};
use super::rows::{EventColumns, ExecutionColumns, ProviderColumns, RecordColumns, is_claimable};
use crate::domain::{ExecutionId, ProviderName, ProviderRecord, Record, Spec, Timestamp, WorkerId};
use crate::store::codec::{self, Counts, provider_columns, record_columns};
use crate::store::{
    Appended, BackendError, Due, Load, Logged, NewExecution, Transaction, WorkerRow,
};

type Result<T> = std::result::Result<T, BackendError>;

/// A transaction on one lane's connection. Dropped without a commit, it takes the connection with it,
/// and the server undoes what was done.
pub(super) struct PgTransaction {
    /// Where the connection goes back to.
    lane: OwnedMutexGuard<Option<PgConnection>>,
    connection: PgConnection,
    address: Arc<Address>,
    clock: ClockSource,
    /// How long an answer may take.
    patience: Duration,
    now: Timestamp,
    /// Which transaction this is, once it wrote to the log.
    mark: Option<Mark>,
}

impl PgTransaction {
    /// Begins on the lane's connection, making one if there is none or it is broken.
    pub(super) async fn begin(
        mut lane: OwnedMutexGuard<Option<PgConnection>>,
        address: Arc<Address>,
        clock: ClockSource,
        patience: Duration,
    ) -> Result<Self> {
        if let Some(mut connection) = lane.take()
            && let Ok(now) = begin(&mut connection, &address, address.patience.short_answer).await
        {
            return Ok(Self { lane, connection, address, clock, patience, now, mark: None });
        }
        // The connection was lost while nothing was under way: the next one may be sound.
        let mut connection = address.connect().await?;
        let now = begin(&mut connection, &address, address.patience.answer).await?;
        Ok(Self { lane, connection, address, clock, patience, now, mark: None })
    }

    async fn rows(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let query = self.address.prepared(query);
        within(self.patience, doing, query.fetch_all(&mut self.connection)).await
    }

    async fn records_of(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<Record>> {
        self.rows(doing, query).await?.iter().map(codec::record).collect()
    }

    async fn providers_of(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<ProviderRecord>> {
        self.rows(doing, query).await?.iter().map(codec::provider).collect()
    }

    async fn write(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<()> {
        let query = self.address.prepared(query);
        within(self.patience, doing, query.execute(&mut self.connection)).await.map(drop)
    }
}

/// Begins a transaction; returns the time it began.
async fn begin(
    connection: &mut PgConnection,
    address: &Address,
    patience: Duration,
) -> Result<Timestamp> {
    let begin = sqlx::raw_sql(address.begin()).fetch_one(connection);
    let row = within(patience, "begin a transaction", begin).await?;
    codec::int(&row, 0).map(Timestamp::from_micros)
}

const RECORDS: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE id = ANY ($1)
    ORDER BY id
    FOR UPDATE"
);

const RUNNING_ELSEWHERE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND owner IS DISTINCT FROM $1
    FOR UPDATE SKIP LOCKED"
);

// One pick a provider, each straight from the index in the order of the claim. Ids are picked by a
// statement of their own: an UPDATE over a subquery leaves the planner to guess how many it picks.
const READY: &str = concat!(
    "SELECT picked.*
    FROM unnest($1::text[], $2::bigint[]) AS wanted (name, most)
    CROSS JOIN LATERAL (
        SELECT ",
    record_columns!(),
    "
        FROM records
        WHERE ready
          AND provider = wanted.name
        ORDER BY interrupted DESC, priority DESC, due_at, id
        LIMIT wanted.most
        FOR UPDATE SKIP LOCKED
    ) AS picked"
);

const UNMARKED: &str = concat!(
    "SELECT picked.*
    FROM unnest($1::text[]) AS wanted (name)
    CROSS JOIN LATERAL (
        SELECT ",
    record_columns!(),
    "
        FROM records
        WHERE ready
          AND wait = 0
          AND provider = wanted.name
        ORDER BY id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS picked"
);

const PROMOTABLE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 0
      AND NOT ready
      AND due_at <= $1
    ORDER BY due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

const EXPIRED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE queue_deadline <= $1
    ORDER BY queue_deadline
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

const LOST: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND lease_expires_at <= $1
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

// min() of an indexed column where the index is partial is not always answered from the index; the
// first row in its order is.
const NEXT_DUE: &str = "
    SELECT min(at)
    FROM (
        (SELECT due_at AS at
         FROM records
         WHERE state = 0 AND NOT ready
         ORDER BY due_at
         LIMIT 1)
        UNION ALL
        (SELECT queue_deadline
         FROM records
         WHERE queue_deadline IS NOT NULL
         ORDER BY queue_deadline
         LIMIT 1)
        UNION ALL
        SELECT min(pause_until) FROM providers WHERE paused
    ) AS next";

const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE name = ANY ($1)
    ORDER BY name
    FOR UPDATE"
);

// What is looked at before the lock only keeps replicas from a provider that has nothing for any of
// them; what a claim goes by is counted after it. A provider that another transaction holds is passed
// over, so that no provider waits for another's lock; whoever claims looks at it again a moment later.
const CLAIMABLE: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers WHERE ",
    is_claimable!(),
    " ORDER BY name FOR UPDATE SKIP LOCKED"
);

const PAUSES_OVER: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE paused
      AND pause_until <= $1
    ORDER BY name
    FOR UPDATE SKIP LOCKED"
);

const LOADS: &str = "
    SELECT
        name,
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready AND wait = 0 AND provider = name),
        coalesce(overriding_max, declared_max)
    FROM providers
    WHERE name = ANY ($1)";

const REQUESTS: &str = "
    SELECT request_id, id, request_hash
    FROM executions
    WHERE request_id = ANY ($1)";

const SPECS: &str = "
    SELECT id, provider, request_id, created_at, input, input_exact, labels::text, options
    FROM executions
    WHERE id = ANY ($1)";

// In the order of the request ids, because two replicas may insert the same ones: who comes second
// waits for the first, and neither for the other.
const INSERT: &str = concat!(
    "WITH added AS (
        INSERT INTO executions
            (id, provider, request_id, request_hash, created_at, input, input_exact, labels, options,
             retry_of)
        SELECT
            id, provider, request_id, request_hash, created_at, input, input_exact, labels::jsonb,
            options, retry_of
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
                    $7::boolean[], $8::text[], $9::text[], $10::uuid[])
            AS new (id, provider, request_id, request_hash, created_at, input, input_exact, labels,
                    options, retry_of)
        ORDER BY request_id
    )
    INSERT INTO records (",
    record_columns!(),
    ") SELECT *
    FROM unnest($1::uuid[], $2::text[], $11::smallint[], $12::boolean[], $13::smallint[],
                $14::boolean[], $15::integer[], $16::bigint[], $17::bigint[], $18::bigint[],
                $19::uuid[], $20::bigint[], $21::integer[], $22::integer[], $23::integer[],
                $24::bigint[])"
);

const PUT_RECORDS: &str = "
    UPDATE records SET
        state = new.state,
        ready = new.ready,
        wait = new.wait,
        interrupted = new.interrupted,
        due_at = new.due_at,
        queue_deadline = new.queue_deadline,
        token = new.token,
        owner = new.owner,
        lease_expires_at = new.lease_expires_at,
        attempts = new.attempts,
        charged = new.charged,
        crashes = new.crashes,
        cancel_requested_at = new.cancel_requested_at
    FROM unnest($1::uuid[], $2::smallint[], $3::boolean[], $4::smallint[], $5::boolean[],
                $6::bigint[], $7::bigint[], $8::bigint[], $9::uuid[], $10::bigint[],
                $11::integer[], $12::integer[], $13::integer[], $14::bigint[])
        AS new (id, state, ready, wait, interrupted, due_at, queue_deadline, token, owner,
                lease_expires_at, attempts, charged, crashes, cancel_requested_at)
    WHERE records.id = new.id";

const PUT_OUTPUTS: &str = "
    INSERT INTO outputs (id, output)
    SELECT * FROM unnest($1::uuid[], $2::text[])
    ON CONFLICT (id) DO UPDATE SET output = excluded.output";

const CREATE_PROVIDERS: &str = concat!(
    "INSERT INTO providers (",
    provider_columns!(),
    ") SELECT *
    FROM unnest($1::text[], $2::integer[], $3::integer[], $4::boolean[], $5::text[], $6::bigint[],
                $7::bigint[], $8::bigint[]) AS new (name)
    ORDER BY name
    ON CONFLICT (name) DO NOTHING"
);

const PUT_PROVIDERS: &str = "
    UPDATE providers SET
        declared_max = new.declared_max,
        overriding_max = new.overriding_max,
        paused = new.paused,
        pause_reason = new.pause_reason,
        pause_until = new.pause_until,
        limits_revision = new.limits_revision,
        gate_revision = new.gate_revision
    FROM unnest($1::text[], $2::integer[], $3::integer[], $4::boolean[], $5::text[], $6::bigint[],
                $7::bigint[], $8::bigint[])
        AS new (name, declared_max, overriding_max, paused, pause_reason, pause_until,
                limits_revision, gate_revision)
    WHERE providers.name = new.name";

const PUT_WORKER: &str = "
    INSERT INTO workers (id, host, version, status, started_at, heartbeat_at, figures)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET
        status = excluded.status,
        heartbeat_at = excluded.heartbeat_at,
        figures = excluded.figures";

const FORGET_WORKERS: &str = "
    DELETE FROM workers
    WHERE id IN (SELECT id FROM workers WHERE heartbeat_at < $1 FOR UPDATE SKIP LOCKED)";

// The counter is locked from here to the commit, so that revisions are dense and in the order of the
// commits. The time is taken under that lock: it never runs backwards along the log.
const APPEND: &str = "
    WITH counted AS (
        UPDATE meta SET
            revision = revision + $1,
            submitted = submitted + $2,
            succeeded = succeeded + $3,
            failed = failed + $4,
            cancelled = cancelled + $5
        RETURNING
            revision - $1 AS before,
            coalesce($6, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS at
    ), added AS (
        INSERT INTO events (revision, at, execution_id, provider, kind, change)
        SELECT before + place, at, execution_id, provider, kind, change
        FROM counted
        CROSS JOIN unnest($7::uuid[], $8::text[], $9::smallint[], $10::text[])
            WITH ORDINALITY AS entry (execution_id, provider, kind, change, place)
    )
    SELECT before + 1, at, pg_current_xact_id()::text
    FROM counted";

fn uuids(ids: &[ExecutionId]) -> Vec<Uuid> {
    ids.iter().map(|id| Uuid::from(*id)).collect()
}

fn names(names: &[ProviderName]) -> Vec<&str> {
    names.iter().map(ProviderName::as_str).collect()
}

fn bind_providers<'q>(
    sql: &'static str,
    columns: ProviderColumns<'q>,
) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql)
        .bind(columns.name)
        .bind(columns.declared_max)
        .bind(columns.overriding_max)
        .bind(columns.paused)
        .bind(columns.pause_reason)
        .bind(columns.pause_until)
        .bind(columns.limits_revision)
        .bind(columns.gate_revision)
}

#[async_trait]
impl Transaction for PgTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        Ok((self.clock == ClockSource::Database).then_some(self.now))
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        self.records_of("read records", sqlx::query(RECORDS).bind(uuids(ids))).await
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        let query = bind_providers(CREATE_PROVIDERS, providers.iter().collect());
        self.write("add providers", query).await
    }

    async fn lock_providers(&mut self, wanted: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        self.providers_of("lock providers", sqlx::query(PROVIDERS).bind(names(wanted))).await
    }

    async fn lock_claimable(&mut self, wanted: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        let query = sqlx::query(CLAIMABLE).bind(names(wanted));
        self.providers_of("lock providers to claim from", query).await
    }

    async fn pauses_over(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        let query = sqlx::query(PAUSES_OVER).bind(now.as_micros());
        self.providers_of("look for pauses that are over", query).await
    }

    async fn loads(&mut self, wanted: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        let query = sqlx::query(LOADS).bind(names(wanted));
        let rows = self.rows("count running executions", query).await?;
        rows.iter().map(|row| Ok((codec::parse(row, 0)?, codec::load(row)?))).collect()
    }

    async fn ready(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        let (names, most): (Vec<_>, Vec<_>) =
            wanted.iter().map(|(name, most)| (name.as_str(), i64::from(*most))).unzip();
        let query = sqlx::query(READY).bind(names).bind(most);
        self.records_of("pick ready executions", query).await
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        let query = sqlx::query(UNMARKED).bind(names(providers)).bind(i64::from(limit));
        self.records_of("look for unmarked records", query).await
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        let query = |sql: &'static str, time: Timestamp| {
            sqlx::query(sql).bind(time.as_micros()).bind(i64::from(limit))
        };
        Ok(Due {
            promotable: self.records_of("look for due records", query(PROMOTABLE, now)).await?,
            expired: self.records_of("look for expired records", query(EXPIRED, now)).await?,
            lost: self.records_of("look for lost leases", query(LOST, reclaim)).await?,
        })
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        let rows = self.rows("look for the next due time", sqlx::query(NEXT_DUE)).await?;
        rows.first().map_or(Ok(None), |row| codec::time(row, 0))
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        let query = sqlx::query(RUNNING_ELSEWHERE).bind(Uuid::from(worker));
        self.records_of("look for abandoned work", query).await
    }

    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>> {
        let query = sqlx::query(REQUESTS).bind(request_ids);
        self.rows("look up request ids", query).await?.iter().map(codec::request).collect()
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        let query = sqlx::query(SPECS).bind(uuids(ids));
        self.rows("read executions", query).await?.iter().map(codec::spec).collect()
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        let new = ExecutionColumns::of(executions)?;
        let records: RecordColumns = executions.iter().map(|(_, record)| *record).collect();
        let query = sqlx::query(INSERT)
            .bind(records.id)
            .bind(new.provider)
            .bind(new.request_id)
            .bind(new.request_hash)
            .bind(new.created_at)
            .bind(new.input)
            .bind(new.input_exact)
            .bind(new.labels)
            .bind(new.options)
            .bind(new.retry_of)
            .bind(records.state)
            .bind(records.ready)
            .bind(records.wait)
            .bind(records.interrupted)
            .bind(new.priority)
            .bind(records.due_at)
            .bind(records.queue_deadline)
            .bind(records.token)
            .bind(records.owner)
            .bind(records.lease_expires_at)
            .bind(records.attempts)
            .bind(records.charged)
            .bind(records.crashes)
            .bind(records.cancel_requested_at);
        self.write("insert executions", query).await
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        let columns: RecordColumns = records.iter().copied().collect();
        let query = sqlx::query(PUT_RECORDS)
            .bind(columns.id)
            .bind(columns.state)
            .bind(columns.ready)
            .bind(columns.wait)
            .bind(columns.interrupted)
            .bind(columns.due_at)
            .bind(columns.queue_deadline)
            .bind(columns.token)
            .bind(columns.owner)
            .bind(columns.lease_expires_at)
            .bind(columns.attempts)
            .bind(columns.charged)
            .bind(columns.crashes)
            .bind(columns.cancel_requested_at);
        self.write("write records", query).await
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        let (ids, texts): (Vec<_>, Vec<_>) =
            outputs.iter().map(|(id, output)| (Uuid::from(*id), *output)).unzip();
        self.write("write results", sqlx::query(PUT_OUTPUTS).bind(ids).bind(texts)).await
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        let query = bind_providers(PUT_PROVIDERS, providers.iter().copied().collect());
        self.write("write providers", query).await
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        let query = sqlx::query(PUT_WORKER)
            .bind(Uuid::from(worker.id))
            .bind(&worker.host)
            .bind(&worker.version)
            .bind(worker.status.as_str())
            .bind(worker.started_at.as_micros())
            .bind(worker.heartbeat_at.as_micros())
            .bind(codec::json(&worker.figures)?);
        self.write("write a worker", query).await?;
        let query = sqlx::query(FORGET_WORKERS).bind(forget.as_micros());
        self.write("forget workers", query).await
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let counts = Counts::of(changes);
        let entries = EventColumns::of(changes)?;
        let at = (self.clock == ClockSource::Injected).then(|| at.as_micros());
        let query = sqlx::query(APPEND)
            .bind(counts.entries)
            .bind(counts.submitted)
            .bind(counts.succeeded)
            .bind(counts.failed)
            .bind(counts.cancelled)
            .bind(at)
            .bind(entries.execution)
            .bind(entries.provider)
            .bind(entries.kind)
            .bind(entries.change);
        let rows = self.rows("append to the log", query).await?;
        let row = rows.first().ok_or_else(|| codec::corrupt("the revision", "meta is empty"))?;
        let (first, at) = (codec::int(row, 0)?, codec::int(row, 1)?);
        let number = codec::text(row, 2)?.to_owned();
        self.mark = Some(Mark { number, revision: first, at });
        Ok(Appended { first, at: Timestamp::from_micros(at) })
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let Self { mut lane, mut connection, address, mark, .. } = *self;
        let commit = sqlx::raw_sql("COMMIT").execute(&mut connection);
        match (address.answer("commit", commit).await, mark) {
            (Ok(_), _) => {
                *lane = Some(connection);
                Ok(())
            }
            (Err(error), Some(mark)) => {
                drop(connection);
                outcome::settle(&address, &mark, error).await
            }
            // Nothing was logged: whoever runs it again does no harm.
            (Err(error), None) => Err(error),
        }
    }
}

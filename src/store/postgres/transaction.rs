//! A writer's transaction: on the connection of its lane, its statements one after the other, and its
//! commit, whose outcome is found out where the answer is lost.

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
use super::rows::{EventColumns, ExecutionColumns, ProviderColumns, RecordColumns};
use super::statements as sql;
use crate::domain::{ExecutionId, ProviderName, ProviderRecord, Record, Spec, Timestamp, WorkerId};
use crate::store::codec::{self, Counts};
use crate::store::{
    Appended, BackendError, Due, Load, Logged, NewExecution, Pick, Transaction, WorkerRow,
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
        .bind(columns.shortage)
        .bind(columns.health)
        .bind(columns.closed_until)
        .bind(columns.in_force)
        .bind(columns.limits)
        .bind(columns.due_at)
        .bind(columns.flow)
}

#[async_trait]
impl Transaction for PgTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        Ok((self.clock == ClockSource::Database).then_some(self.now))
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        self.records_of("read records", sqlx::query(sql::RECORDS).bind(uuids(ids))).await
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        let query = bind_providers(sql::CREATE_PROVIDERS, ProviderColumns::of(providers)?);
        self.write("add providers", query).await
    }

    async fn lock_providers(&mut self, wanted: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        self.providers_of("lock providers", sqlx::query(sql::PROVIDERS).bind(names(wanted))).await
    }

    async fn lock_claimable(&mut self, wanted: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        let query = sqlx::query(sql::CLAIMABLE).bind(names(wanted));
        self.providers_of("lock providers to claim from", query).await
    }

    async fn providers_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        let query = sqlx::query(sql::PROVIDERS_DUE).bind(now.as_micros());
        self.providers_of("look for due providers", query).await
    }

    async fn loads(&mut self, wanted: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        let query = sqlx::query(sql::LOADS).bind(names(wanted));
        let rows = self.rows("count running executions", query).await?;
        rows.iter().map(|row| Ok((codec::parse(row, 0)?, codec::load(row)?))).collect()
    }

    async fn pending(&mut self, provider: &ProviderName, most: u32) -> Result<u64> {
        let query = sqlx::query(sql::PENDING).bind(provider.as_str()).bind(i64::from(most));
        let rows = self.rows("count pending executions", query).await?;
        rows.first().map_or(Ok(0), |row| codec::number(row, 0))
    }

    async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>> {
        let names: Vec<_> = wanted.iter().map(|pick| pick.provider.as_str()).collect();
        let lanes: Vec<_> = wanted.iter().map(|pick| pick.lane.as_str()).collect();
        let most: Vec<_> = wanted.iter().map(|pick| i64::from(pick.most)).collect();
        let query = sqlx::query(sql::READY).bind(names).bind(lanes).bind(most);
        self.records_of("pick ready executions", query).await
    }

    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        let (names, most): (Vec<_>, Vec<_>) =
            wanted.iter().map(|(name, most)| (name.as_str(), i64::from(*most))).unzip();
        let query = sqlx::query(sql::CANCELLING).bind(names).bind(most);
        self.records_of("pick executions to be stopped", query).await
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        let query = sqlx::query(sql::UNMARKED).bind(names(providers)).bind(i64::from(limit));
        self.records_of("look for unmarked records", query).await
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        let query = |sql: &'static str, time: Timestamp| {
            sqlx::query(sql).bind(time.as_micros()).bind(i64::from(limit))
        };
        Ok(Due {
            promotable: self
                .records_of("look for due records", query(sql::PROMOTABLE, now))
                .await?,
            expired: self.records_of("look for expired records", query(sql::EXPIRED, now)).await?,
            lost: self.records_of("look for lost leases", query(sql::LOST, reclaim)).await?,
        })
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        let rows = self.rows("look for the next due time", sqlx::query(sql::NEXT_DUE)).await?;
        rows.first().map_or(Ok(None), |row| codec::time(row, 0))
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        let query = sqlx::query(sql::RUNNING_ELSEWHERE).bind(Uuid::from(worker));
        self.records_of("look for abandoned work", query).await
    }

    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>> {
        let query = sqlx::query(sql::REQUESTS).bind(request_ids);
        self.rows("look up request ids", query).await?.iter().map(codec::request).collect()
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        let query = sqlx::query(sql::SPECS).bind(uuids(ids));
        self.rows("read executions", query).await?.iter().map(codec::spec).collect()
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        let new = ExecutionColumns::of(executions)?;
        let records: RecordColumns = executions.iter().map(|(_, record)| *record).collect();
        let query = sqlx::query(sql::INSERT)
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
            .bind(records.cancel_requested_at)
            .bind(records.handle)
            .bind(new.on_lost)
            .bind(records.rank)
            .bind(records.lane)
            .bind(new.demand);
        self.write("insert executions", query).await
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        let columns: RecordColumns = records.iter().copied().collect();
        let query = sqlx::query(sql::PUT_RECORDS)
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
            .bind(columns.cancel_requested_at)
            .bind(columns.handle)
            .bind(columns.rank)
            .bind(columns.lane);
        self.write("write records", query).await
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        let (ids, texts): (Vec<_>, Vec<_>) =
            outputs.iter().map(|(id, output)| (Uuid::from(*id), *output)).unzip();
        self.write("write results", sqlx::query(sql::PUT_OUTPUTS).bind(ids).bind(texts)).await
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        let query =
            bind_providers(sql::PUT_PROVIDERS, ProviderColumns::of(providers.iter().copied())?);
        self.write("write providers", query).await
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        let query = sqlx::query(sql::PUT_WORKER)
            .bind(Uuid::from(worker.id))
            .bind(&worker.host)
            .bind(&worker.version)
            .bind(worker.status.as_str())
            .bind(worker.started_at.as_micros())
            .bind(worker.heartbeat_at.as_micros())
            .bind(codec::json(&worker.figures)?);
        self.write("write a worker", query).await?;
        let query = sqlx::query(sql::FORGET_WORKERS).bind(forget.as_micros());
        self.write("forget workers", query).await
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let counts = Counts::of(changes);
        let usage = codec::usage_of(changes);
        if !usage.is_empty() {
            let read: Vec<_> = usage.values().map(|usage| usage.input_tokens).collect();
            let written: Vec<_> = usage.values().map(|usage| usage.output_tokens).collect();
            let names: Vec<_> = usage.keys().map(|name| name.as_str()).collect();
            let query = sqlx::query(sql::ADD_USAGE).bind(names).bind(read).bind(written);
            self.write("add up usage", query).await?;
        }
        let entries = EventColumns::of(changes)?;
        let at = (self.clock == ClockSource::Injected).then(|| at.as_micros());
        let query = sqlx::query(sql::APPEND)
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

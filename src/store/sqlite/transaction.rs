//! The writer's transaction.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument;

use super::{rows, span, statement, statements as sql};
use crate::domain::{ExecutionId, ProviderName, ProviderRecord, Record, Spec, Timestamp, WorkerId};
use crate::store::codec::{self, Counts};
use crate::store::{
    Appended, BackendError, Due, Load, Logged, NewExecution, Pick, Transaction, WorkerRow,
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
            .instrument(span(doing))
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
            let done = query.execute(&mut *self.connection).instrument(span(doing)).await;
            done.map_err(statement(doing))?;
        }
        Ok(())
    }

    /// Records by a statement that takes one of these at a time.
    async fn first_of(
        &mut self,
        doing: &'static str,
        sql: &'static str,
        wanted: &[impl Serialize],
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

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        let rows = self.rows("read records", sql::RECORDS, &ids).await?;
        rows.iter().map(codec::record).collect()
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        let rows: Vec<_> = providers.iter().map(rows::provider_row).collect::<Result<_>>()?;
        self.write("add providers", sql::CREATE_PROVIDERS, &rows).await
    }

    async fn lock_providers(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        let rows = self.rows("lock providers", sql::PROVIDERS, &names).await?;
        rows.iter().map(codec::provider).collect()
    }

    async fn providers_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        let rows = self.rows("look for due providers", sql::PROVIDERS_DUE, &[now]).await?;
        rows.iter().map(codec::provider).collect()
    }

    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        let rows = self.rows("count running executions", sql::LOADS, &names).await?;
        rows.iter().map(|row| Ok((codec::parse(row, 0)?, codec::load(row)?))).collect()
    }

    async fn pending(&mut self, provider: &ProviderName, most: u32) -> Result<u64> {
        let rows = self.rows("count pending", sql::PENDING, &(provider, most)).await?;
        rows.first().map_or(Ok(0), |row| codec::number(row, 0))
    }

    async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>> {
        let wanted: Vec<_> = wanted.iter().map(|it| (&it.provider, &it.lane, it.most)).collect();
        let wanted = &wanted;
        self.first_of("pick ready executions", sql::READY, wanted).await
    }

    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        self.first_of("pick executions to be stopped", sql::CANCELLING, wanted).await
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for name in providers {
            let wanted = (name, limit);
            let rows = self.rows("look for unmarked records", sql::UNMARKED, &wanted).await?;
            for row in &rows {
                records.push(codec::record(row)?);
            }
        }
        Ok(records)
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        let promotable = self.rows("look for due records", sql::PROMOTABLE, &(now, limit)).await?;
        let expired = self.rows("look for expired records", sql::EXPIRED, &(now, limit)).await?;
        let lost = self.rows("look for lost leases", sql::LOST, &(reclaim, limit)).await?;
        let read = |rows: Vec<SqliteRow>| rows.iter().map(codec::record).collect::<Result<_>>();
        Ok(Due { promotable: read(promotable)?, expired: read(expired)?, lost: read(lost)? })
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        let rows = self.rows("look for the next due time", sql::NEXT_DUE, &()).await?;
        rows.first().map_or(Ok(None), |row| codec::time(row, 0))
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        let rows = self.rows("look for abandoned work", sql::RUNNING_ELSEWHERE, &[worker]).await?;
        rows.iter().map(codec::record).collect()
    }

    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>> {
        let rows = self.rows("look up request ids", sql::REQUESTS, &request_ids).await?;
        rows.iter().map(codec::request).collect()
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        let rows = self.rows("read executions", sql::SPECS, &ids).await?;
        rows.iter().map(codec::spec).collect()
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        let rows = executions.iter().map(|(new, _)| rows::execution_row(new));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        self.write("insert executions", sql::INSERT_EXECUTIONS, &rows).await?;
        let records: Vec<_> = executions.iter().map(|(_, record)| *record).collect();
        self.put_records(&records).await
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        let rows: Vec<_> = records.iter().map(|record| rows::record_row(record)).collect();
        self.write("write records", sql::PUT_RECORDS, &rows).await
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        self.write("write results", sql::PUT_OUTPUTS, outputs).await
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        let rows: Vec<_> =
            providers.iter().map(|&record| rows::provider_row(record)).collect::<Result<_>>()?;
        self.write("write providers", sql::PUT_PROVIDERS, &rows).await
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        self.write("write a worker", sql::PUT_WORKER, &[rows::worker_row(worker)?]).await?;
        self.write("forget workers", sql::FORGET_WORKERS, &[forget]).await
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let Counts { entries, submitted, succeeded, failed, cancelled } = Counts::of(changes);
        let counts = [entries, submitted, succeeded, failed, cancelled];
        let usage: Vec<_> = codec::usage_of(changes)
            .into_iter()
            .map(|(name, usage)| (name.clone(), usage.input_tokens, usage.output_tokens))
            .collect();
        self.write("add up usage", sql::ADD_USAGE, &usage).await?;
        let rows = self.rows("count up the revision", sql::COUNT_UP, &counts).await?;
        let row = rows.first().ok_or_else(|| codec::corrupt("the revision", "meta is empty"))?;
        let last: i64 = codec::int(row, 0)?;
        let first = last - entries + 1;
        let entries = changes.iter().map(rows::event_row).collect::<Result<Vec<_>>>()?;
        let mut next = first;
        for array in rows::json_arrays(&entries) {
            let (count, array) = array?;
            let query = sqlx::query(sql::APPEND).bind(array).bind(next).bind(at.as_micros());
            let doing = "append to the log";
            let done = query.execute(&mut *self.connection).instrument(span(doing)).await;
            done.map_err(statement(doing))?;
            next += i64::try_from(count).unwrap_or(i64::MAX);
        }
        Ok(Appended { first, at })
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        sqlx::raw_sql("COMMIT")
            .execute(&mut *self.connection)
            .instrument(span("commit"))
            .await
            .map_err(statement("commit"))
            .map(drop)
    }
}

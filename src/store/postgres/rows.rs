//! Rows of PostgreSQL: what it gives, and what its statements take, which is an array a column.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::domain::{Handle, ProviderRecord, Record, Timestamp};
use crate::store::codec::{
    Columns, Options, corrupt, demand, flow, health, json, kind_number, limits, on_lost_number,
    state_number, wait_number,
};
use crate::store::{BackendError, Logged, NewExecution};

type Result<T> = std::result::Result<T, BackendError>;

impl Columns for PgRow {
    fn int(&self, column: usize) -> Result<Option<i64>> {
        // Unchecked: the decoder takes integers of any width.
        self.try_get_unchecked(column).map_err(unreadable)
    }

    fn flag(&self, column: usize) -> Result<bool> {
        self.try_get(column).map_err(unreadable)
    }

    fn text(&self, column: usize) -> Result<Option<&str>> {
        self.try_get(column).map_err(unreadable)
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>> {
        self.try_get(column).map_err(unreadable)
    }
}

fn unreadable(error: sqlx::Error) -> BackendError {
    corrupt("a column", error)
}

/// Which of the providers `$1` have ready executions, and room for them or some that do not say yet
/// that they wait; or say that something is held back although nothing is ready any more.
macro_rules! is_claimable {
    () => {
        "name = ANY ($1)
      AND (EXISTS (SELECT 1 FROM records WHERE ready AND provider = name)
           OR flow LIKE '%\"holds\":[%')
      AND (NOT paused AND closed_until IS NULL
           OR EXISTS (
               SELECT 1
               FROM records
               WHERE ready
                 AND interrupted
                 AND cancel_requested_at IS NOT NULL
                 AND provider = name
           ))
      AND (EXISTS (SELECT 1 FROM records WHERE ready AND wait = 0 AND provider = name)
           OR NOT EXISTS (SELECT 1 FROM records WHERE ready AND provider = name)
           OR in_force > (
               SELECT count(*)
               FROM (SELECT 1
                     FROM records
                     WHERE state = 1 AND provider = name
                     LIMIT in_force) AS busy
           ))"
    };
}
pub(super) use is_claimable;

/// Records by column, without what never changes.
#[derive(Default)]
pub(super) struct RecordColumns<'a> {
    pub(super) id: Vec<Uuid>,
    pub(super) state: Vec<i16>,
    pub(super) ready: Vec<bool>,
    pub(super) wait: Vec<i16>,
    pub(super) interrupted: Vec<bool>,
    pub(super) due_at: Vec<i64>,
    pub(super) queue_deadline: Vec<Option<i64>>,
    pub(super) token: Vec<i64>,
    pub(super) owner: Vec<Option<Uuid>>,
    pub(super) lease_expires_at: Vec<Option<i64>>,
    pub(super) attempts: Vec<i32>,
    pub(super) charged: Vec<i32>,
    pub(super) crashes: Vec<i32>,
    pub(super) cancel_requested_at: Vec<Option<i64>>,
    pub(super) handle: Vec<Option<&'a str>>,
    pub(super) rank: Vec<i64>,
    pub(super) lane: Vec<&'a str>,
}

impl<'a> FromIterator<&'a Record> for RecordColumns<'a> {
    fn from_iter<I: IntoIterator<Item = &'a Record>>(records: I) -> Self {
        let mut columns = Self::default();
        for record in records {
            let micros = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
            columns.id.push(record.id.into());
            columns.state.push(state_number(record.state));
            columns.ready.push(record.is_ready());
            columns.wait.push(wait_number(record.wait));
            columns.interrupted.push(record.interrupted);
            columns.due_at.push(record.due_at.as_micros());
            columns.queue_deadline.push(micros(record.queue_deadline));
            columns.token.push(record.token.0);
            columns.owner.push(record.owner.map(Uuid::from));
            columns.lease_expires_at.push(micros(record.lease_expires_at));
            columns.attempts.push(small(record.attempts));
            columns.charged.push(small(record.charged));
            columns.crashes.push(small(record.crashes));
            columns.cancel_requested_at.push(micros(record.cancel_requested_at));
            columns.handle.push(record.handle.as_ref().map(Handle::as_json));
            columns.rank.push(record.rank.as_micros());
            columns.lane.push(&record.lane);
        }
        columns
    }
}

/// New executions by column.
#[derive(Default)]
pub(super) struct ExecutionColumns<'a> {
    pub(super) provider: Vec<&'a str>,
    pub(super) request_id: Vec<Option<&'a str>>,
    pub(super) request_hash: Vec<&'a str>,
    pub(super) created_at: Vec<i64>,
    pub(super) input: Vec<&'a str>,
    pub(super) input_exact: Vec<bool>,
    pub(super) labels: Vec<String>,
    pub(super) options: Vec<String>,
    pub(super) retry_of: Vec<Option<Uuid>>,
    pub(super) priority: Vec<i32>,
    pub(super) on_lost: Vec<i16>,
    pub(super) demand: Vec<Option<String>>,
}

impl<'a> ExecutionColumns<'a> {
    pub(super) fn of(executions: &[(&'a NewExecution, &Record)]) -> Result<Self> {
        let mut columns = Self::default();
        for (new, record) in executions {
            let spec = &*new.spec;
            columns.provider.push(spec.provider.as_str());
            columns.request_id.push(spec.request_id.as_deref());
            columns.request_hash.push(&new.request_hash);
            columns.created_at.push(spec.created_at.as_micros());
            columns.input.push(&spec.input.json);
            columns.input_exact.push(spec.input.exact);
            columns.labels.push(json(&spec.labels)?);
            columns.options.push(json(&Options::of(spec))?);
            columns.retry_of.push(spec.retry_of.map(Uuid::from));
            columns.priority.push(spec.priority);
            columns.on_lost.push(on_lost_number(spec.on_lost));
            columns.demand.push(demand(record));
        }
        Ok(columns)
    }
}

/// Providers by column.
#[derive(Default)]
pub(super) struct ProviderColumns<'a> {
    pub(super) name: Vec<&'a str>,
    pub(super) declared_max: Vec<i32>,
    pub(super) overriding_max: Vec<Option<i32>>,
    pub(super) paused: Vec<bool>,
    pub(super) pause_reason: Vec<Option<&'a str>>,
    pub(super) pause_until: Vec<Option<i64>>,
    pub(super) limits_revision: Vec<i64>,
    pub(super) gate_revision: Vec<i64>,
    pub(super) shortage: Vec<Option<String>>,
    pub(super) health: Vec<Option<String>>,
    pub(super) closed_until: Vec<Option<i64>>,
    pub(super) in_force: Vec<i32>,
    pub(super) limits: Vec<Option<String>>,
    pub(super) due_at: Vec<Option<i64>>,
    pub(super) flow: Vec<Option<String>>,
}

impl<'a> ProviderColumns<'a> {
    pub(super) fn of(providers: impl IntoIterator<Item = &'a ProviderRecord>) -> Result<Self> {
        let mut columns = Self::default();
        for record in providers {
            let pause = record.pause.as_ref();
            columns.name.push(record.name.as_str());
            columns.declared_max.push(small(record.declared.max_concurrent));
            columns.overriding_max.push(record.overriding.max_concurrent.map(small));
            columns.paused.push(pause.is_some());
            columns.pause_reason.push(pause.map(|pause| pause.reason.as_str()));
            columns.pause_until.push(pause.and_then(|pause| pause.until).map(Timestamp::as_micros));
            columns.limits_revision.push(record.limits_revision);
            columns.gate_revision.push(record.gate_revision);
            columns.shortage.push(record.shortage.as_ref().map(json).transpose()?);
            columns.health.push(health(&record.health)?);
            let closed_until = record.health.closed_until();
            columns.closed_until.push(closed_until.map(Timestamp::as_micros));
            columns.in_force.push(small(record.effective().max_concurrent));
            columns.limits.push(limits(record)?);
            columns.due_at.push(record.other_due_at().map(Timestamp::as_micros));
            columns.flow.push(flow(&record.flow)?);
        }
        Ok(columns)
    }
}

/// Entries of the log by column.
#[derive(Default)]
pub(super) struct EventColumns<'a> {
    pub(super) execution: Vec<Option<Uuid>>,
    pub(super) provider: Vec<&'a str>,
    pub(super) kind: Vec<i16>,
    pub(super) change: Vec<String>,
}

impl<'a> EventColumns<'a> {
    pub(super) fn of(changes: &'a [Logged]) -> Result<Self> {
        let mut columns = Self::default();
        for entry in changes {
            columns.execution.push(entry.execution.map(Uuid::from));
            columns.provider.push(entry.provider.as_str());
            columns.kind.push(kind_number(&entry.change));
            columns.change.push(json(&entry.change)?);
        }
        Ok(columns)
    }
}

/// A count that no configuration lets grow beyond this.
fn small(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

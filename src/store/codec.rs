//! Rows as the databases keep them, read into the domain's types; the same for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    BackendError, Head, Load, Logged, Notice, ProviderRow, Totals, WorkerRow, WorkerStatus,
};
use crate::domain::{
    Adaptive, COMMON_LANE, Change, Demand, Event, ExecutionId, Expiry, Flow, Health, Input, Limits,
    OnLost, Overrides, Pause, ProviderName, ProviderRecord, Record, RetryPolicy, Spec, State,
    Timestamp, Token, TraceContext, Usage, Wait, WorkerId,
};

type Result<T> = std::result::Result<T, BackendError>;

/// A row as a database gives it.
pub(super) trait Columns {
    /// A number, whatever its width.
    fn int(&self, column: usize) -> Result<Option<i64>>;

    /// A truth value.
    fn flag(&self, column: usize) -> Result<bool>;

    /// A text.
    fn text(&self, column: usize) -> Result<Option<&str>>;

    /// An id.
    fn uuid(&self, column: usize) -> Result<Option<Uuid>>;
}

/// The columns of `records`, in the order that [`record`] reads them and the databases
/// write them.
macro_rules! record_columns {
    () => {
        "id, provider, state, ready, wait, interrupted, priority, due_at, queue_deadline, token, \
         owner, lease_expires_at, attempts, charged, crashes, cancel_requested_at, handle, \
         on_lost, rank, lane, demand"
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

/// The columns of `providers`, in the order that [`provider`] reads them and the
/// databases write them.
macro_rules! provider_columns {
    () => {
        "name, declared_max, overriding_max, paused, pause_reason, pause_until, limits_revision, \
         gate_revision, shortage, health, closed_until, in_force, limits, due_at, flow"
    };
}
pub(super) use provider_columns;

/// The parts of a [`Spec`] that nothing searches for.
#[derive(Serialize, Deserialize)]
pub(super) struct Options {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(default)]
    on_lost: OnLost,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    demand: Option<Demand>,
}

/// The limits of a provider of which there is more to say than `max_concurrent`.
#[derive(Serialize, Deserialize)]
struct StoredLimits {
    declared: Limits,
    overriding: Overrides,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry: Option<Expiry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapted: Option<Adaptive>,
    /// Models that work waits apart for, be it because they had limits once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    lanes: BTreeSet<String>,
}

/// How far changes move the totals that the store keeps.
pub(super) struct Counts {
    pub(super) entries: i64,
    pub(super) submitted: i64,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) cancelled: i64,
}

impl Counts {
    pub(super) fn of(changes: &[Logged]) -> Self {
        let mut counts = Self { entries: 0, submitted: 0, succeeded: 0, failed: 0, cancelled: 0 };
        for entry in changes {
            counts.entries += 1;
            match &entry.change {
                Change::Submitted { .. } => counts.submitted += 1,
                Change::Finished { state: State::Succeeded, .. } => counts.succeeded += 1,
                Change::Finished { state: State::Failed, .. } => counts.failed += 1,
                Change::Finished { state: State::Cancelled, .. } => counts.cancelled += 1,
                _ => {}
            }
        }
        counts
    }
}

/// The tokens that ended attempts consumed, by provider in the order in which its rows are locked.
pub(super) fn usage_of(changes: &[Logged]) -> BTreeMap<&ProviderName, Usage> {
    let mut sums: BTreeMap<_, Usage> = BTreeMap::new();
    for entry in changes {
        let (Change::Requeued { ended, .. } | Change::Finished { ended: Some(ended), .. }) =
            &entry.change
        else {
            continue;
        };
        if let Some(usage) = ended.usage {
            *sums.entry(&entry.provider).or_default() += usage;
        }
    }
    sums
}

impl Options {
    pub(super) fn of(spec: &Spec) -> Self {
        Self {
            priority: spec.priority,
            run_timeout: spec.run_timeout,
            retry: spec.retry.clone(),
            schedule_at: spec.schedule_at,
            queue_timeout: spec.queue_timeout,
            retry_of: spec.retry_of,
            traceparent: spec.trace.as_ref().map(|trace| trace.traceparent.clone()),
            tracestate: spec.trace.as_ref().and_then(|trace| trace.tracestate.clone()),
            on_lost: spec.on_lost,
            demand: spec.demand.clone(),
        }
    }
}

pub(super) const fn state_number(state: State) -> i16 {
    match state {
        State::Pending => 0,
        State::Running => 1,
        State::Succeeded => 2,
        State::Failed => 3,
        State::Cancelled => 4,
    }
}

pub(super) const fn wait_number(wait: Wait) -> i16 {
    match wait {
        Wait::None => 0,
        Wait::Limit => 1,
        Wait::Scheduled { .. } => 2,
        Wait::Backoff { .. } => 3,
    }
}

pub(super) const fn on_lost_number(on_lost: OnLost) -> i16 {
    match on_lost {
        OnLost::Rerun => 0,
        OnLost::Fail => 1,
    }
}

/// What is kept of a provider's health; nothing where there is nothing to say.
pub(super) fn health(health: &Health) -> Result<Option<String>> {
    if health.is_blank() { Ok(None) } else { json(health).map(Some) }
}

/// What there is to say of a provider's limits besides the numbers that have columns of their own.
pub(super) fn limits(record: &ProviderRecord) -> Result<Option<String>> {
    let ProviderRecord { declared, overriding, expiry, adapted, .. } = record;
    let mut lanes: BTreeSet<_> = record.flow.lanes(&record.effective()).into_iter().collect();
    lanes.remove(COMMON_LANE);
    let plain = declared.is_plain()
        && overriding.max_concurrent.is_none_or(|max| *overriding == Overrides::concurrent(max))
        && (overriding.max_concurrent.is_some() || overriding.is_empty())
        && expiry.is_none()
        && adapted.is_none()
        && lanes.is_empty();
    if plain {
        return Ok(None);
    }
    let (declared, overriding) = (declared.clone(), overriding.clone());
    json(&StoredLimits {
        declared,
        overriding,
        expiry: expiry.clone(),
        adapted: adapted.clone(),
        lanes,
    })
    .map(Some)
}

/// What is kept of a provider's flow; nothing where there is nothing to say.
pub(super) fn flow(flow: &Flow) -> Result<Option<String>> {
    if flow.is_blank() { Ok(None) } else { json(flow).map(Some) }
}

/// What an execution may take of budgets, where that is known.
pub(super) fn demand(record: &Record) -> Option<String> {
    let demand = record.demand.as_ref()?;
    Some(serde_json::to_string(demand).expect("its keys are text and its numbers finite"))
}

pub(super) const fn kind_number(change: &Change) -> i16 {
    match change {
        Change::Submitted { .. }
        | Change::Claimed { .. }
        | Change::Attached { .. }
        | Change::Requeued { .. }
        | Change::Finished { .. }
        | Change::CancelRequested { .. }
        | Change::WaitChanged { .. } => 0,
        Change::Output(_) => 1,
        Change::LimitsChanged { .. } => 2,
        Change::GateClosed { .. }
        | Change::GateProbing { .. }
        | Change::GateOpened {}
        | Change::Paused { .. }
        | Change::Resumed { .. }
        | Change::Held { .. }
        | Change::ShortOf(_)
        | Change::ShortageOver { .. } => 3,
    }
}

pub(super) fn record(row: &impl Columns) -> Result<Record> {
    let due_at = Timestamp::from_micros(int(row, 7)?);
    Ok(Record {
        id: execution_id(row, 0)?,
        provider: parse(row, 1)?,
        state: match int(row, 2)? {
            0 => State::Pending,
            1 => State::Running,
            2 => State::Succeeded,
            3 => State::Failed,
            4 => State::Cancelled,
            other => return Err(corrupt("a state", other)),
        },
        wait: match int(row, 4)? {
            0 => Wait::None,
            1 => Wait::Limit,
            2 => Wait::Scheduled { until: due_at },
            3 => Wait::Backoff { until: due_at },
            other => return Err(corrupt("a wait reason", other)),
        },
        interrupted: row.flag(5)?,
        priority: number(row, 6)?,
        due_at,
        queue_deadline: time(row, 8)?,
        token: Token(int(row, 9)?),
        owner: row.uuid(10)?.map(WorkerId::from),
        lease_expires_at: time(row, 11)?,
        attempts: number(row, 12)?,
        charged: number(row, 13)?,
        crashes: number(row, 14)?,
        cancel_requested_at: time(row, 15)?,
        handle: row.text(16)?.map(|handle| from_json("a handle", handle)).transpose()?,
        on_lost: match int(row, 17)? {
            0 => OnLost::Rerun,
            1 => OnLost::Fail,
            other => return Err(corrupt("what follows a loss", other)),
        },
        rank: Timestamp::from_micros(int(row, 18)?),
        lane: text(row, 19)?.to_owned(),
        demand: row.text(20)?.map(|demand| from_json("a demand", demand)).transpose()?,
    })
}

pub(super) fn spec(row: &impl Columns) -> Result<Spec> {
    let labels: BTreeMap<String, String> = from_json("labels", text(row, 6)?)?;
    let options: Options = from_json("options", text(row, 7)?)?;
    Ok(Spec {
        id: execution_id(row, 0)?,
        provider: parse(row, 1)?,
        request_id: row.text(2)?.map(str::to_owned),
        created_at: Timestamp::from_micros(int(row, 3)?),
        input: Input { json: text(row, 4)?.to_owned(), exact: row.flag(5)? },
        labels,
        priority: options.priority,
        schedule_at: options.schedule_at,
        queue_timeout: options.queue_timeout,
        run_timeout: options.run_timeout,
        retry: options.retry,
        retry_of: options.retry_of,
        trace: options
            .traceparent
            .map(|traceparent| TraceContext { traceparent, tracestate: options.tracestate }),
        on_lost: options.on_lost,
        demand: options.demand,
    })
}

pub(super) fn provider(row: &impl Columns) -> Result<ProviderRecord> {
    let pause = if row.flag(3)? {
        let reason = row.text(4)?.unwrap_or_default().to_owned();
        Some(Pause { reason, until: time(row, 5)? })
    } else {
        None
    };
    let stored = match row.text(12)? {
        Some(text) => from_json("a provider's limits", text)?,
        None => StoredLimits {
            declared: Limits::concurrent(number(row, 1)?),
            overriding: Overrides {
                max_concurrent: row.int(2)?.map(to_number).transpose()?,
                ..Overrides::default()
            },
            expiry: None,
            adapted: None,
            lanes: BTreeSet::new(),
        },
    };
    let StoredLimits { declared, overriding, expiry, adapted, lanes: _ } = stored;
    Ok(ProviderRecord {
        name: parse(row, 0)?,
        declared,
        overriding,
        expiry,
        adapted,
        pause,
        shortage: row.text(8)?.map(|text| from_json("a shortage", text)).transpose()?,
        health: match row.text(9)? {
            Some(text) => from_json("a provider's health", text)?,
            None => Health::default(),
        },
        flow: match row.text(14)? {
            Some(text) => from_json("a provider's flow", text)?,
            None => Flow::default(),
        },
        limits_revision: int(row, 6)?,
        gate_revision: int(row, 7)?,
    })
}

/// Reads `revision, execution_id, provider, at, change`.
pub(super) fn event(row: &impl Columns) -> Result<Event> {
    Ok(Event {
        revision: int(row, 0)?,
        execution: row.uuid(1)?.map(ExecutionId::from),
        provider: parse(row, 2)?,
        at: Timestamp::from_micros(int(row, 3)?),
        change: from_json("a change", text(row, 4)?)?,
    })
}

/// Reads `revision, execution_id, provider, change`.
pub(super) fn notice(row: &impl Columns) -> Result<Notice> {
    Ok(Notice {
        revision: int(row, 0)?,
        execution: row.uuid(1)?.map(ExecutionId::from),
        provider: parse(row, 2)?,
        change: row.text(3)?.map(|change| from_json("a change", change)).transpose()?,
    })
}

/// Reads `id, host, version, status, started_at, heartbeat_at, figures`.
pub(super) fn worker(row: &impl Columns) -> Result<WorkerRow> {
    let status = text(row, 3)?;
    Ok(WorkerRow {
        id: WorkerId::from(needed(row.uuid(0)?)?),
        host: text(row, 1)?.to_owned(),
        version: text(row, 2)?.to_owned(),
        status: WorkerStatus::named(status)
            .ok_or_else(|| corrupt("a worker", format_args!("unknown status {status}")))?,
        started_at: Timestamp::from_micros(int(row, 4)?),
        heartbeat_at: Timestamp::from_micros(int(row, 5)?),
        figures: from_json("a worker's figures", text(row, 6)?)?,
    })
}

/// Reads `name, running, has_ready, has_unmarked, in_force, limits`, the name apart.
pub(super) fn load(row: &impl Columns) -> Result<Load> {
    let limits = row.text(5)?.map(|text| from_json::<StoredLimits>("a provider's limits", text));
    let stored = limits.transpose()?;
    let max_pending = |it: &StoredLimits| it.overriding.over(&it.declared).max_pending;
    Ok(Load {
        max_pending: stored.as_ref().and_then(max_pending),
        models: stored.map(|stored| stored.lanes).unwrap_or_default(),
        running: number(row, 1)?,
        has_ready: row.flag(2)?,
        has_unmarked: row.flag(3)?,
        limit: number(row, 4)?,
    })
}

/// Reads `request_id, id, request_hash`.
pub(super) fn request(row: &impl Columns) -> Result<(String, ExecutionId, String)> {
    Ok((text(row, 0)?.to_owned(), execution_id(row, 1)?, text(row, 2)?.to_owned()))
}

/// Reads `epoch, revision, compacted`.
pub(super) fn head(row: &impl Columns) -> Result<Head> {
    Ok(Head { epoch: text(row, 0)?.to_owned(), revision: int(row, 1)?, compacted: int(row, 2)? })
}

/// Reads the columns of a provider, then `running, ready, oldest_ready, input_tokens, output_tokens,
/// later, ready_apart`.
pub(super) fn provider_row(row: &impl Columns) -> Result<ProviderRow> {
    let (ready, later): (u64, u64) = (number(row, 16)?, number(row, 20)?);
    Ok(ProviderRow {
        record: provider(row)?,
        running: number(row, 15)?,
        pending: ready + later,
        ready,
        ready_apart: number(row, 21)?,
        oldest_ready: time(row, 17)?,
        usage: Usage { input_tokens: int(row, 18)?, output_tokens: int(row, 19)? },
    })
}

/// Reads `submitted, running, succeeded, failed, cancelled, size_bytes`.
pub(super) fn totals(row: &impl Columns) -> Result<Totals> {
    let [submitted, running, succeeded, failed, cancelled, size_bytes]: [u64; 6] = [
        number(row, 0)?,
        number(row, 1)?,
        number(row, 2)?,
        number(row, 3)?,
        number(row, 4)?,
        number(row, 5)?,
    ];
    let pending = submitted.saturating_sub(running + succeeded + failed + cancelled);
    Ok(Totals { submitted, pending, running, succeeded, failed, cancelled, size_bytes })
}

pub(super) fn int(row: &impl Columns, column: usize) -> Result<i64> {
    needed(row.int(column)?)
}

/// A number that must fit a smaller type.
pub(super) fn number<T: TryFrom<i64, Error: Display>>(
    row: &impl Columns,
    column: usize,
) -> Result<T> {
    to_number(int(row, column)?)
}

pub(super) fn text(row: &impl Columns, column: usize) -> Result<&str> {
    needed(row.text(column)?)
}

pub(super) fn time(row: &impl Columns, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.int(column)?.map(Timestamp::from_micros))
}

pub(super) fn execution_id(row: &impl Columns, column: usize) -> Result<ExecutionId> {
    Ok(ExecutionId::from(needed(row.uuid(column)?)?))
}

pub(super) fn parse<T: FromStr<Err: Display>>(row: &impl Columns, column: usize) -> Result<T> {
    text(row, column)?.parse().map_err(|error: T::Err| corrupt("a name", error))
}

fn to_number<T: TryFrom<i64, Error: Display>>(number: i64) -> Result<T> {
    number.try_into().map_err(|error| corrupt("a number", error))
}

fn needed<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| corrupt("a column", "it is empty"))
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt("a value to be written", error))
}

fn from_json<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

pub(super) fn corrupt(what: &'static str, why: impl Display) -> BackendError {
    BackendError::Corrupt { what, why: why.to_string() }
}

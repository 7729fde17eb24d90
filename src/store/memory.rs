//! A small model of a database: the same promises kept in the plainest way, for property tests
//! and simulation. A transaction works on a copy of everything, which its commit puts in place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::codec::usage_of;
use super::{
    Appended, Backend, BackendError, Due, EventQuery, FARTHEST_AHEAD, Head, History, Lane,
    ListQuery, Load, Logged, NewExecution, Payload, Pick, ProviderRow, StoreKind, Totals,
    Transaction, WorkerRow,
};
use crate::domain::{
    COMMON_LANE, Change, Event, ExecutionId, ProviderName, ProviderRecord, Record, Spec, State,
    Timestamp, Usage, Wait, WorkerId,
};

type Result<T> = std::result::Result<T, BackendError>;

/// The model.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default, Clone)]
struct Tables {
    executions: BTreeMap<ExecutionId, NewExecution>,
    records: BTreeMap<ExecutionId, Record>,
    outputs: BTreeMap<ExecutionId, Arc<str>>,
    providers: BTreeMap<ProviderName, ProviderRecord>,
    usage: BTreeMap<ProviderName, Usage>,
    workers: BTreeMap<WorkerId, WorkerRow>,
    events: Vec<Event>,
}

impl Tables {
    fn running(&self, provider: &ProviderName) -> usize {
        self.of(provider).filter(|record| record.state == State::Running).count()
    }

    fn of<'a>(&'a self, provider: &'a ProviderName) -> impl Iterator<Item = &'a Record> {
        self.records.values().filter(move |record| record.provider == *provider)
    }

    fn some(&self, limit: u32, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.records.values().filter(|record| wanted(record)).take(limit).cloned().collect()
    }

    fn history(&self, id: ExecutionId, payload: Payload) -> Option<History> {
        let spec = Arc::clone(&self.executions.get(&id)?.spec);
        let log = self.events.iter().filter(|e| e.execution == Some(id) && !e.change.is_output());
        let log = log.cloned().collect();
        Some(match payload {
            Payload::With => History { spec, log, output: self.outputs.get(&id).cloned() },
            Payload::Without => {
                let mut bare = Spec::clone(&spec);
                "{}".clone_into(&mut bare.input.json);
                History { spec: Arc::new(bare), log, output: None }
            }
        })
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn begin(&self, _: Lane) -> Result<Box<dyn Transaction>> {
        let tables = Arc::clone(&self.tables).lock_owned().await;
        Ok(Box::new(MemoryTransaction { staged: tables.clone(), tables }))
    }

    async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>> {
        let tables = self.tables.lock().await;
        let ids: BTreeSet<_> = ids.iter().collect();
        Ok(ids.into_iter().filter_map(|id| tables.history(*id, payload)).collect())
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>> {
        let tables = self.tables.lock().await;
        let matches = |new: &&NewExecution| {
            let spec = &new.spec;
            let state = tables.records.get(&spec.id).map(|record| record.state);
            let retried = |other: &NewExecution| other.spec.retry_of == Some(spec.id);
            query.before.is_none_or(|before| spec.id < before)
                && !(query.not_retried && tables.executions.values().any(retried))
                && query.created_after.is_none_or(|after| spec.created_at >= after)
                && query.created_before.is_none_or(|before| spec.created_at < before)
                && (query.providers.is_empty() || query.providers.contains(&spec.provider))
                && (query.states.is_empty() || state.is_some_and(|s| query.states.contains(&s)))
                && query.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
        };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let newest_first = tables.executions.values().rev();
        Ok(newest_first.filter(matches).take(limit).map(|new| new.spec.id).collect())
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        let tables = self.tables.lock().await;
        let provider = query
            .execution
            .map(|id| tables.executions.get(&id).map(|new| new.spec.provider.clone()));
        let wanted = |event: &&Event| {
            let concerned = match &provider {
                None => true,
                Some(provider) if event.execution.is_none() => {
                    event.change.is_gate() && Some(&event.provider) == provider.as_ref()
                }
                Some(_) => event.execution == query.execution,
            };
            event.revision > query.after && concerned && (query.output || !event.change.is_output())
        };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        Ok(tables.events.iter().filter(wanted).take(limit).cloned().collect())
    }

    async fn gate_at(&self, provider: &ProviderName, revision: i64) -> Result<Option<Event>> {
        let tables = self.tables.lock().await;
        let mut newest_first = tables.events.iter().rev();
        Ok(newest_first
            .find(|e| e.provider == *provider && e.change.is_gate() && e.revision <= revision)
            .cloned())
    }

    async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>> {
        let tables = self.tables.lock().await;
        let wanted = |event: &&Event| {
            let of_limits = matches!(event.change, Change::LimitsChanged { .. });
            of_limits && event.provider == *provider && event.revision < before
        };
        let newest_first = tables.events.iter().rev().filter(wanted);
        Ok(newest_first.take(usize::try_from(limit).unwrap_or(usize::MAX)).cloned().collect())
    }

    async fn waiting(&self) -> Result<Vec<ProviderName>> {
        let tables = self.tables.lock().await;
        let waits = |name: &&ProviderName| tables.of(name).any(Record::is_ready);
        Ok(tables.providers.keys().filter(waits).cloned().collect())
    }

    async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>> {
        let tables = self.tables.lock().await;
        let record = tables.records.get(&id).filter(|record| record.is_ready());
        Ok(record.map(|record| {
            let queue = tables.of(&record.provider).filter(|it| it.is_ready());
            let ahead = queue.filter(|it| it.lane == record.lane && it.turn() < record.turn());
            ahead.take(usize::try_from(FARTHEST_AHEAD).unwrap_or(usize::MAX)).count() as u64
        }))
    }

    async fn head(&self) -> Result<Head> {
        let revision = self.tables.lock().await.events.last().map_or(0, |event| event.revision);
        Ok(Head { epoch: "memory".to_owned(), revision, compacted: 0 })
    }

    async fn providers(&self) -> Result<Vec<ProviderRow>> {
        let tables = self.tables.lock().await;
        let row = |record: &ProviderRecord| ProviderRow {
            record: record.clone(),
            running: tables.running(&record.name) as u64,
            pending: tables.of(&record.name).filter(|r| r.state == State::Pending).count() as u64,
            ready: tables.of(&record.name).filter(|r| r.is_ready()).count() as u64,
            ready_apart: tables
                .of(&record.name)
                .filter(|r| r.is_ready() && r.lane != COMMON_LANE)
                .count() as u64,
            oldest_ready: tables.of(&record.name).filter(|r| r.is_ready()).map(|r| r.due_at).min(),
            usage: tables.usage.get(&record.name).copied().unwrap_or_default(),
        };
        Ok(tables.providers.values().map(row).collect())
    }

    async fn totals(&self) -> Result<Totals> {
        let tables = self.tables.lock().await;
        let count = |state| tables.records.values().filter(|r| r.state == state).count() as u64;
        Ok(Totals {
            submitted: tables.records.len() as u64,
            pending: count(State::Pending),
            running: count(State::Running),
            succeeded: count(State::Succeeded),
            failed: count(State::Failed),
            cancelled: count(State::Cancelled),
            size_bytes: 0,
        })
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        let mut workers: Vec<_> = self.tables.lock().await.workers.values().cloned().collect();
        workers.sort_by_key(|worker| std::cmp::Reverse((worker.started_at, worker.id)));
        Ok(workers)
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }
}

fn is_unmarked(record: &Record) -> bool {
    record.is_ready() && record.wait == Wait::None
}

struct MemoryTransaction {
    staged: Tables,
    tables: OwnedMutexGuard<Tables>,
}

#[async_trait]
impl Transaction for MemoryTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        Ok(ids.iter().filter_map(|id| self.staged.records.get(id).cloned()).collect())
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        for record in providers {
            let entry = self.staged.providers.entry(record.name.clone());
            entry.or_insert_with(|| record.clone());
        }
        Ok(())
    }

    async fn lock_providers(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        Ok(names.iter().filter_map(|name| self.staged.providers.get(name).cloned()).collect())
    }

    async fn providers_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        let over = |record: &&ProviderRecord| record.due_at().is_some_and(|until| until <= now);
        Ok(self.staged.providers.values().filter(over).cloned().collect())
    }

    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        let load = |name: &ProviderName| {
            let provider = self.staged.providers.get(name)?;
            let load = Load {
                running: u32::try_from(self.staged.running(name)).unwrap_or(u32::MAX),
                has_ready: self.staged.of(name).any(Record::is_ready),
                has_unmarked: self.staged.of(name).any(is_unmarked),
                limit: provider.effective().max_concurrent,
                max_pending: provider.effective().max_pending,
                models: provider.flow.lanes(&provider.effective()).into_iter().collect(),
            };
            Some((name.clone(), load))
        };
        Ok(names.iter().filter_map(load).collect())
    }

    async fn pending(&mut self, provider: &ProviderName, most: u32) -> Result<u64> {
        let pending = self.staged.of(provider).filter(|record| record.state == State::Pending);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(pending.take(most).count() as u64)
    }

    async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>> {
        let of = |pick: &Pick| {
            let queue = self.staged.of(&pick.provider);
            let queue = queue.filter(|record| record.is_ready() && record.lane == pick.lane);
            let mut ready: Vec<_> = queue.cloned().collect();
            ready.sort_by_key(Record::turn);
            ready.truncate(usize::try_from(pick.most).unwrap_or(usize::MAX));
            ready
        };
        Ok(wanted.iter().flat_map(of).collect())
    }

    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        let of = |(provider, limit): &(ProviderName, u32)| {
            self.staged.some(*limit, |r| r.provider == *provider && r.is_to_be_stopped())
        };
        Ok(wanted.iter().flat_map(of).collect())
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        let of = |provider: &ProviderName| {
            self.staged.some(limit, |r| r.provider == *provider && is_unmarked(r))
        };
        Ok(providers.iter().flat_map(of).collect())
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        let waits = |r: &Record| r.state == State::Pending && !r.is_ready();
        Ok(Due {
            promotable: self.staged.some(limit, |r| waits(r) && r.due_at <= now),
            expired: self.staged.some(limit, |r| r.queue_deadline.is_some_and(|d| d <= now)),
            lost: self.staged.some(limit, |r| r.lease_expires_at.is_some_and(|e| e <= reclaim)),
        })
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        let records = self.staged.records.values();
        let waiting = records.clone().filter(|r| r.state == State::Pending && !r.is_ready());
        let due = waiting.map(|record| record.due_at);
        let deadlines = records.filter_map(|record| record.queue_deadline);
        let pauses = self.staged.providers.values().filter_map(ProviderRecord::due_at);
        Ok(due.chain(deadlines).chain(pauses).min())
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        let elsewhere = |r: &Record| r.state == State::Running && r.owner != Some(worker);
        Ok(self.staged.some(u32::MAX, elsewhere))
    }

    async fn requests(
        &mut self,
        request_ids: &[&str],
    ) -> Result<Vec<(String, ExecutionId, String)>> {
        let known = self.staged.executions.values().filter_map(|new| {
            let request_id = new.spec.request_id.clone()?;
            let wanted = request_ids.contains(&request_id.as_str());
            wanted.then(|| (request_id, new.spec.id, new.request_hash.clone()))
        });
        Ok(known.collect())
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        let spec = |id| self.staged.executions.get(id).map(|new| Spec::clone(&new.spec));
        Ok(ids.iter().filter_map(spec).collect())
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        for &(new, record) in executions {
            self.staged.records.insert(record.id, record.clone());
            if self.staged.executions.insert(new.spec.id, new.clone()).is_some() {
                let why = format!("{} exists already", new.spec.id);
                return Err(BackendError::Corrupt { what: "a new execution", why });
            }
        }
        Ok(())
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        self.staged.records.extend(records.iter().map(|&record| (record.id, record.clone())));
        Ok(())
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        self.staged.outputs.extend(outputs.iter().map(|(id, output)| (*id, Arc::from(*output))));
        Ok(())
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        let rows = providers.iter().map(|&record| (record.name.clone(), record.clone()));
        self.staged.providers.extend(rows);
        Ok(())
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        self.staged.workers.retain(|_, known| known.heartbeat_at >= forget);
        self.staged.workers.insert(worker.id, worker.clone());
        Ok(())
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let first = self.staged.events.last().map_or(0, |event| event.revision) + 1;
        let entries = (first..).zip(changes).map(|(revision, entry)| Event {
            revision,
            at,
            provider: entry.provider.clone(),
            execution: entry.execution,
            change: Change::clone(&entry.change),
        });
        self.staged.events.extend(entries);
        for (provider, usage) in usage_of(changes) {
            *self.staged.usage.entry(provider.clone()).or_default() += usage;
        }
        Ok(Appended { first, at })
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        std::mem::swap(&mut *self.tables, &mut self.staged);
        Ok(())
    }
}

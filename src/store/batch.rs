//! One transaction in the making: the rows its operations asked for, and what they changed.
//!
//! What must stay true: every change of a record is logged, unless it is a renewal; whoever asks
//! the transaction for rows by anything but their id sees what earlier operations of the batch
//! wrote, because the batch is flushed first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Appended, BackendError, Due, Load, Logged, NewExecution, Notice, Pick, Transaction, WorkerRow,
};
use crate::domain::{
    Change, ExecutionId, Fenced, GateState, Lease, Limits, ProviderName, ProviderRecord, Record,
    Reserved, Spec, Timestamp, Wait, WorkerId,
};

type Result<T, E = BackendError> = std::result::Result<T, E>;

/// The rows that the operations of a batch will look at.
#[derive(Debug, Default)]
pub(super) struct Needs<'a> {
    /// Records, by id.
    pub(super) records: BTreeSet<ExecutionId>,
    /// Providers to lock.
    pub(super) providers: BTreeSet<ProviderName>,
    /// Providers to lock that may not exist yet, with the limits they then begin with.
    pub(super) declared: BTreeMap<ProviderName, Limits>,
    /// Providers to lock if a claim may get something of them.
    pub(super) claims: BTreeSet<ProviderName>,
    /// Providers whose load is of interest, without a lock.
    pub(super) loads: BTreeSet<ProviderName>,
    /// Request ids that may have been used before.
    pub(super) requests: BTreeSet<&'a str>,
}

/// One transaction in the making.
pub(super) struct Batch<'t> {
    transaction: &'t mut dyn Transaction,
    now: Timestamp,
    records: HashMap<ExecutionId, Record>,
    dirty: BTreeSet<ExecutionId>,
    providers: BTreeMap<ProviderName, ProviderRecord>,
    dirty_providers: BTreeSet<ProviderName>,
    room: HashMap<ProviderName, u32>,
    loads: BTreeMap<ProviderName, Load>,
    /// How many executions are pending, where that is bounded.
    pending: HashMap<ProviderName, u64>,
    requests: HashMap<String, (ExecutionId, String)>,
    inserts: BTreeMap<ExecutionId, NewExecution>,
    outputs: BTreeMap<ExecutionId, Arc<str>>,
    log: Vec<Logged>,
}

impl<'t> Batch<'t> {
    /// Brings what is needed, providers before records: the order in which locks are taken.
    pub(super) async fn gather(
        transaction: &'t mut dyn Transaction,
        now: Timestamp,
        mut needs: Needs<'_>,
    ) -> Result<Self> {
        let mut batch = Self {
            transaction,
            now,
            records: HashMap::new(),
            dirty: BTreeSet::new(),
            providers: BTreeMap::new(),
            dirty_providers: BTreeSet::new(),
            room: HashMap::new(),
            loads: BTreeMap::new(),
            pending: HashMap::new(),
            requests: HashMap::new(),
            inserts: BTreeMap::new(),
            outputs: BTreeMap::new(),
            log: Vec::new(),
        };
        if !needs.declared.is_empty() {
            let new = |(name, limits)| ProviderRecord::new(name, limits);
            let records: Vec<_> = needs.declared.clone().into_iter().map(new).collect();
            batch.transaction.create_providers(&records).await?;
            needs.providers.extend(needs.declared.into_keys());
        }
        if !needs.loads.is_empty() {
            batch.look_for_room(needs.loads.into_iter().collect()).await?;
            // Who counts what is pending against a bound counts under the provider's lock.
            needs.providers.extend(batch.bounded());
        }
        if !needs.claims.is_empty() {
            let names: Vec<_> = needs.claims.into_iter().collect();
            let found = batch.transaction.lock_claimable(&names).await?;
            batch.providers = found.into_iter().map(|row| (row.name.clone(), row)).collect();
        }
        if !needs.providers.is_empty() {
            let names: Vec<_> = needs.providers.into_iter().collect();
            let found = batch.transaction.lock_providers(&names).await?;
            batch.providers.extend(found.into_iter().map(|row| (row.name.clone(), row)));
        }
        if !needs.records.is_empty() {
            let ids: Vec<_> = needs.records.into_iter().collect();
            let found = batch.transaction.records(&ids).await?;
            batch.records = found.into_iter().map(|record| (record.id, record)).collect();
        }
        if !needs.requests.is_empty() {
            let request_ids: Vec<_> = needs.requests.into_iter().collect();
            for (request_id, id, hash) in batch.transaction.requests(&request_ids).await? {
                batch.requests.insert(request_id, (id, hash));
            }
        }
        batch.count_pending().await?;
        Ok(batch)
    }

    /// The present, the same for the whole transaction.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// A record that was asked for, if it exists.
    pub(super) fn record(&self, id: ExecutionId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Changes a record; tells whether anything changed, `None` if there is no such record.
    pub(super) fn change(
        &mut self,
        id: ExecutionId,
        change: impl FnOnce(&mut Record) -> Vec<Change>,
    ) -> Option<bool> {
        let record = self.records.get_mut(&id)?;
        let changes = change(record);
        let provider = record.provider.clone();
        if changes.is_empty() {
            return Some(false);
        }
        self.dirty.insert(id);
        for entry in changes {
            self.log(provider.clone(), Some(id), entry);
        }
        Some(true)
    }

    /// Changes a record unless the lease is no longer held.
    pub(super) fn try_change(
        &mut self,
        id: ExecutionId,
        change: impl FnOnce(&mut Record) -> Result<Change, Fenced>,
    ) -> Result<(), Fenced> {
        let record = self.records.get_mut(&id).ok_or(Fenced)?;
        let entry = change(record)?;
        let provider = record.provider.clone();
        self.dirty.insert(id);
        self.log(provider, Some(id), entry);
        Ok(())
    }

    /// Changes a record in a way that is not logged; `None` if the lease is no longer held.
    pub(super) fn touch(
        &mut self,
        id: ExecutionId,
        change: impl FnOnce(&mut Record) -> Result<(), Fenced>,
    ) -> Option<&Record> {
        let record = self.records.get_mut(&id)?;
        change(record).ok()?;
        self.dirty.insert(id);
        Some(record)
    }

    /// Changes a record that an operation found by itself.
    pub(super) fn change_loaded(
        &mut self,
        mut record: Record,
        change: impl FnOnce(&mut Record) -> Change,
    ) {
        let entry = change(&mut record);
        self.log(record.provider.clone(), Some(record.id), entry);
        self.dirty.insert(record.id);
        self.records.insert(record.id, record);
    }

    /// Changes a record that an operation found by itself in a way that is not logged.
    pub(super) fn touch_loaded(&mut self, record: Record) {
        self.dirty.insert(record.id);
        self.records.insert(record.id, record);
    }

    /// Claims a ready record; returns the lease and the attempts charged so far.
    pub(super) fn claim(
        &mut self,
        record: Record,
        worker: WorkerId,
        duration: Duration,
        reserved: Option<Reserved>,
    ) -> (Lease, u32) {
        let (id, now) = (record.id, self.now);
        let mut lease = None;
        self.change_loaded(record, |record| {
            let (taken, change) = record.claim(worker, now, duration, reserved);
            lease = Some((taken, record.charged));
            change
        });
        lease.unwrap_or_else(|| unreachable!("the claim of {id} gave a lease"))
    }

    /// Adds a new execution; returns its place among the changes of this transaction.
    pub(super) fn insert(&mut self, new: NewExecution, record: Record, change: Change) -> i64 {
        if let Some(request_id) = &new.spec.request_id {
            let seen = (new.spec.id, new.request_hash.clone());
            self.requests.insert(request_id.clone(), seen);
        }
        let place = i64::try_from(self.log.len()).unwrap_or(i64::MAX);
        if let Some(pending) = self.pending.get_mut(&record.provider) {
            *pending += 1;
        }
        self.log(record.provider.clone(), Some(record.id), change);
        self.inserts.insert(record.id, new);
        self.records.insert(record.id, record);
        place
    }

    /// The execution first submitted under this request id, with the hash of its request.
    pub(super) fn request(&self, request_id: &str) -> Option<(ExecutionId, &str)> {
        self.requests.get(request_id).map(|(id, hash)| (*id, hash.as_str()))
    }

    /// Finds out how many more executions of these providers would start at once.
    pub(super) async fn look_for_room(&mut self, names: Vec<ProviderName>) -> Result<()> {
        for (name, load) in self.transaction.loads(&names).await? {
            let room = if load.has_ready { 0 } else { load.limit.saturating_sub(load.running) };
            self.room.insert(name.clone(), room);
            self.loads.insert(name, load);
        }
        Ok(())
    }

    /// How busy a provider was that was asked for, without a lock.
    pub(super) fn load(&self, name: &ProviderName) -> Option<&Load> {
        self.loads.get(name)
    }

    /// Providers that take no more than so many pending executions.
    fn bounded(&self) -> Vec<ProviderName> {
        let bounded = self.loads.iter().filter(|(_, load)| load.max_pending.is_some());
        bounded.map(|(name, _)| name.clone()).collect()
    }

    async fn count_pending(&mut self) -> Result<()> {
        for name in self.bounded() {
            let most = self.loads.get(&name).and_then(|load| load.max_pending).unwrap_or_default();
            let pending = self.transaction.pending(&name, most.saturating_add(1)).await?;
            self.pending.insert(name, pending);
        }
        Ok(())
    }

    /// How many executions of a provider are pending with those that this batch adds, counted no
    /// further than one above its bound; `None` if there is no bound.
    pub(super) fn pending(&self, name: &ProviderName) -> Option<u64> {
        self.pending.get(name).copied()
    }

    /// What an execution of `provider` that becomes ready waits for: nothing while there is room,
    /// else the limit. Call [`Batch::look_for_room`] first.
    pub(super) fn wait_for_room(&mut self, provider: &ProviderName) -> Wait {
        match self.room.get_mut(provider) {
            Some(room) if *room > 0 => {
                *room -= 1;
                Wait::None
            }
            _ => Wait::Limit,
        }
    }

    /// A provider that was asked for, locked, if it exists.
    pub(super) fn provider(&self, name: &ProviderName) -> Option<&ProviderRecord> {
        self.providers.get(name)
    }

    /// Changes a provider. Where that opens its gate, what is held back all the same is told anew.
    pub(super) fn put_provider(&mut self, record: ProviderRecord, change: Change) {
        let opens = GateState::after(&change) == Some(GateState::Open);
        let name = || record.name.clone();
        self.log(name(), None, change);
        if opens && matches!(record.gate(), GateState::Held(_)) {
            self.log(name(), None, record.holds_change());
        }
        self.dirty_providers.insert(record.name.clone());
        self.providers.insert(record.name.clone(), record);
    }

    /// Ends a provider's shortage, as found by this worker.
    pub(super) fn end_shortage(&mut self, mut record: ProviderRecord, worker: WorkerId) {
        record.shortage = None;
        self.put_provider(record, Change::ShortageOver { worker });
    }

    /// Changes a provider in a way that is not logged.
    pub(super) fn touch_provider(&mut self, record: ProviderRecord) {
        self.dirty_providers.insert(record.name.clone());
        self.providers.insert(record.name.clone(), record);
    }

    /// Whether the limits of this provider were changed by an operation of this batch.
    pub(super) fn limits_changed(&self, name: &ProviderName) -> bool {
        self.log.iter().any(|entry| entry.provider == *name && entry.change.is_said_of_limits())
    }

    /// Sets the result of an execution.
    pub(super) fn put_output(&mut self, id: ExecutionId, output: Arc<str>) {
        self.outputs.insert(id, output);
    }

    /// Notes a change for the log.
    pub(super) fn log(
        &mut self,
        provider: ProviderName,
        execution: Option<ExecutionId>,
        change: Change,
    ) {
        self.log.push(Logged { provider, execution, change });
    }

    /// How busy these locked providers are, everything in this batch so far included.
    pub(super) async fn fresh_loads(
        &mut self,
        names: &[ProviderName],
    ) -> Result<BTreeMap<ProviderName, Load>> {
        self.flush().await?;
        self.transaction.loads(names).await
    }

    /// The first ready records of each of these queues. Flush first if anything changed.
    pub(super) async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction.ready(wanted).await
    }

    /// The first records of each provider that are to be stopped at it. Flush first.
    pub(super) async fn cancelling(
        &mut self,
        wanted: &[(ProviderName, u32)],
    ) -> Result<Vec<Record>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction.cancelling(wanted).await
    }

    /// Ready records that do not say yet that they wait for the limit. Flush first.
    pub(super) async fn unmarked(
        &mut self,
        names: &[ProviderName],
        limit: u32,
    ) -> Result<Vec<Record>> {
        self.transaction.unmarked(names, limit).await
    }

    /// Records whose time has come.
    pub(super) async fn due(&mut self, reclaim: Timestamp, limit: u32) -> Result<Due> {
        self.flush().await?;
        self.transaction.due(self.now, reclaim, limit).await
    }

    /// When something is due next. Flush first.
    pub(super) async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        self.transaction.next_due().await
    }

    /// Providers of which something is due: a pause is over, or the time for which a gate was closed or
    /// limits were set.
    pub(super) async fn providers_due(&mut self) -> Result<Vec<ProviderRecord>> {
        self.flush().await?;
        self.transaction.providers_due(self.now).await
    }

    /// Running records of other workers.
    pub(super) async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        self.flush().await?;
        self.transaction.running_elsewhere(worker).await
    }

    /// What was submitted under these ids.
    pub(super) async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction.specs(ids).await
    }

    /// Writes a worker's row, and forgets those not heard of for a time.
    pub(super) async fn put_worker(&mut self, worker: &WorkerRow, after: Duration) -> Result<()> {
        self.transaction.put_worker(worker, self.now - after).await
    }

    /// Writes what has changed so far, the log apart.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.write_executions().await?;
        self.write_providers().await
    }

    async fn write_executions(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        let inserts = std::mem::take(&mut self.inserts);
        if !inserts.is_empty() {
            dirty.retain(|id| !inserts.contains_key(id));
            let with_record = |(id, new)| Some((new, self.records.get(id)?));
            let rows: Vec<_> = inserts.iter().filter_map(with_record).collect();
            self.transaction.insert(&rows).await?;
        }
        if !dirty.is_empty() {
            let records: Vec<_> = dirty.iter().filter_map(|id| self.records.get(id)).collect();
            self.transaction.put_records(&records).await?;
        }
        let outputs = std::mem::take(&mut self.outputs);
        if !outputs.is_empty() {
            let outputs: Vec<_> = outputs.iter().map(|(id, output)| (*id, &**output)).collect();
            self.transaction.put_outputs(&outputs).await?;
        }
        Ok(())
    }

    async fn write_providers(&mut self) -> Result<()> {
        let dirty = std::mem::take(&mut self.dirty_providers);
        if dirty.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = dirty.iter().filter_map(|name| self.providers.get(name)).collect();
        self.transaction.put_providers(&rows).await
    }

    /// Writes the rest, numbers and appends the log; returns where it went and the entries. The
    /// counter's lock is the last one taken, but for provider rows held already.
    pub(super) async fn finish(mut self) -> Result<(Appended, Vec<Notice>)> {
        self.write_executions().await?;
        if self.log.is_empty() {
            // What is noted of a provider need not be worth an entry.
            self.write_providers().await?;
            return Ok((Appended { first: 0, at: self.now }, Vec::new()));
        }
        let appended = self.transaction.append(self.now, &self.log).await?;
        let mut notices = Vec::with_capacity(self.log.len());
        for (revision, entry) in (appended.first..).zip(std::mem::take(&mut self.log)) {
            if entry.execution.is_none()
                && let Some(provider) = self.providers.get_mut(&entry.provider)
            {
                if entry.change.is_gate() {
                    provider.gate_revision = revision;
                } else if entry.change.is_said_of_limits() {
                    provider.limits_revision = revision;
                }
                self.dirty_providers.insert(entry.provider.clone());
            }
            let Logged { provider, execution, change } = entry;
            let change = Some(change).filter(|change| !change.is_output());
            notices.push(Notice { revision, provider, execution, change });
        }
        self.write_providers().await?;
        Ok((appended, notices))
    }
}

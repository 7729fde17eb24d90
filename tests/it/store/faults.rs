//! A database that fails on demand: what fails is undone, what waits beside it is not harmed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flowgate::domain::{
    Event, ExecutionId, ProviderName, ProviderRecord, Record, Spec, State, Timestamp, WorkerId,
};
use flowgate::store::{
    Appended, Backend, BackendError, Due, EventQuery, Head, History, Lane, ListQuery, Load, Logged,
    NewExecution, Payload, Pick, ProviderRow, StoreError, StoreKind, Totals, Transaction,
    WorkerRow,
};
use futures_util::join;

use super::fixture::{TestStore, name};
use crate::support::{Db, StoreHome, on_both};

on_both! {
    #[tokio::test]
    a_failed_group_commit_is_made_up_for_singly;
    #[tokio::test]
    an_operation_that_fails_alone_is_undone_and_says_so;
    #[tokio::test]
    an_operation_that_keeps_failing_fails_alone;
}

type Result<T> = std::result::Result<T, BackendError>;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every transaction, until [`Faulty::heal`].
    Down,
    /// The next commit.
    Commit,
    /// The next transaction does not begin.
    Begin,
    /// The next append to the log, when the rest is written already.
    Append,
    /// Every insertion of this execution.
    Insert(ExecutionId),
    /// Every insertion of this execution panics.
    Panic(ExecutionId),
    /// Every reading of the totals.
    Unreadable,
    /// Every reading of the totals panics.
    ReadingPanics,
}

/// A database with a fault.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn Backend>,
    fault: Arc<Mutex<Option<Fault>>>,
    totals_read: Arc<AtomicU64>,
}

impl Faulty {
    async fn store(db: Db) -> (TestStore, Self) {
        let home = StoreHome::new(db).await;
        let faulty = Self::over(home.open().await);
        (TestStore::over(Arc::new(faulty.clone()), Some(home)), faulty)
    }

    /// A sound database, for now.
    pub(crate) fn over(inner: Arc<dyn Backend>) -> Self {
        Self { inner, fault: Arc::default(), totals_read: Arc::default() }
    }

    /// Plans a fault.
    pub(crate) fn will(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    /// Makes it sound again.
    pub(crate) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// How often the totals were read.
    pub(crate) fn totals_read(&self) -> u64 {
        self.totals_read.load(Ordering::Relaxed)
    }

    /// Whether this is what is to fail, once.
    fn fails(&self, fault: Fault) -> Result<()> {
        let mut planned = self.fault.lock().unwrap();
        if *planned == Some(fault) {
            *planned = None;
            return Err(BackendError::Injected("on purpose"));
        }
        Ok(())
    }
}

async fn a_failed_group_commit_is_made_up_for_singly(db: Db) {
    for fault in [Fault::Commit, Fault::Begin, Fault::Append] {
        let (t, faulty) = Faulty::store(db).await;
        t.declare("p", 2).await;
        let (one, two) = (t.new_with("p", |_| {}), t.new_with("p", |_| {}));
        let ids = [one.spec.id, two.spec.id];
        let before = t.store.commit_stats().commits;
        faulty.will(fault);
        let answers = join!(t.store.submit(vec![one]), t.store.submit(vec![two]));
        assert!(answers.0.unwrap().is_ok() && answers.1.unwrap().is_ok());
        assert_eq!(t.claim("p", 1).await[0].lease.id, ids[0]);
        assert_eq!(t.store.commit_stats().commits, before + 3);
        t.check().await;
    }
}

async fn an_operation_that_fails_alone_is_undone_and_says_so(db: Db) {
    for fault in [Fault::Commit, Fault::Begin, Fault::Append] {
        let (t, faulty) = Faulty::store(db).await;
        t.declare("p", 2).await;
        let id = t.submit_with("p", |_| {}).await;
        let (head, records) = (t.head().await, t.records(&[id]).await);
        faulty.will(fault);
        let claim = t.store.claim(t.claim_of(&[("p", 1)])).await;
        assert!(matches!(claim, Err(StoreError::Unavailable(_))), "{fault:?}");
        assert_eq!((t.head().await, t.records(&[id]).await), (head, records));
        assert_eq!(t.claim("p", 1).await.len(), 1, "the store works again");
        t.check().await;
    }
}

async fn an_operation_that_keeps_failing_fails_alone(db: Db) {
    for fault in [Fault::Insert, Fault::Panic] {
        let (t, faulty) = Faulty::store(db).await;
        t.declare("p", 2).await;
        let bad = t.new_with("p", |spec| spec.request_id = Some("again".to_owned()));
        let good = t.new_with("p", |_| {});
        let (bad_id, good_id) = (bad.spec.id, good.spec.id);
        faulty.will(fault(bad_id));
        let mut commits = t.store.commits();
        let batch = vec![t.new_with("p", |_| {}), bad.clone()];
        let answers = join!(
            t.store.submit(batch),
            t.store.submit(vec![good]),
            t.store.set_gate(name("p"), pause())
        );
        assert!(matches!(answers.0, Err(StoreError::Unavailable(_))));
        assert!(answers.1.unwrap().is_ok() && answers.2.unwrap());
        assert_eq!(t.state(good_id).await, State::Pending);
        let announced =
            commits.try_recv().unwrap().entries.len() + commits.try_recv().unwrap().entries.len();
        assert!(commits.try_recv().is_err(), "what was undone is not announced");
        assert_eq!(announced, 2);
        faulty.will(Fault::Commit);
        assert!(t.store.submit(vec![bad.clone()]).await.is_err());
        // The request id is free again: the failed submissions left nothing behind.
        t.submit(bad).await;
        t.check().await;
    }
}

fn pause() -> flowgate::store::GateChange {
    flowgate::store::GateChange::Pause { reason: "x".to_owned(), until: None }
}

#[async_trait]
impl Backend for Faulty {
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    async fn begin(&self, lane: Lane) -> Result<Box<dyn Transaction>> {
        self.fails(Fault::Begin)?;
        if *self.fault.lock().unwrap() == Some(Fault::Down) {
            return Err(BackendError::Injected("down"));
        }
        let inner = self.inner.begin(lane).await?;
        Ok(Box::new(FaultyTransaction { inner, faulty: self.clone() }))
    }

    async fn histories(&self, ids: &[ExecutionId], payload: Payload) -> Result<Vec<History>> {
        self.inner.histories(ids, payload).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<ExecutionId>> {
        self.inner.list(query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        self.inner.events(query).await
    }

    async fn waiting(&self) -> Result<Vec<ProviderName>> {
        self.inner.waiting().await
    }

    async fn ahead_of(&self, id: ExecutionId) -> Result<Option<u64>> {
        self.inner.ahead_of(id).await
    }

    async fn gate_at(&self, provider: &ProviderName, revision: i64) -> Result<Option<Event>> {
        self.inner.gate_at(provider, revision).await
    }

    async fn limit_changes(
        &self,
        provider: &ProviderName,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Event>> {
        self.inner.limit_changes(provider, before, limit).await
    }

    async fn head(&self) -> Result<Head> {
        self.inner.head().await
    }

    async fn providers(&self) -> Result<Vec<ProviderRow>> {
        self.inner.providers().await
    }

    async fn totals(&self) -> Result<Totals> {
        self.totals_read.fetch_add(1, Ordering::Relaxed);
        let fault = *self.fault.lock().unwrap();
        assert_ne!(fault, Some(Fault::ReadingPanics), "on purpose");
        if fault == Some(Fault::Unreadable) {
            return Err(BackendError::Injected("unreadable"));
        }
        self.inner.totals().await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        self.inner.workers().await
    }

    fn kind(&self) -> StoreKind {
        self.inner.kind()
    }
}

struct FaultyTransaction {
    inner: Box<dyn Transaction>,
    faulty: Faulty,
}

#[async_trait]
impl Transaction for FaultyTransaction {
    async fn now(&mut self) -> Result<Option<Timestamp>> {
        self.inner.now().await
    }

    async fn records(&mut self, ids: &[ExecutionId]) -> Result<Vec<Record>> {
        self.inner.records(ids).await
    }

    async fn create_providers(&mut self, providers: &[ProviderRecord]) -> Result<()> {
        self.inner.create_providers(providers).await
    }

    async fn lock_providers(&mut self, names: &[ProviderName]) -> Result<Vec<ProviderRecord>> {
        self.inner.lock_providers(names).await
    }

    async fn providers_due(&mut self, now: Timestamp) -> Result<Vec<ProviderRecord>> {
        self.inner.providers_due(now).await
    }

    async fn loads(&mut self, names: &[ProviderName]) -> Result<BTreeMap<ProviderName, Load>> {
        self.inner.loads(names).await
    }

    async fn pending(&mut self, provider: &ProviderName, most: u32) -> Result<u64> {
        self.inner.pending(provider, most).await
    }

    async fn ready(&mut self, wanted: &[Pick]) -> Result<Vec<Record>> {
        self.inner.ready(wanted).await
    }

    async fn cancelling(&mut self, wanted: &[(ProviderName, u32)]) -> Result<Vec<Record>> {
        self.inner.cancelling(wanted).await
    }

    async fn unmarked(&mut self, providers: &[ProviderName], limit: u32) -> Result<Vec<Record>> {
        self.inner.unmarked(providers, limit).await
    }

    async fn due(&mut self, now: Timestamp, reclaim: Timestamp, limit: u32) -> Result<Due> {
        self.inner.due(now, reclaim, limit).await
    }

    async fn next_due(&mut self) -> Result<Option<Timestamp>> {
        self.inner.next_due().await
    }

    async fn running_elsewhere(&mut self, worker: WorkerId) -> Result<Vec<Record>> {
        self.inner.running_elsewhere(worker).await
    }

    async fn requests(&mut self, ids: &[&str]) -> Result<Vec<(String, ExecutionId, String)>> {
        self.inner.requests(ids).await
    }

    async fn specs(&mut self, ids: &[ExecutionId]) -> Result<Vec<Spec>> {
        self.inner.specs(ids).await
    }

    async fn insert(&mut self, executions: &[(&NewExecution, &Record)]) -> Result<()> {
        let planned = *self.faulty.fault.lock().unwrap();
        let has = |id| executions.iter().any(|(new, _)| new.spec.id == id);
        match planned {
            Some(Fault::Insert(id)) if has(id) => Err(BackendError::Injected("on purpose")),
            Some(Fault::Panic(id)) if has(id) => panic!("on purpose"),
            _ => self.inner.insert(executions).await,
        }
    }

    async fn put_records(&mut self, records: &[&Record]) -> Result<()> {
        self.inner.put_records(records).await
    }

    async fn put_outputs(&mut self, outputs: &[(ExecutionId, &str)]) -> Result<()> {
        self.inner.put_outputs(outputs).await
    }

    async fn put_providers(&mut self, providers: &[&ProviderRecord]) -> Result<()> {
        self.inner.put_providers(providers).await
    }

    async fn put_worker(&mut self, worker: &WorkerRow, forget: Timestamp) -> Result<()> {
        self.inner.put_worker(worker, forget).await
    }

    async fn append(&mut self, at: Timestamp, changes: &[Logged]) -> Result<Appended> {
        let appended = self.inner.append(at, changes).await?;
        self.faulty.fails(Fault::Append)?;
        Ok(appended)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.faulty.fails(Fault::Commit)?;
        self.inner.commit().await
    }
}

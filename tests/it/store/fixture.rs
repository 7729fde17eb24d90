//! A store of its own for every test, on a clock that moves only when told to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::{
    Change, Clock, Demand, Ending, ErrorCode, Event, Execution, ExecutionId, Failure, Fenced,
    Input, Lease, LimitUpdate, Limits, ManualClock, OnLost, Overrides, ProviderName,
    ProviderRecord, Record, RetryPolicy, Signal, Spec, State, Timestamp, Told, Wait, WorkerId,
};
use flowgate::store::{
    Advanced, Backend, CancelAnswer, Claim, Claimed, EventQuery, ExpectedRevision, GateChange,
    Lane, LimitChange, MemoryBackend, NewExecution, Payload, ProviderNews, Settlement, Store,
    Submitted, Wanted,
};
use flowgate::tasks::Tasks;

use crate::support::{Db, StoreHome};

/// What a point of priority is worth in the queue.
pub(crate) const HEAD_START: Duration = Duration::from_secs(60);
pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const GRACE: Duration = Duration::from_secs(6);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Sqlite,
    Postgres,
}

impl From<Db> for Kind {
    fn from(db: Db) -> Self {
        match db {
            Db::Sqlite => Self::Sqlite,
            Db::Postgres => Self::Postgres,
        }
    }
}

pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) tasks: Tasks,
    pub(crate) worker: WorkerId,
    /// Nowhere, if it is in memory.
    home: Option<StoreHome>,
}

impl TestStore {
    pub(crate) async fn open(kind: impl Into<Kind>) -> Self {
        let home = match kind.into() {
            Kind::Memory => return Self::over(Arc::new(MemoryBackend::default()), None),
            Kind::Sqlite => StoreHome::new(Db::Sqlite).await,
            Kind::Postgres => StoreHome::new(Db::Postgres).await,
        };
        Self::over(home.open().await, Some(home))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>, home: Option<StoreHome>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000)));
        let tasks = Tasks::default();
        let store = Store::start(Arc::clone(&backend), clock.clone(), &tasks);
        Self { store, backend, clock, tasks, worker: WorkerId::new(), home }
    }

    /// Where it is.
    pub(crate) fn home(&self) -> &StoreHome {
        self.home.as_ref().expect("the test has a store that is not in memory")
    }

    /// Where the SQLite file is.
    pub(crate) fn path(&self) -> PathBuf {
        match self.home() {
            StoreHome::Sqlite { file, .. } => file.clone(),
            StoreHome::Postgres(_) => panic!("it is not in a file"),
        }
    }

    /// Closes the store; what it left on disk goes with its home.
    pub(crate) async fn close(self) -> StoreHome {
        let Self { store, backend, tasks, home, .. } = self;
        drop(store);
        tasks.ended().await;
        backend.close().await.unwrap();
        home.expect("what is in memory is not left behind")
    }

    /// Closes the store and opens what it left on disk.
    pub(crate) async fn reopen(self) -> Self {
        let Self { store, backend, clock, tasks, home, .. } = self;
        drop(store);
        tasks.ended().await;
        drop(backend);
        let home = home.expect("what is in memory is not left behind");
        let reopened = Self::over(home.open().await, Some(home));
        reopened.clock.advance(clock.now().since(reopened.clock.now()));
        reopened
    }

    pub(crate) async fn declare(&self, provider: &str, max_concurrent: u32) {
        self.store
            .declare(vec![(name(provider), Limits::concurrent(max_concurrent))])
            .await
            .unwrap();
    }

    pub(crate) async fn declare_limits(&self, provider: &str, limits: Limits) {
        self.store.declare(vec![(name(provider), limits)]).await.unwrap();
    }

    /// Sets what `overrides` says of one provider, for good or until a time.
    pub(crate) async fn override_limits(
        &self,
        provider: &str,
        overrides: Overrides,
        expires_at: Option<Timestamp>,
    ) {
        let update = LimitUpdate::Set(overrides);
        let changes = vec![LimitChange { provider: name(provider), update, expires_at }];
        let set =
            self.store.set_limits(changes, Told::by_itself("test"), ExpectedRevision::Any, false);
        set.await.unwrap().unwrap();
    }

    /// What is known of a provider.
    pub(crate) async fn provider(&self, provider: &str) -> ProviderRecord {
        let rows = self.store.providers().await.unwrap();
        let row = rows.into_iter().find(|row| row.record.name == name(provider));
        row.expect("it is declared").record
    }

    /// What `SetLimits` does to one provider.
    pub(crate) async fn limit(&self, provider: &str, max_concurrent: Option<u32>) {
        let changes = vec![limit_change(provider, max_concurrent)];
        let set =
            self.store.set_limits(changes, Told::by_itself("test"), ExpectedRevision::Any, false);
        set.await.unwrap().unwrap();
    }

    pub(crate) async fn pause(&self, provider: &str, until: Option<Timestamp>) -> bool {
        let change = GateChange::Pause { reason: "maintenance".to_owned(), until };
        self.store.set_gate(name(provider), change).await.unwrap()
    }

    pub(crate) async fn resume(&self, provider: &str) -> bool {
        let change = GateChange::Resume { reason: "done".to_owned() };
        self.store.set_gate(name(provider), change).await.unwrap()
    }

    /// A submission to be adjusted by `adjust`.
    pub(crate) fn new_with(&self, provider: &str, adjust: impl FnOnce(&mut Spec)) -> NewExecution {
        let mut spec = Spec {
            id: ExecutionId::new(),
            provider: name(provider),
            input: Input { json: r#"{"a":1}"#.to_owned(), exact: false },
            demand: None,
            request_id: None,
            priority: 0,
            labels: BTreeMap::new(),
            schedule_at: None,
            queue_timeout: None,
            run_timeout: Duration::from_secs(600),
            retry: RetryPolicy::default(),
            on_lost: OnLost::Rerun,
            retry_of: None,
            trace: None,
            created_at: self.clock.now(),
        };
        adjust(&mut spec);
        NewExecution {
            spec: Arc::new(spec),
            request_hash: "hash".to_owned(),
            head_start: HEAD_START,
        }
    }

    pub(crate) async fn submit(&self, new: NewExecution) -> ExecutionId {
        let id = new.spec.id;
        let answers = self.store.submit(vec![new]).await.unwrap().unwrap();
        assert!(matches!(answers[..], [Submitted::New { .. }]), "{answers:?}");
        id
    }

    pub(crate) async fn submit_with(
        &self,
        provider: &str,
        adjust: impl FnOnce(&mut Spec),
    ) -> ExecutionId {
        self.submit(self.new_with(provider, adjust)).await
    }

    /// One that is expected to take this of its provider's budgets.
    pub(crate) async fn submit_demanding(
        &self,
        provider: &str,
        model: Option<&str>,
        (input_tokens, output_tokens): (u64, u64),
    ) -> ExecutionId {
        let model = model.map(str::to_owned);
        let demand = Some(Demand { model, input_tokens, output_tokens });
        self.submit_with(provider, |spec| spec.demand = demand).await
    }

    pub(crate) async fn submit_plain(&self, provider: &str, count: usize) -> Vec<ExecutionId> {
        let new: Vec<_> = (0..count).map(|_| self.new_with(provider, |_| {})).collect();
        let ids = new.iter().map(|new| new.spec.id).collect();
        self.store.submit(new).await.unwrap().unwrap();
        ids
    }

    pub(crate) fn claim_of(&self, wanted: &[(&str, u32)]) -> Claim {
        let wanted = wanted.iter().map(|(provider, count)| unshared(name(provider), *count));
        claim(self.worker, wanted.collect())
    }

    pub(crate) async fn claim(&self, provider: &str, count: u32) -> Vec<Claimed> {
        self.store.claim(self.claim_of(&[(provider, count)])).await.unwrap().claimed
    }

    /// Claims the one execution that there is to be claimed.
    pub(crate) async fn claim_one(&self, provider: &str) -> Lease {
        let claimed = self.claim(provider, 2).await;
        assert_eq!(claimed.len(), 1);
        claimed[0].lease.clone()
    }

    pub(crate) async fn settle(&self, lease: &Lease, ending: Ending) -> Result<(), Fenced> {
        self.store.settle(Settlement::new(lease.clone(), ending)).await.unwrap()
    }

    /// Ends an attempt with what it says of its provider, as a worker does.
    pub(crate) async fn settle_telling(
        &self,
        claimed: &Claimed,
        ending: Ending,
        signal: Option<Signal>,
    ) {
        let news = Some(ProviderNews {
            provider: claimed.spec.provider.clone(),
            lane: claimed.lane.clone(),
            signal,
            observed: None,
            reserved: claimed.reserved.clone(),
        });
        let settlement = Settlement { lease: claimed.lease.clone(), ending, news };
        self.store.settle(settlement).await.unwrap().unwrap();
    }

    pub(crate) async fn succeed(&self, lease: &Lease) {
        self.settle(lease, succeeded("{}")).await.unwrap();
    }

    pub(crate) async fn cancel(&self, id: ExecutionId) -> Option<CancelAnswer> {
        let answers = self.store.cancel(vec![id], "changed my mind".to_owned()).await.unwrap();
        answers.first().map(|(answered, answer)| {
            assert_eq!(*answered, id);
            *answer
        })
    }

    /// Moves the clock, then makes what is due.
    pub(crate) async fn pass(&self, time: Duration) -> Advanced {
        self.clock.advance(time);
        self.store.advance(GRACE).await.unwrap()
    }

    pub(crate) async fn get(&self, id: ExecutionId) -> Execution {
        self.store.execution(id, Payload::With).await.unwrap().expect("the execution exists")
    }

    pub(crate) async fn state(&self, id: ExecutionId) -> State {
        self.get(id).await.state
    }

    pub(crate) async fn wait(&self, id: ExecutionId) -> Wait {
        self.get(id).await.wait
    }

    pub(crate) async fn head(&self) -> i64 {
        self.store.head().await.unwrap().revision
    }

    /// The whole log.
    pub(crate) async fn log(&self) -> Vec<Event> {
        let query = EventQuery { after: 0, execution: None, output: true, limit: u32::MAX };
        self.store.events(&query).await.unwrap()
    }

    /// What happened to one execution, output included.
    pub(crate) async fn changes(&self, id: ExecutionId) -> Vec<Change> {
        let mut log = self.log().await;
        log.retain(|event| event.execution == Some(id));
        log.into_iter().map(|event| event.change).collect()
    }

    pub(crate) async fn records(&self, ids: &[ExecutionId]) -> Vec<Record> {
        // Dropped without a commit: this only looks.
        let mut records =
            self.backend.begin(Lane::Changes).await.unwrap().records(ids).await.unwrap();
        records.sort_by_key(|record| record.id);
        records
    }

    /// What must be true of every store at any time.
    pub(crate) async fn check(&self) {
        let log = self.log().await;
        let revisions: Vec<_> = log.iter().map(|event| event.revision).collect();
        let expected: Vec<_> = (1..=self.head().await).collect();
        assert_eq!(revisions, expected, "revisions are dense");
        let mut ids: Vec<_> = log.iter().filter_map(|event| event.execution).collect();
        ids.sort_unstable();
        ids.dedup();
        let records = self.records(&ids).await;
        let folded = self.store.executions(&ids, Payload::With).await.unwrap();
        assert_eq!(records.len(), ids.len(), "every execution of the log has a record");
        assert_eq!(folded.len(), ids.len(), "every execution of the log can be read");
        for (record, execution) in records.iter().zip(&folded) {
            assert_agree(record, execution);
        }
        let mut checker = flowgate::admin::Checker::new(0);
        for event in &log {
            checker.feed(event).unwrap_or_else(|violation| panic!("{violation}"));
        }
        checker.end().unwrap_or_else(|violations| panic!("{violations:?}"));
    }
}

/// The record is what the log says it is.
fn assert_agree(record: &Record, execution: &Execution) {
    let attempts = u32::try_from(execution.attempts.len()).unwrap();
    assert_eq!(record.id, execution.spec.id);
    assert_eq!(record.provider, execution.spec.provider);
    assert_eq!(record.priority, execution.spec.priority);
    assert_eq!(record.state, execution.state, "state of {}", record.id);
    assert_eq!(record.wait, execution.wait, "wait of {}", record.id);
    assert_eq!(record.attempts, attempts, "attempts of {}", record.id);
    assert_eq!(record.charged, execution.charged, "charged attempts of {}", record.id);
    assert_eq!(record.crashes, execution.crashes, "crashes of {}", record.id);
    let cancelled_at = execution.cancel.as_ref().map(|(at, _)| *at);
    assert_eq!(record.cancel_requested_at, cancelled_at, "cancellation of {}", record.id);
    let running = execution.attempts.last().filter(|_| execution.state == State::Running);
    assert_eq!(record.owner, running.map(|attempt| attempt.worker), "owner of {}", record.id);
    assert_eq!(record.lease_expires_at.is_some(), running.is_some(), "lease of {}", record.id);
    assert_eq!(record.token.0, i64::from(attempts), "token of {}", record.id);
}

pub(crate) fn name(text: &str) -> ProviderName {
    text.parse().unwrap()
}

/// A claim that slots do not bind.
pub(crate) fn claim(worker: WorkerId, wanted: Vec<Wanted>) -> Claim {
    Claim { worker, wanted, slots: u32::MAX, kept: 0, beyond: 0, lease: LEASE }
}

/// So many of a provider, whatever others may want.
pub(crate) fn unshared(provider: ProviderName, most: u32) -> Wanted {
    Wanted { provider, most, sharers: 1, running_here: 0 }
}

pub(crate) fn limit_change(provider: &str, max_concurrent: Option<u32>) -> LimitChange {
    let set = |max_concurrent| LimitUpdate::Set(Overrides::concurrent(max_concurrent));
    let update = max_concurrent.map_or(LimitUpdate::Reset, set);
    LimitChange { provider: name(provider), update, expires_at: None }
}

pub(crate) fn failure(code: ErrorCode) -> Failure {
    Failure::new(code, true, "it went wrong")
}

pub(crate) fn succeeded(output: &str) -> Ending {
    Ending::Succeeded { output: output.into(), usage: None }
}

pub(crate) fn failed() -> Ending {
    Ending::Failed { failure: failure(ErrorCode::Permanent), output: None, usage: None }
}

pub(crate) fn retry(delay: Duration) -> Ending {
    Ending::Retry { failure: failure(ErrorCode::Transient), delay, charged: true, usage: None }
}

pub(crate) fn crashed() -> Ending {
    Ending::Crashed { failure: failure(ErrorCode::Crashed) }
}

pub(crate) fn cancelled() -> Ending {
    Ending::Cancelled { failure: failure(ErrorCode::Cancelled), output: None, usage: None }
}

pub(crate) fn ids(claimed: &[Claimed]) -> Vec<ExecutionId> {
    claimed.iter().map(|claimed| claimed.lease.id).collect()
}

//! Group commit: one task runs all operations that wait at the same moment as one transaction.
//!
//! What must stay true: an answer is given only after the commit; an operation that fails the
//! transaction does not take its neighbours down, because each is then run by itself; and a caller
//! that goes away changes nothing, because the writer owns the operation. Transactions are bounded
//! in bytes, and renewals go first, so that no flood of large values costs anybody a lease. What was
//! committed is never run again.
//!
//! A database that one server has to itself has one writer; one that is shared has a writer a lane, so
//! that neither a lease nor a submission waits for what another replica has locked.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::batch::{Batch, Needs};
use super::error::Remedy;
use super::feed::{Commit, Feed};
use super::ops::{Operation, Phase};
use super::stall::Stalls;
use super::{Appended, Backend, BackendError, Lane, Result, StoreError, span, tally, with_sources};
use crate::domain::{Clock, Timestamp};
use crate::metrics::Instruments;
use crate::tasks::Tasks;

/// Operations that may wait; more make their callers wait before they are handed in.
const QUEUE: usize = 4_096;
/// So many bytes of payload weigh as much as one row.
const BYTES_PER_WEIGHT: usize = 4 * 1_024;
/// Operations with less payload than this wait for no room: those that end work and free slots
/// are never behind a flood of large values.
const SMALL_BYTES: usize = 64 * 1_024;
/// The most operations of one transaction, and the most that they may weigh: rows, or 8 MiB.
const MAX_OPERATIONS: usize = 512;
const MAX_WEIGHT: usize = 2_000;
/// What may weigh in the queue in all: 256 MiB of payload.
const MAX_WAITING: usize = 64 * 1_024;
/// How often, and for how long, a transaction that lost to another is run again.
const TRIES: u32 = 6;
const TRY_FOR: Duration = Duration::from_secs(10);
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// A handle on the writers.
#[derive(Clone)]
pub(super) struct Writer {
    leases: mpsc::Sender<Box<dyn Job>>,
    changes: mpsc::Sender<Box<dyn Job>>,
    claims: mpsc::Sender<Box<dyn Job>>,
    room: Arc<Semaphore>,
    common: Arc<Common>,
}

/// What the writers of one store share.
struct Common {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    /// How far the database's clock is ahead of this one's, in microseconds.
    ahead: AtomicI64,
    feed: Arc<Feed>,
    closing: CancellationToken,
    instruments: Arc<Instruments>,
    stalls: Stalls,
}

impl Writer {
    /// Starts the writers. They end when they are closed or the last handle is gone, and all that
    /// waited is done.
    pub(super) fn start(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
        instruments: Arc<Instruments>,
    ) -> Self {
        let common = Arc::new(Common {
            feed: Feed::start(&backend, tasks),
            clock,
            ahead: AtomicI64::new(0),
            closing: CancellationToken::new(),
            instruments,
            stalls: Stalls::default(),
            backend,
        });
        let (leases, urgent) = mpsc::channel(QUEUE);
        let (changes, waiting) = mpsc::channel(QUEUE);
        let one = |lane, urgent, waiting| {
            WriterTask { lane, common: Arc::clone(&common), urgent, waiting }.run()
        };
        let (claims, lanes) = if common.backend.kind().is_exclusive() {
            (changes.clone(), vec![one(Lane::Changes, Some(urgent), waiting)])
        } else {
            let (claims, claiming) = mpsc::channel(QUEUE);
            let lanes = vec![
                one(Lane::Leases, None, urgent),
                one(Lane::Changes, None, waiting),
                one(Lane::Claims, None, claiming),
            ];
            (claims, lanes)
        };
        let lanes: Vec<_> = lanes.into_iter().map(|lane| tasks.spawn_control(lane)).collect();
        let (backend, feed) = (Arc::clone(&common.backend), Arc::clone(&common.feed));
        tasks.spawn_control(async move {
            futures_util::future::join_all(lanes).await;
            feed.close();
            if let Err(error) = backend.close().await {
                let error = with_sources(&error);
                tracing::warn!(%error, "the store was not closed in order; nothing is lost");
            }
        });
        let room = Arc::new(Semaphore::new(MAX_WAITING));
        Self { leases, changes, claims, room, common }
    }

    /// Ends the writers once all that waits is done; later operations are refused.
    pub(super) fn close(&self) {
        self.common.closing.cancel();
    }

    /// Runs one operation and waits for its answer. Runs it even if nobody waits any more.
    pub(super) async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer> {
        let (reply, answer) = oneshot::channel();
        let room = match operation.bytes() {
            small if small < SMALL_BYTES => None,
            large => {
                let weight = (large / BYTES_PER_WEIGHT).min(MAX_WAITING);
                let permits = u32::try_from(weight).unwrap_or(u32::MAX);
                let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
                Some(room.map_err(|_| StoreError::Closed)?)
            }
        };
        let job = Box::new(Queued {
            operation,
            answer: None,
            reply,
            caller: span::caller(),
            _room: room,
        });
        let queue = match O::LANE {
            Lane::Leases => &self.leases,
            Lane::Changes => &self.changes,
            Lane::Claims => &self.claims,
        };
        queue.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn commits(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.common.feed.subscribe()
    }

    /// The present on the store's clock, as far as it is known here.
    pub(super) fn now(&self) -> Timestamp {
        self.common.now()
    }

    pub(super) fn instruments(&self) -> &Arc<Instruments> {
        &self.common.instruments
    }

    /// How long the longest stall lasts.
    pub(super) fn stall(&self) -> Option<Duration> {
        self.common.stalls.longest(Instant::now())
    }
}

/// An operation on its way, whatever its answer's type.
#[async_trait]
trait Job: Send {
    fn phase(&self) -> Phase;
    fn weight(&self) -> usize;
    fn caller(&self) -> &Span;
    fn needs<'a>(&'a self, needs: &mut Needs<'a>);
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BackendError>;
    fn answer(self: Box<Self>, outcome: Result<Appended>);
}

struct Queued<O: Operation> {
    operation: O,
    answer: Option<O::Answer>,
    reply: oneshot::Sender<Result<O::Answer>>,
    caller: Span,
    /// Given back when the answer is given.
    _room: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl<O: Operation> Job for Queued<O> {
    fn phase(&self) -> Phase {
        O::PHASE
    }

    fn weight(&self) -> usize {
        self.operation.rows() + self.operation.bytes() / BYTES_PER_WEIGHT
    }

    fn caller(&self) -> &Span {
        &self.caller
    }

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        self.operation.needs(needs);
    }

    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BackendError> {
        self.answer = Some(self.operation.apply(batch).await?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<Appended>) {
        let Self { operation, answer, reply, caller: _, _room } = *self;
        let answer = outcome.and_then(|appended| {
            let mut answer = answer.ok_or(StoreError::Closed)?;
            operation.committed(&mut answer, appended);
            Ok(answer)
        });
        // Nobody may be waiting any more; what was committed stays committed.
        let _ = reply.send(answer);
    }
}

impl Common {
    fn now(&self) -> Timestamp {
        let now = self.clock.now().as_micros();
        Timestamp::from_micros(now.saturating_add(self.ahead.load(Ordering::Relaxed)))
    }

    /// Notes what the database's clock said a moment ago.
    fn set_clock(&self, said: Timestamp) {
        let ahead = said.as_micros().saturating_sub(self.clock.now().as_micros());
        self.ahead.store(ahead, Ordering::Relaxed);
    }
}

/// The writer of one lane.
struct WriterTask {
    lane: Lane,
    common: Arc<Common>,
    /// What goes before everything else that waits, where it has no lane of its own.
    urgent: Option<mpsc::Receiver<Box<dyn Job>>>,
    waiting: mpsc::Receiver<Box<dyn Job>>,
}

impl WriterTask {
    /// What metrics call it.
    fn label(&self) -> &'static str {
        match self.lane {
            // It has all of them to itself.
            _ if self.urgent.is_some() => "all",
            Lane::Leases => "leases",
            Lane::Changes => "changes",
            Lane::Claims => "claims",
        }
    }

    async fn run(mut self) {
        self.common.instruments.open_lane(self.label());
        while let Some(first) = self.next().await {
            self.common.stalls.moves(self.lane, Instant::now());
            let mut jobs = self.collect(first);
            // Stable: operations of one phase keep the order they came in.
            jobs.sort_by_key(|job| job.phase());
            match self.attempt(&mut jobs, TRIES).await {
                Ok(appended) => jobs.into_iter().for_each(|job| job.answer(Ok(appended))),
                Err(error) if jobs.len() > 1 && error.remedy() != Remedy::GiveUp => {
                    tracing::warn!(
                        error = %with_sources(&error), operations = jobs.len(),
                        "a group commit failed, its operations run singly"
                    );
                    // What somebody holds costs no more than one wait, and only those that need it.
                    let tries = if error.remedy() == Remedy::RunAgain { 1 } else { TRIES };
                    self.run_singly(jobs, tries).await;
                }
                Err(error) => {
                    self.common.instruments.store_failed(self.label());
                    let error = StoreError::from(error);
                    jobs.into_iter().for_each(|job| job.answer(Err(error.clone())));
                }
            }
            self.common.stalls.rests(self.lane);
        }
    }

    async fn run_singly(&self, jobs: Vec<Box<dyn Job>>, tries: u32) {
        let mut gone: Option<StoreError> = None;
        for job in jobs {
            if let Some(gone) = &gone {
                job.answer(Err(gone.clone()));
                continue;
            }
            let mut single = [job];
            let outcome = self.attempt(&mut single, tries).await;
            let [job] = single;
            let is_gone = outcome.as_ref().is_err_and(|it| it.remedy() == Remedy::GiveUp);
            if outcome.is_err() {
                self.common.instruments.store_failed(self.label());
            }
            let outcome = outcome.map_err(StoreError::from);
            if is_gone {
                gone = outcome.as_ref().err().cloned();
            }
            job.answer(outcome);
        }
    }

    /// The next operation; `None` when the store is closed and nothing waits any more.
    async fn next(&mut self) -> Option<Box<dyn Job>> {
        let Self { urgent, waiting, common, .. } = self;
        let urgent = async {
            match urgent {
                Some(urgent) => urgent.recv().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            Some(job) = urgent => Some(job),
            job = waiting.recv() => job,
            () = common.closing.cancelled() => None,
        }
    }

    /// Everything that waits now, within the bounds of one transaction.
    fn collect(&mut self, first: Box<dyn Job>) -> Vec<Box<dyn Job>> {
        let mut weight = first.weight();
        let mut jobs = vec![first];
        while jobs.len() < MAX_OPERATIONS && weight < MAX_WEIGHT {
            let urgent = self.urgent.as_mut().and_then(|urgent| urgent.try_recv().ok());
            let Some(job) = urgent.or_else(|| self.waiting.try_recv().ok()) else { break };
            weight += job.weight();
            jobs.push(job);
        }
        jobs
    }

    /// Runs the operations as one transaction, again if it lost to another or its connection broke
    /// before the commit.
    async fn attempt(
        &self,
        jobs: &mut [Box<dyn Job>],
        tries: u32,
    ) -> Result<Appended, BackendError> {
        let started = Instant::now();
        for attempt in 1.. {
            let callers = jobs.iter().map(|job| job.caller());
            let kind = self.common.backend.kind();
            let span = span::transaction(kind, self.lane, jobs.len(), callers);
            let transaction = self.transact(jobs).instrument(span.clone());
            let transaction = AssertUnwindSafe(transaction).catch_unwind();
            // One that panics fails like any other trouble: the writer must outlive every operation.
            let error = match transaction.await.unwrap_or(Err(BackendError::Panicked)) {
                Ok(appended) => return Ok(appended),
                Err(error) => error,
            };
            span.record("otel.status_code", "ERROR");
            let again = error.remedy() == Remedy::RunAgain;
            if !again || attempt >= tries || started.elapsed() > TRY_FOR {
                return Err(error);
            }
            tracing::debug!(error = %with_sources(&error), lane = ?self.lane, "a transaction is run again");
            tokio::time::sleep(TRY_PAUSE.mul_f64(rand::random())).await;
        }
        unreachable!("the last try returns")
    }

    /// Runs the operations as one transaction; returns where its log entries went.
    async fn transact(&self, jobs: &mut [Box<dyn Job>]) -> Result<Appended, BackendError> {
        let Self { lane, common, .. } = self;
        let started = Instant::now();
        let mut transaction = common.backend.begin(*lane).await?;
        let now = match transaction.now().await? {
            Some(now) => {
                common.set_clock(now);
                now
            }
            None => common.clock.now(),
        };
        let mut needs = Needs::default();
        jobs.iter().for_each(|job| job.needs(&mut needs));
        let mut batch = Batch::gather(&mut *transaction, now, needs).await?;
        for job in jobs.iter_mut() {
            job.apply(&mut batch).await?;
        }
        let (appended, notices) = batch.finish().await?;
        transaction.commit().await?;
        common.stalls.moves(*lane, Instant::now());
        common.instruments.committed(self.label(), jobs.len(), started.elapsed());
        tally::count(&common.instruments, &notices);
        common.feed.committed(notices);
        Ok(appended)
    }
}

//! Group commit: one task runs all operations that wait at the same moment as one transaction.
//!
//! What must stay true: an answer is given only after the commit; an operation that fails the
//! transaction does not take its neighbours down, because each is then run by itself; and a caller
//! that goes away changes nothing, because the writer owns the operation. Transactions are bounded
//! in bytes, and renewals go first, so that no flood of large values costs anybody a lease.

use std::error::Error as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Needs};
use super::ops::{Operation, Phase};
use super::{Appended, Backend, BackendError, Result, StoreError};
use crate::domain::{Clock, Event};
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
/// Commits that a subscriber may fall behind before it has to read the log instead.
const FEED: usize = 1_024;

/// One commit, as subscribers hear of it.
#[derive(Debug)]
pub struct Commit {
    /// What it appended to the log, in order.
    pub events: Vec<Event>,
}

impl Commit {
    /// The newest revision of the commit.
    pub fn revision(&self) -> i64 {
        self.events.last().map_or(0, |event| event.revision)
    }
}

/// How the writer fares, since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: u64,
    /// Operations they carried.
    pub operations: u64,
    /// Time they took in all.
    pub busy: Duration,
}

/// A handle on the writer task.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    urgent: mpsc::Sender<Box<dyn Job>>,
    room: Arc<Semaphore>,
    closing: CancellationToken,
    feed: broadcast::Sender<Arc<Commit>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    operations: AtomicU64,
    busy_micros: AtomicU64,
}

impl Writer {
    /// Starts the task. It ends when it is closed or the last handle is gone, and all that waited
    /// is done.
    pub(super) fn start(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (urgent, urgently_waiting) = mpsc::channel(QUEUE);
        let closing = CancellationToken::new();
        let (feed, _) = broadcast::channel(FEED);
        let counters = Arc::new(Counters::default());
        let task = WriterTask {
            backend,
            clock,
            waiting,
            urgent: urgently_waiting,
            closing: closing.clone(),
            feed: feed.clone(),
            counters: Arc::clone(&counters),
        };
        tasks.spawn_control(task.run());
        let room = Arc::new(Semaphore::new(MAX_WAITING));
        Self { queue, urgent, room, closing, feed, counters }
    }

    /// Ends the task once all that waits is done; later operations are refused.
    pub(super) fn close(&self) {
        self.closing.cancel();
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
        let job = Box::new(Queued { operation, answer: None, reply, _room: room });
        let queue = if O::URGENT { &self.urgent } else { &self.queue };
        queue.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn commits(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.feed.subscribe()
    }

    pub(super) fn stats(&self) -> CommitStats {
        CommitStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            operations: self.counters.operations.load(Ordering::Relaxed),
            busy: Duration::from_micros(self.counters.busy_micros.load(Ordering::Relaxed)),
        }
    }
}

/// An operation on its way, whatever its answer's type.
#[async_trait]
trait Job: Send {
    fn phase(&self) -> Phase;
    fn weight(&self) -> usize;
    fn needs<'a>(&'a self, needs: &mut Needs<'a>);
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BackendError>;
    fn answer(self: Box<Self>, outcome: Result<Appended>);
}

struct Queued<O: Operation> {
    operation: O,
    answer: Option<O::Answer>,
    reply: oneshot::Sender<Result<O::Answer>>,
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

    fn needs<'a>(&'a self, needs: &mut Needs<'a>) {
        self.operation.needs(needs);
    }

    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), BackendError> {
        self.answer = Some(self.operation.apply(batch).await?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<Appended>) {
        let Self { operation, answer, reply, _room } = *self;
        let answer = outcome.and_then(|appended| {
            let mut answer = answer.ok_or(StoreError::Closed)?;
            operation.committed(&mut answer, appended);
            Ok(answer)
        });
        // Nobody may be waiting any more; what was committed stays committed.
        let _ = reply.send(answer);
    }
}

struct WriterTask {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    waiting: mpsc::Receiver<Box<dyn Job>>,
    urgent: mpsc::Receiver<Box<dyn Job>>,
    closing: CancellationToken,
    feed: broadcast::Sender<Arc<Commit>>,
    counters: Arc<Counters>,
}

impl WriterTask {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let mut jobs = self.collect(first);
            // Stable: operations of one phase keep the order they came in.
            jobs.sort_by_key(|job| job.phase());
            match self.attempt(&mut jobs).await {
                Ok(appended) => {
                    jobs.into_iter().for_each(|job| job.answer(Ok(appended)));
                }
                Err(error) if jobs.len() == 1 => {
                    let error = StoreError::from(error);
                    jobs.into_iter().for_each(|job| job.answer(Err(error.clone())));
                }
                Err(error) => {
                    tracing::warn!(
                        error = %error, source = error.source().map(ToString::to_string),
                        operations = jobs.len(), "a group commit failed, its operations run singly"
                    );
                    for job in jobs {
                        let mut single = [job];
                        let outcome = self.attempt(&mut single).await;
                        let [job] = single;
                        job.answer(outcome.map_err(StoreError::from));
                    }
                }
            }
        }
        if let Err(error) = self.backend.close().await {
            tracing::warn!(%error, "the store was not closed in order; nothing is lost");
        }
    }

    /// The next operation; `None` when the store is closed and nothing waits any more.
    async fn next(&mut self) -> Option<Box<dyn Job>> {
        tokio::select! {
            biased;
            Some(job) = self.urgent.recv() => Some(job),
            job = self.waiting.recv() => job,
            () = self.closing.cancelled() => None,
        }
    }

    /// Everything that waits now, within the bounds of one transaction.
    fn collect(&mut self, first: Box<dyn Job>) -> Vec<Box<dyn Job>> {
        let mut weight = first.weight();
        let mut jobs = vec![first];
        while jobs.len() < MAX_OPERATIONS && weight < MAX_WEIGHT {
            let job = self.urgent.try_recv().or_else(|_| self.waiting.try_recv());
            let Ok(job) = job else { break };
            weight += job.weight();
            jobs.push(job);
        }
        jobs
    }

    /// Runs the operations as one transaction. One that panics fails it like any other trouble:
    /// the writer must outlive every operation.
    async fn attempt(&self, jobs: &mut [Box<dyn Job>]) -> Result<Appended, BackendError> {
        let transaction = AssertUnwindSafe(self.transact(jobs)).catch_unwind();
        transaction.await.unwrap_or(Err(BackendError::Panicked))
    }

    /// Runs the operations as one transaction; returns where its log entries went.
    async fn transact(&self, jobs: &mut [Box<dyn Job>]) -> Result<Appended, BackendError> {
        let started = Instant::now();
        let mut transaction = self.backend.begin().await?;
        let mut needs = Needs::default();
        jobs.iter().for_each(|job| job.needs(&mut needs));
        let mut batch = Batch::gather(&mut *transaction, self.clock.now(), needs).await?;
        for job in jobs.iter_mut() {
            job.apply(&mut batch).await?;
        }
        let (appended, events) = batch.finish().await?;
        transaction.commit().await?;
        if !events.is_empty() {
            // No subscriber is no trouble: the log has it.
            let _ = self.feed.send(Arc::new(Commit { events }));
        }
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        let operations = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        self.counters.operations.fetch_add(operations, Ordering::Relaxed);
        let busy = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.busy_micros.fetch_add(busy, Ordering::Relaxed);
        Ok(appended)
    }
}

//! The feed of commits: what this replica committed, at once, and what others did, as soon as they ring.
//!
//! What must stay true: it is a hint and never the truth. What one commit brought comes in its order, but
//! commits of different replicas may come in any; whoever hears of a revision can read everything up to
//! it. What others did is read from the log, so that nothing depends on a ring that may be lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::{Backend, BackendError, Bell, Notice, with_sources};
use crate::tasks::Tasks;

/// Commits that a subscriber may fall behind before it has to read the log instead.
const CAPACITY: usize = 1_024;
/// Entries of the log read at a time, and pages after which the rest is skipped: who is that far behind
/// had better look at everything.
const PAGE: u32 = 2_000;
const PAGES: usize = 10;
/// How long rings are put together into one, and what was rung for into one look at the log. Under load
/// there would be as many looks as commits, of every replica at all others'.
const RING_PAUSE: Duration = Duration::from_millis(4);
const LOOK_PAUSE: Duration = Duration::from_millis(4);
/// How long to wait after the log could not be read.
const RETRY: Duration = Duration::from_millis(250);

/// One commit, or several of other replicas, as subscribers hear of it.
#[derive(Debug)]
pub struct Commit {
    /// What it appended to the log, in order. Nothing: look at everything.
    pub entries: Vec<Notice>,
    /// A revision up to which everything is committed.
    pub newest: i64,
    /// Whether it was made here.
    pub own: bool,
}

/// Where commits are told.
pub(super) struct Feed {
    sender: broadcast::Sender<Arc<Commit>>,
    /// `None` where there are no others.
    shared: Option<Shared>,
}

struct Shared {
    bell: Arc<dyn Bell>,
    /// First and last revisions of own commits that the log was not read up to yet.
    own: Mutex<VecDeque<(i64, i64)>>,
    /// Set when there is something to ring for.
    news: Notify,
    closed: CancellationToken,
}

impl Feed {
    /// Starts to listen for other replicas, if the database has any.
    pub(super) fn start(backend: &Arc<dyn Backend>, tasks: &Tasks) -> Arc<Self> {
        let shared = backend.bell().map(|bell| Shared {
            bell,
            own: Mutex::default(),
            news: Notify::new(),
            closed: CancellationToken::new(),
        });
        let feed = Arc::new(Self { sender: broadcast::channel(CAPACITY).0, shared });
        if feed.shared.is_some() {
            let (ringing, following) = (Arc::clone(&feed), Arc::clone(&feed));
            tasks.spawn_loop("ringer", move || Arc::clone(&ringing).until_closed(Self::ring));
            let backend = Arc::clone(backend);
            tasks.spawn_loop("follower", move || {
                let backend = Arc::clone(&backend);
                let follow = |feed| async move { Self::follow(feed, backend).await };
                Arc::clone(&following).until_closed(follow)
            });
        }
        feed
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.sender.subscribe()
    }

    /// Stops to listen and to ring.
    pub(super) fn close(&self) {
        if let Some(shared) = &self.shared {
            shared.closed.cancel();
        }
    }

    /// Tells of a commit of this replica.
    pub(super) fn committed(&self, entries: Vec<Notice>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (first, newest) = (first.revision, last.revision);
        if let Some(shared) = &self.shared {
            // First, so that the follower does not tell of it too.
            shared.own().push_back((first, newest));
        }
        self.tell(entries, newest, true);
        if let Some(shared) = &self.shared {
            shared.news.notify_one();
        }
    }

    fn tell(&self, entries: Vec<Notice>, newest: i64, own: bool) {
        // No subscriber is no trouble: the log has it.
        let _ = self.sender.send(Arc::new(Commit { entries, newest, own }));
    }

    async fn until_closed<F: Future<Output = ()>>(
        self: Arc<Self>,
        run: impl FnOnce(Arc<Self>) -> F,
    ) {
        let Some(closed) = self.shared.as_ref().map(|shared| shared.closed.clone()) else { return };
        closed.run_until_cancelled_owned(run(self)).await;
    }

    /// Tells the other replicas that there is something new.
    async fn ring(self: Arc<Self>) {
        let Some(shared) = &self.shared else { return };
        loop {
            shared.news.notified().await;
            if let Err(error) = shared.bell.ring().await {
                tracing::debug!(error = %with_sources(&error), "cannot wake other replicas, they will look");
            }
            tokio::time::sleep(RING_PAUSE).await;
        }
    }

    /// Tells of what other replicas committed.
    async fn follow(self: Arc<Self>, backend: Arc<dyn Backend>) {
        let Some(shared) = &self.shared else { return };
        let mut position = None;
        loop {
            match self.catch_up(shared, &*backend, position).await {
                Ok(reached) => {
                    position = Some(reached);
                    let rested = tokio::time::Instant::now() + LOOK_PAUSE;
                    shared.bell.heard().await;
                    tokio::time::sleep_until(rested).await;
                }
                Err(error) => {
                    tracing::debug!(error = %with_sources(&error), "cannot follow the log yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads the log from where it was left; returns where it ends now.
    async fn catch_up(
        &self,
        shared: &Shared,
        backend: &dyn Backend,
        position: Option<i64>,
    ) -> Result<i64, BackendError> {
        if let Some(mut position) = position {
            for _ in 0..PAGES {
                position = shared.past_own(position);
                let page = backend.notices(position, PAGE).await?;
                let full = u32::try_from(page.len()).is_ok_and(|entries| entries == PAGE);
                let Some(newest) = page.last().map(|entry| entry.revision) else {
                    // A database restored to an earlier state counts the same revisions again.
                    if backend.head().await?.revision >= position {
                        return Ok(position);
                    }
                    break;
                };
                let others = shared.without_own(page);
                if !others.is_empty() {
                    self.tell(others, newest, false);
                }
                position = newest;
                if !full {
                    return Ok(position);
                }
            }
        }
        let newest = backend.head().await?.revision;
        shared.past_own(newest);
        self.tell(Vec::new(), newest, false);
        Ok(newest)
    }
}

impl Shared {
    fn own(&self) -> MutexGuard<'_, VecDeque<(i64, i64)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position past own commits that follow on it, which are forgotten.
    fn past_own(&self, mut position: i64) -> i64 {
        let mut own = self.own();
        // Lanes commit side by side, so that the order may be off by a few.
        own.make_contiguous().sort_unstable();
        while let Some(&(first, last)) = own.front()
            && first <= position + 1
        {
            position = position.max(last);
            own.pop_front();
        }
        position
    }

    fn without_own(&self, mut page: Vec<Notice>) -> Vec<Notice> {
        let own = self.own();
        page.retain(|entry| !own.iter().any(|(a, b)| (*a..=*b).contains(&entry.revision)));
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mute;

    #[async_trait::async_trait]
    impl Bell for Mute {
        async fn ring(&self) -> Result<(), BackendError> {
            Ok(())
        }

        async fn heard(&self) {}
    }

    fn shared(own: &[(i64, i64)]) -> Shared {
        let own = Mutex::new(own.iter().copied().collect());
        Shared { bell: Arc::new(Mute), own, news: Notify::new(), closed: CancellationToken::new() }
    }

    fn notice(revision: i64) -> Notice {
        let provider = "p".parse().unwrap();
        Notice { revision, provider, execution: None, change: None }
    }

    #[test]
    fn own_commits_are_passed_over_whatever_order_they_were_told_in() {
        let shared = shared(&[(8, 9), (3, 5), (6, 7), (12, 12)]);
        assert_eq!(shared.past_own(2), 9);
        assert_eq!(shared.past_own(9), 9, "10 and 11 are of others");
        let page = [10, 11, 12, 13].map(notice).into();
        let others: Vec<_> = shared.without_own(page).iter().map(|it| it.revision).collect();
        assert_eq!(others, [10, 11, 13]);
        assert_eq!(shared.past_own(13), 13);
        assert!(shared.own().is_empty());
    }
}

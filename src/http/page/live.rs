//! The picture, read once for everybody who looks and pushed to each as server-sent events: `picture`
//! with the document of `picture`, or `trouble` while there is none to be had.
//!
//! What must stay true: however many look, one task reads, at most once a second, and only while
//! somebody looks; a client that takes nothing gets the latest when it does, never a queue; every
//! stream ends when the engine ends its own, and when the reading task dies, because with the task
//! goes what feeds them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::picture;
use crate::engine::Engine;

/// Streams that may be open at a time.
const MOST_STREAMS: usize = 256;
/// The shortest time between two pictures.
const INTERVAL: Duration = Duration::from_secs(1);
/// How old a picture becomes before it is read again though nothing was committed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the store may take for a picture.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// How often a stream says something while there is nothing to say, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What there is to tell.
#[derive(Debug, Clone)]
enum Told {
    /// Nothing yet.
    Nothing,
    /// The picture, a JSON document.
    Picture(Arc<str>),
    /// That it cannot be read.
    Trouble,
}

/// The picture for everybody who looks.
pub(super) struct Live {
    engine: Engine,
    /// What the reading task feeds, if there is one that lives.
    fed: Mutex<Option<watch::Receiver<Told>>>,
    /// Wakes the reading task for one who came while the picture was old.
    joined: Notify,
    room: Arc<Semaphore>,
}

impl Live {
    pub(super) fn new(engine: Engine) -> Self {
        let room = Arc::new(Semaphore::new(MOST_STREAMS));
        Self { engine, fed: Mutex::default(), joined: Notify::new(), room }
    }

    /// The events of one page; `None` if there are too many already, or the server is about to end.
    pub(super) fn watch(
        self: &Arc<Self>,
    ) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
        if !self.engine.is_accepting() {
            return None;
        }
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let events = unfold((self.join(), permit), next);
        Some(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
    }

    /// What the reading task feeds. Starts one if there is none.
    fn join(self: &Arc<Self>) -> watch::Receiver<Told> {
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fed) = fed.as_ref().filter(|fed| fed.has_changed().is_ok()) {
            self.joined.notify_one();
            return fed.clone();
        }
        let (feed, receiver) = watch::channel(Told::Nothing);
        *fed = Some(receiver.clone());
        let live = Arc::clone(self);
        self.engine.spawn(async move {
            tokio::select! {
                () = live.feed(&feed) => {}
                () = live.engine.stopping() => {}
            }
        });
        receiver
    }

    /// Reads picture after picture, until nobody looks.
    async fn feed(&self, feed: &watch::Sender<Told>) {
        let mut changes = self.engine.changes();
        while self.is_watched(feed) {
            changes.borrow_and_update();
            let began = Instant::now();
            feed.send_replace(self.read().await);
            // However large the store is, looking at it takes no more than a tenth of the time.
            sleep(INTERVAL.max(began.elapsed() * 9)).await;
            tokio::select! {
                // An error says that the engine has ended, which ends this too.
                _ = changes.changed() => {}
                () = self.joined.notified() => {}
                () = sleep(HEARTBEAT - INTERVAL) => {}
            }
        }
    }

    /// Whether anybody looks; if not, whoever comes next finds no task. Decided under the lock under
    /// which they come.
    fn is_watched(&self, feed: &watch::Sender<Told>) -> bool {
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        // One is kept there for those to come.
        let watched = feed.receiver_count() > 1;
        if !watched {
            *fed = None;
        }
        watched
    }

    async fn read(&self) -> Told {
        match timeout(STORE_WAIT, picture::read(&self.engine)).await {
            Ok(Ok(picture)) => Told::Picture(picture.into()),
            Ok(Err(error)) => {
                // Whoever looks after the server is told by its readiness.
                tracing::debug!(error = &*error, "Cannot read what the page shows");
                Told::Trouble
            }
            Err(_) => Told::Trouble,
        }
    }
}

type Watching = (watch::Receiver<Told>, OwnedSemaphorePermit);

/// The next event of a stream; none when nothing feeds it any more.
async fn next((mut fed, permit): Watching) -> Option<(Result<Event, Infallible>, Watching)> {
    loop {
        fed.changed().await.ok()?;
        let told = fed.borrow_and_update().clone();
        let event = match told {
            Told::Nothing => continue,
            Told::Picture(picture) => Event::default().event("picture").data(picture),
            // An event without data is not told to the page.
            Told::Trouble => Event::default().event("trouble").data("the store does not answer"),
        };
        return Some((Ok(event), (fed, permit)));
    }
}

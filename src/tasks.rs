//! The one place tasks are spawned from, so that shutdown can wait for all of them and a loop
//! that dies is started again instead of silently missing.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long a loop that died stays down before it is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Every task of one server.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    runtimes: Option<Runtimes>,
    restarts: Arc<AtomicU64>,
}

/// Where tasks run, if loops are not to run beside everything else.
#[derive(Debug, Clone)]
struct Runtimes {
    work: Handle,
    control: Handle,
}

impl Tasks {
    /// Tasks whose loops run on `control`, on threads of their own, so that no amount of work for
    /// clients keeps a lease from being renewed. All else runs on the current runtime.
    pub fn with_control(control: Handle) -> Self {
        let work = Handle::current();
        Self { runtimes: Some(Runtimes { work, control }), ..Self::default() }
    }

    /// Spawns a task beside the loops.
    #[expect(clippy::disallowed_methods, reason = "this is the tracked spawner")]
    pub fn spawn_control<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = self.tracker.track_future(task.in_current_span());
        match &self.runtimes {
            Some(runtimes) => runtimes.control.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Spawns a task that ends by itself. It keeps the span it is spawned in.
    #[expect(clippy::disallowed_methods, reason = "this is the tracked spawner")]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = self.tracker.track_future(task.in_current_span());
        match &self.runtimes {
            Some(runtimes) => runtimes.work.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Runs the loop that `make` makes until it returns or [`Tasks::stop`] is called. One that
    /// panics is logged and made again.
    pub fn spawn_loop<M, F>(&self, name: &'static str, make: M)
    where
        M: Fn() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, restarts) = (self.stop.clone(), Arc::clone(&self.restarts));
        self.spawn_control(async move {
            loop {
                let life = AssertUnwindSafe(make()).catch_unwind();
                tokio::select! {
                    () = stop.cancelled() => return,
                    end = life => match end {
                        Ok(()) => return,
                        Err(_) => tracing::error!(task = name, "a loop panicked and is restarted"),
                    },
                }
                restarts.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        });
    }

    /// The runtimes that tasks run on, by name.
    pub fn runtimes(&self) -> Vec<(&'static str, Handle)> {
        match &self.runtimes {
            Some(Runtimes { work, control }) => {
                vec![("main", work.clone()), ("control", control.clone())]
            }
            None => Handle::try_current().map(|it| vec![("main", it)]).unwrap_or_default(),
        }
    }

    /// How many loops were started again.
    pub fn loops_restarted(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Cancelled by [`Tasks::stop`], for what is to end with the loops and is none of them.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends every loop at its next await.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until every task has ended.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

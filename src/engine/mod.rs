//! The engine: takes submissions, admits and runs them, and tells every watcher.
//!
//! What must stay true: an attempt starts only through a claim (`dispatcher`), runs only while its
//! lease holds (`lease`), and what it did is recorded only under that lease (`attempt`); a watcher
//! reads the log and takes commits only as a hint that there is something to read (`hub`, `watch`).

mod active;
mod agenda;
mod attempt;
mod beats;
mod cancel;
mod dispatcher;
mod ending;
mod figures;
mod hub;
mod lease;
mod machine;
mod outflow;
mod outlet;
mod pace;
mod pool;
mod provider;
mod pulse;
mod register;
mod request;
mod resources;
mod retry;
mod sampler;
mod scaling;
mod slots;
mod spans;
mod status;
mod submit;
mod unserved;
mod view;
mod vitals;
mod watch;
mod watch_many;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::domain::{ProviderName, Timestamp, WorkerId};
use crate::metrics::Instruments;
use crate::providers::StopReason;
use crate::store::{Result, Store, WorkerStatus};
use crate::tasks::Tasks;
use crate::telemetry;

use active::Active;
use beats::Beats;
use dispatcher::Alarm;
use figures::Lately;
use hub::Hub;
use pool::Pool;
use pulse::Pulse;
use register::Register;
use resources::Resources;

pub use beats::DispatcherState;
pub use machine::{Machine, ThisMachine};
pub use pool::PoolSettings;
pub use request::{
    Bottleneck, BulkCancelled, BulkRetried, ConfiguredProvider, Cursor, Draft, Figures, Filter,
    LimitsDraft, Overview, PoolReport, ProviderError, ProviderView, RetryError, Scaling,
    ServedProvider, Status, Submission, SubmitError, View, Vitals, WatchEnd, WatchError,
    WatchEvent, WatchItem, WorkerConfiguration, WorkerReport, WorkerView,
};

/// The messages of one watch; ends by itself after the terminal change.
pub type Watch = ReceiverStream<Result<WatchItem, WatchEnd>>;

/// How an engine is to work.
#[derive(Clone)]
pub struct EngineSettings {
    /// How long a lease lasts: renewed every third of it, the work stopped at three quarters.
    pub lease: Duration,
    /// How often to look for work that nobody told of.
    pub poll_interval: Duration,
    /// How long a shutdown takes at most; only told, the caller of [`Engine::drain`] keeps it.
    pub drain_timeout: Duration,
    /// How far ahead in the queue one point of priority puts an execution.
    pub priority_head_start: Duration,
    /// How many attempts run at the same time, over all providers.
    pub pool: PoolSettings,
    /// What can do work here, and how much of it at a time.
    pub providers: Vec<ConfiguredProvider>,
    /// Tells how busy this machine is, for providers whose work is to start only while it is not.
    pub machine: Arc<dyn Machine>,
    /// The name of this machine.
    pub host: String,
    /// The version of this program.
    pub version: String,
}

impl EngineSettings {
    /// How often to say that this worker lives: often enough that one missed does not matter.
    pub fn heartbeat_interval(&self) -> Duration {
        (self.lease / 3).min(Duration::from_secs(5))
    }

    /// How long after its expiry a lease is reclaimed.
    pub fn reclaim_grace(&self) -> Duration {
        (self.lease / 5).max(Duration::from_secs(1))
    }

    /// How long after a renewal was sent the work must be stopped unless another succeeded.
    pub fn work_deadline(&self) -> Duration {
        self.lease * 3 / 4
    }
}

/// A handle on the engine; clones share it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Store,
    settings: EngineSettings,
    providers: BTreeMap<ProviderName, ConfiguredProvider>,
    /// Those of them that could do work when the engine started: asking takes a look at the disk.
    able: BTreeSet<ProviderName>,
    worker: WorkerId,
    started_at: Timestamp,
    epoch: String,
    hub: Hub,
    active: Active,
    alarm: Alarm,
    beats: Beats,
    lately: Lately,
    pool: Mutex<Pool>,
    pulse: Pulse,
    register: Register,
    resources: Resources,
    tasks: Tasks,
    accepting: AtomicBool,
    /// Ends the dispatcher, and through it new attempts.
    claiming: CancellationToken,
    /// Set when the dispatcher has made its last claim.
    claims_over: CancellationToken,
    /// Ends every watch.
    streaming: CancellationToken,
}

impl Inner {
    fn instruments(&self) -> &Arc<Instruments> {
        self.store.instruments()
    }
}

impl Engine {
    /// Declares the providers, takes back what an earlier server left running, and starts.
    pub async fn start(store: Store, settings: EngineSettings, tasks: &Tasks) -> Result<Self> {
        let worker = WorkerId::new();
        store.instruments().serve(settings.providers.iter().map(|it| it.name.clone()));
        telemetry::name_worker(&worker);
        let declared =
            settings.providers.iter().map(|p| (p.name.clone(), p.limits.clone())).collect();
        for (provider, limits) in store.declare(declared).await? {
            tracing::info!(%provider, "Declared limit of provider {provider}: {limits}");
        }
        for row in store.providers().await? {
            let provider = &row.record.name;
            if store.kind().is_exclusive() && row.record.shortage.is_some() {
                // Whoever told of it is gone.
                store.end_shortage(provider.clone(), worker, None).await?;
            }
            let waiting = row.pending + row.running;
            if waiting > 0 && settings.providers.iter().all(|known| known.name != *provider) {
                tracing::warn!(
                    %provider,
                    "{waiting} executions wait for provider {provider}, which is not configured"
                );
            }
        }
        if store.kind().is_exclusive() {
            let recovered = store.recover(worker).await?;
            if !recovered.is_empty() {
                tracing::info!("Recovered {} interrupted executions", recovered.len());
            }
        }
        let hub = Hub::start(&store).await?;
        let providers = settings.providers.iter().map(|p| (p.name.clone(), p.clone())).collect();
        let able = settings.providers.iter().filter(|p| p.provider.unavailable().is_none());
        let able = able.map(|p| p.name.clone()).collect();
        let engine = Self(Arc::new(Inner {
            providers,
            able,
            worker,
            started_at: store.now(),
            epoch: store.head().await?.epoch,
            hub,
            active: Active::default(),
            alarm: Alarm::default(),
            beats: Beats::default(),
            lately: Lately::default(),
            pool: Mutex::new(Pool::new(settings.pool)),
            pulse: Pulse::default(),
            register: Register::default(),
            resources: Resources::of(&settings.providers),
            tasks: tasks.clone(),
            accepting: AtomicBool::new(true),
            claiming: CancellationToken::new(),
            claims_over: CancellationToken::new(),
            streaming: CancellationToken::new(),
            settings,
            store,
        }));
        // Known to the others, and they to this one, before the first claim.
        engine.say(WorkerStatus::Serving).await?;
        engine.spawn_loops();
        Ok(engine)
    }

    fn spawn_loops(&self) {
        let Inner { tasks, .. } = &*self.0;
        let engine = self.clone();
        tasks.spawn_loop("hub", move || engine.clone().follow_commits());
        let engine = self.clone();
        tasks.spawn_loop("lease keeper", move || engine.clone().keep_leases());
        let engine = self.clone();
        tasks.spawn_loop("dispatcher", move || engine.clone().dispatch());
        let engine = self.clone();
        tasks.spawn_loop("heartbeat", move || engine.clone().beat());
        if self.0.instruments().is_full() {
            let engine = self.clone();
            tasks.spawn_loop("sampler", move || engine.clone().sample());
        }
        if !self.0.resources.is_unused() {
            let engine = self.clone();
            tasks.spawn_loop("resources", move || engine.clone().look_at_machine());
        }
    }

    /// What counts and measures this engine, its store and whatever serves them.
    pub fn instruments(&self) -> &Arc<Instruments> {
        self.0.instruments()
    }

    /// The store's epoch; fixed while the engine lives.
    pub fn epoch(&self) -> &str {
        &self.0.epoch
    }

    /// The present on the store's clock.
    pub fn now(&self) -> Timestamp {
        self.0.store.now()
    }

    /// This worker.
    pub fn worker(&self) -> WorkerId {
        self.0.worker
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a task that ends by itself.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.0.tasks.spawn(task);
    }

    /// The newest revision heard of; changes with every commit.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<i64> {
        self.0.hub.head()
    }

    /// Resolves when streams are to end because the server shuts down.
    pub async fn stopping(&self) {
        self.0.streaming.cancelled().await;
    }

    /// Whether new work is taken.
    pub fn is_accepting(&self) -> bool {
        self.0.accepting.load(Ordering::Acquire)
    }

    /// Takes no new work, claims nothing more, and ends every watch with its cursor.
    pub fn begin_shutdown(&self) {
        self.0.accepting.store(false, Ordering::Release);
        self.0.claiming.cancel();
        self.0.streaming.cancel();
    }

    /// Closes the store. The last thing to do.
    pub fn close(&self) {
        self.0.store.close();
    }

    /// Waits for running attempts until `finish_by`, then stops the rest and waits until they are
    /// handed back uncharged. Returns how many that were. Call [`Engine::begin_shutdown`] first.
    pub async fn drain(&self, finish_by: Instant) -> usize {
        let Inner { active, claims_over, .. } = &*self.0;
        let finished = async {
            claims_over.cancelled().await;
            active.idle().await;
        };
        if tokio::time::timeout_at(finish_by, finished).await.is_ok() {
            return 0;
        }
        let stopped = active.stop_all(StopReason::ShuttingDown);
        claims_over.cancelled().await;
        // A claim that was under way when the first were stopped brings its own.
        active.stop_all(StopReason::ShuttingDown);
        active.idle().await;
        stopped
    }
}

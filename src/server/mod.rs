//! Puts the parts together, and takes them apart in the right order.
//!
//! What must stay true: nothing is claimed before both ports are bound, so that a start that fails
//! costs no execution an attempt; nobody is told that the server is ready before it is; from the
//! first request to stop, every step is bounded by its deadline.

mod grpc;
mod hangup;
mod listen;
mod measured;
mod open_files;
mod rpc;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::domain::SystemClock;
use crate::engine::{Engine, EngineSettings};
use crate::health::{Condition, Readiness};
use crate::metrics::Instruments;
use crate::shutdown::{Deadlines, Shutdown};
use crate::store::{
    Backend, BackendError, ClockSource, PostgresBackend, PostgresOptions, SqliteBackend, Store,
    StoreError, StoreUrl, with_sources,
};
use crate::tasks::Tasks;
use crate::telemetry::MetricPush;
use crate::{api, http, telemetry};
use grpc::Health;
use listen::{Listening, Port};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long clients get to close their connections once all else is done. A client that knows
/// HTTP/2 is told to go and does so at once; an idle TCP connection never would.
const CONNECTION_PATIENCE: Duration = Duration::from_millis(250);

/// How long a collector gets to take the last traces, where there is that much time left.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(1);

/// Why a server could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system does not deliver signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The store cannot be opened.
    #[error("cannot open the store {store}")]
    Open {
        /// Which.
        store: StoreUrl,
        /// Why.
        #[source]
        source: BackendError,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {addr} for {protocol}")]
    Listen {
        /// The address as configured.
        addr: String,
        /// What was to be served there.
        protocol: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The engine cannot start.
    #[error("cannot start the engine")]
    Engine(#[source] StoreError),
    /// A server ended that was not told to.
    #[error("the {0} server ended by itself")]
    Ended(&'static str),
    /// Some work could not be settled or handed back before the deadline.
    #[error("not all work was handed back in time; its leases have to expire")]
    Undrained,
}

/// Serves until SIGTERM or SIGINT, then drains. For a process that is all server.
///
/// The loops that keep leases, claim and commit run on `control`, a runtime of their own.
pub async fn serve(settings: Settings, control: Handle) -> Result<(), ServeError> {
    let telemetry = telemetry::start(&settings.log, settings.trace_level);
    let shutdown = Shutdown::new(settings.drain_timeout);
    shutdown.begin_on_signals().map_err(ServeError::Signals)?;
    open_files::raise_limit();
    let tasks = Tasks::with_control(control);
    hangup::survive(&tasks).map_err(ServeError::Signals)?;
    let server = Box::pin(Server::start(settings, shutdown.clone(), tasks));
    let server = server.await?;
    announce(&server);
    let result = server.run().await;
    let flush_by = shutdown.begun().await.flush_by;
    let left = flush_by.saturating_duration_since(Instant::now());
    telemetry.shutdown(left.min(COLLECTOR_PATIENCE)).await;
    result
}

/// Says where the server listens, for whoever started it on port 0.
fn announce(server: &Server) {
    let mut stdout = std::io::stdout().lock();
    // That nobody reads it is no reason not to serve.
    let _ = writeln!(stdout, "gRPC listening on {}", server.grpc_addr())
        .and_then(|()| writeln!(stdout, "HTTP listening on {}", server.http_addr()))
        .and_then(|()| stdout.flush());
}

/// A server that is ready.
pub struct Server {
    engine: Engine,
    condition: Condition,
    health: Health,
    grpc: Listening,
    http: Listening,
    /// Tells both servers to take no more connections and end when the last is closed.
    closing: CancellationToken,
    tasks: Tasks,
    shutdown: Shutdown,
}

impl Server {
    /// Starts everything. Where that fails, nothing was claimed.
    pub async fn start(
        settings: Settings,
        shutdown: Shutdown,
        tasks: Tasks,
    ) -> Result<Self, ServeError> {
        let backend = open(&settings).await?;
        let grpc_port = Port::bind(settings.grpc_addr, "gRPC").await?;
        let http_port = Port::bind(settings.http_addr, "HTTP").await?;

        let mut instruments = Instruments::new(settings.metrics);
        instruments.describe(VERSION, backend.kind().as_str());
        tasks.runtimes().into_iter().for_each(|(name, it)| instruments.runtimes().add(name, it));
        let instruments = Arc::new(instruments);
        let clock = Arc::new(SystemClock);
        let store = Store::start_with(backend, clock, &tasks, Arc::clone(&instruments));
        let engine_settings = EngineSettings {
            lease: settings.lease,
            poll_interval: settings.poll_interval,
            drain_timeout: settings.drain_timeout,
            priority_head_start: settings.priority_head_start,
            pool: settings.pool,
            providers: settings.providers.clone(),
            machine: Arc::clone(&settings.machine),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: VERSION.to_owned(),
        };
        let engine = Engine::start(store.clone(), engine_settings, &tasks)
            .await
            .map_err(ServeError::Engine)?;

        let closing = CancellationToken::new();
        let (health, health_service) = Health::new().await;
        let routes = api::routes(engine.clone()).add_service(health_service);
        let routes = if engine.instruments().is_full() {
            let measure = from_fn_with_state(engine.clone(), measured::measure);
            routes.into_axum_router().layer(measure).into()
        } else {
            routes
        };
        let grpc =
            grpc_port.serve(&tasks, |listener| grpc::serve(listener, routes, closing.clone()));
        let condition = Condition::new(shutdown.phases());
        let routes = http::routes(condition.clone(), engine.clone());
        let http = http_port.serve(&tasks, |listener| {
            let closed = closing.clone().cancelled_owned();
            async move { axum::serve(listener, routes).with_graceful_shutdown(closed).await }
        });

        for variable in &settings.ignored_variables {
            tracing::warn!(variable, "Ignored a variable that sets no known key");
        }
        for configured in &settings.providers {
            tracing::info!(
                provider = %configured.name,
                kind = configured.kind,
                limit = configured.limits.max_concurrent,
                "Initialised provider"
            );
        }
        if shutdown.serving() {
            health.set(true).await;
            tracing::info!(
                version = VERSION,
                store = %settings.store,
                grpc = %grpc.addr(),
                http = %http.addr(),
                worker.id = %engine.worker(),
                "Flowgate is ready"
            );
        }
        look_after(&condition, &store, &engine, &health, &tasks);
        push_metrics(&condition, &engine, &tasks);
        Ok(Self { engine, condition, health, grpc, http, closing, tasks, shutdown })
    }

    /// Where gRPC is served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc.addr()
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Whether it can do its work, now and whenever that changes.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.condition.readiness()
    }

    /// Serves until the shutdown begins, and then through it.
    pub async fn run(self) -> Result<(), ServeError> {
        let result = tokio::select! {
            _ = self.shutdown.begun() => Ok(()),
            () = self.grpc.ended() => Err(ServeError::Ended("gRPC")),
            () = self.http.ended() => Err(ServeError::Ended("HTTP")),
        };
        self.shutdown.begin();
        let deadlines = self.shutdown.begun().await;
        let drained = self.drain(deadlines).await;
        result.and(drained)
    }

    /// Not ready since the phase changed; from here on every step has its deadline.
    async fn drain(self, deadlines: Deadlines) -> Result<(), ServeError> {
        let begun = Instant::now();
        let Self { engine, health, grpc, http, closing, tasks, .. } = self;
        let Deadlines { finish_by, hand_back_by, close_by, .. } = deadlines;
        health.set(false).await;

        engine.begin_shutdown();
        let drained = engine.drain(finish_by);
        let drained = match timeout_at(hand_back_by, drained).await {
            Ok(0) => Ok(()),
            Ok(handed_back) => {
                tracing::info!("Handed back {handed_back} executions that were still running");
                Ok(())
            }
            Err(_) => Err(ServeError::Undrained),
        };
        // Whoever lists the workers sees it by the missing heartbeat otherwise.
        let _ = timeout_at(hand_back_by, engine.say_stopped()).await;

        closing.cancel();
        let patience = close_by.min(Instant::now() + CONNECTION_PATIENCE);
        let ended = futures_util::future::join(grpc.ended(), http.ended());
        if timeout_at(patience, ended).await.is_err() {
            tracing::debug!("Some connections are still open and are closed");
            grpc.abort();
            http.abort();
        }

        tasks.stop();
        // A connection that is still open may hold the store: it is closed, not waited for.
        engine.close();
        if timeout_at(close_by, tasks.ended()).await.is_err() {
            tracing::warn!("Some tasks did not end in time");
        }
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "Flowgate has stopped");
        drained
    }
}

/// Starts what finds out what condition the server is in, and what tells it.
fn look_after(
    condition: &Condition,
    store: &Store,
    engine: &Engine,
    health: &Health,
    tasks: &Tasks,
) {
    let beating = condition.clone();
    tasks.spawn_loop("heart", move || beating.clone().beat());
    let (looking, store, engine) = (condition.clone(), store.clone(), engine.clone());
    tasks.spawn_loop("monitor", move || looking.clone().monitor(store.clone(), engine.clone()));
    let (condition, health) = (condition.clone(), health.clone());
    tasks.spawn_loop("health", move || health.clone().follow(condition.clone()));
}

/// Sends metrics to the collector, if one is named. One that cannot be sent to is no reason not to serve.
fn push_metrics(condition: &Condition, engine: &Engine, tasks: &Tasks) {
    if !engine.instruments().is_full() {
        return;
    }
    match MetricPush::from_env() {
        Ok(None) => {}
        Ok(Some(push)) => {
            let (condition, engine, stop) = (condition.clone(), engine.clone(), tasks.stopping());
            tasks.spawn(async move {
                let instruments = Arc::clone(engine.instruments());
                let measured = Arc::clone(&instruments);
                let look = move || {
                    measured.set_ready(condition.is_ready());
                    engine.now()
                };
                push.run(instruments, look, stop).await;
            });
        }
        Err(error) => {
            let error = with_sources(&error);
            tracing::warn!(error, "Metrics are not exported");
        }
    }
}

async fn open(settings: &Settings) -> Result<Arc<dyn Backend>, ServeError> {
    let opened: Result<Arc<dyn Backend>, _> = match &settings.store {
        StoreUrl::Sqlite(path) => SqliteBackend::open(path).await.map(|it| Arc::new(it) as _),
        StoreUrl::Postgres(url) => {
            let options = PostgresOptions {
                url: url.clone(),
                listen: settings.listen.clone(),
                lease: settings.lease,
                poll_interval: settings.poll_interval,
                clock: ClockSource::Database,
            };
            PostgresBackend::open(&options).await.map(|it| Arc::new(it) as _)
        }
    };
    opened.map_err(|source| ServeError::Open { store: settings.store.clone(), source })
}

#[cfg(test)]
mod tests;

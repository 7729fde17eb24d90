//! The replicas, their database, and how clients find one of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::provider_service_client::ProviderServiceClient;
use rand::Rng as _;
use rand::rngs::StdRng;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Executor as _, Postgres, Row as _};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tonic::Status;
use tonic::transport::Channel;

use crate::replicas::meter::Meter;
use crate::support::postgres::{Cluster, Database};
use crate::support::{Config, Db, StoreHome, TestServer};

/// Providers that only wait, and their first limits.
pub(super) const SIMULATED: [(&str, u32); 4] =
    [("quick", 6), ("slow", 5), ("chatty", 4), ("flaky", 4)];
/// The longest a client waits for an answer: a frozen replica gives none.
const PATIENCE: Duration = Duration::from_secs(2);

/// In memory a commit takes no time; on a disk it takes some, in which the database may crash.
const SLOW_DISK: [&str; 4] = [
    "ALTER SYSTEM SET commit_delay = 20000",
    "ALTER SYSTEM SET commit_siblings = 0",
    "ALTER SYSTEM SET wal_writer_delay = '10s'",
    "SELECT pg_reload_conf()",
];

/// What was done and seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: AtomicU64,
    pub(super) refused_starts: AtomicU64,
    pub(super) freezes: AtomicU64,
    pub(super) held_while_frozen: AtomicU64,
    pub(super) stale_writes_refused: AtomicU64,
    pub(super) terminated_sessions: AtomicU64,
    pub(super) database_crashes: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    /// Tells them, and panics if something was never tried.
    pub(super) fn conclude(&self) {
        for (what, counter) in [
            ("kills", &self.kills),
            ("freezes", &self.freezes),
            ("attempts held by frozen", &self.held_while_frozen),
            ("stale writes refused", &self.stale_writes_refused),
            ("sessions terminated", &self.terminated_sessions),
            ("crashes of the database", &self.database_crashes),
        ] {
            let count = counter.load(Ordering::Relaxed);
            println!("{what:26}{count}");
            assert!(count > 0, "it was too short");
        }
        println!("starts without a database {}", self.refused_starts.load(Ordering::Relaxed));
    }
}

pub(super) struct Fleet {
    servers: Vec<AsyncMutex<TestServer>>,
    /// Where each is reached, whether it lives or not.
    channels: Mutex<Vec<Channel>>,
    folders: Vec<PathBuf>,
    home: StoreHome,
    cluster: Arc<Cluster>,
    meter: Meter,
    counts: Counts,
}

impl Fleet {
    pub(super) async fn start(count: usize) -> Self {
        let cluster = Cluster::durable();
        let mut admin = cluster.admin().await;
        for slow in SLOW_DISK {
            admin.execute(slow).await.unwrap();
        }
        let meter = Meter::new("meter", 2);
        let config = SIMULATED
            .iter()
            .fold(Config::on(Db::Postgres), |config, (name, limit)| config.simulated(name, *limit))
            .lease("2s")
            .env("FLOWGATE_POLL_INTERVAL", "500ms");
        let config = meter.configure(config);
        let home = StoreHome::Postgres(Arc::new(cluster.database().await));
        let servers = TestServer::together(&home, &config, count).await;
        Self {
            channels: Mutex::new(servers.iter().map(TestServer::channel).collect()),
            folders: servers.iter().map(|server| server.dir().to_owned()).collect(),
            servers: servers.into_iter().map(AsyncMutex::new).collect(),
            home,
            cluster,
            meter,
            counts: Counts::default(),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn store(&self) -> &StoreHome {
        &self.home
    }

    pub(super) fn database(&self) -> &Database {
        match &self.home {
            StoreHome::Postgres(database) => database,
            StoreHome::Sqlite { .. } => unreachable!("it was made in a cluster"),
        }
    }

    /// A replica that nobody does anything to at the moment, if there is one.
    pub(super) fn idle_one(&self, rng: &mut StdRng) -> Option<(usize, MutexGuard<'_, TestServer>)> {
        let first = rng.random_range(0..self.servers.len());
        let order = (0..self.servers.len()).map(|n| (first + n) % self.servers.len());
        order.into_iter().find_map(|n| Some((n, self.servers[n].try_lock().ok()?)))
    }

    /// Any replica, once nobody does anything to it.
    pub(super) async fn any_one(&self, rng: &mut StdRng) -> MutexGuard<'_, TestServer> {
        self.servers[rng.random_range(0..self.servers.len())].lock().await
    }

    /// Starts a replica that was killed, as often as it takes while its database may be down.
    pub(super) async fn start_again(&self, n: usize, server: &mut TestServer) {
        while let Err(said) = server.try_restart().await {
            assert!(said.lines().any(|line| line.starts_with("error: ")), "{said}");
            Counts::add(&self.counts.refused_starts, 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.channels.lock().unwrap()[n] = server.channel();
    }

    fn channel(&self, rng: &mut StdRng) -> Channel {
        let channels = self.channels.lock().unwrap();
        channels[rng.random_range(0..channels.len())].clone()
    }

    /// A client of a replica that may be dead or frozen.
    pub(super) fn executions(&self, rng: &mut StdRng) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::new(self.channel(rng))
    }

    /// A client of a replica that may be dead or frozen.
    pub(super) fn providers(&self, rng: &mut StdRng) -> ProviderServiceClient<Channel> {
        ProviderServiceClient::new(self.channel(rng))
    }

    /// Runs a statement whose session may be terminated at any time.
    pub(super) async fn rows<'q>(
        &self,
        make: impl Fn() -> Query<'q, Postgres, PgArguments> + Send,
    ) -> Vec<PgRow> {
        for _ in 0..50 {
            if let Ok(mut connection) = self.database().try_connect().await
                && let Ok(rows) = make().fetch_all(&mut connection).await
            {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the database does not answer");
    }

    /// Puts what tells of the run where it is not removed.
    pub(super) async fn keep_evidence(&self, seed: u64) -> PathBuf {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-seed-{seed}"));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).unwrap();
        let keep = |file: &Path, name: String| {
            // One that is missing says less than the panic does.
            let _ = std::fs::copy(file, place.join(name));
        };
        keep(&self.cluster.dir().join("log"), "postgres.log".to_owned());
        for (n, folder) in self.folders.iter().enumerate() {
            for file in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
                let name = file.file_name().to_string_lossy().into_owned();
                keep(&file.path(), format!("replica-{n}.{name}"));
            }
        }
        if let Ok(mut connection) = self.database().try_connect().await {
            let log = "SELECT concat_ws(E'\t', revision, at, execution_id, provider, kind, change)
                FROM events ORDER BY revision";
            if let Ok(rows) = connection.fetch_all(log).await {
                let lines: Vec<_> = rows.iter().map(|row| row.get::<String, _>(0)).collect();
                let _ = std::fs::write(place.join("events.tsv"), lines.join("\n"));
            }
        }
        place
    }
}

/// The answer of a replica, if it gives one in time. Panics if it says what it never should.
pub(super) async fn answer<T>(
    asked: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Option<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Some(answer.into_inner()),
        Ok(Err(status)) => {
            must_be_an_outage(&status);
            None
        }
        Err(_) => None,
    }
}

/// What a client may be told while everything goes wrong: that it should try again.
pub(super) fn must_be_an_outage(status: &Status) {
    // A status without details is not the server's: the connection broke.
    let is_said_by_the_server = !status.details().is_empty();
    assert!(
        !is_said_by_the_server || status.code() == tonic::Code::Unavailable,
        "no outage: {status:?}"
    );
}

//! A PostgreSQL cluster in a temporary folder: one for most tests, and others for tests that stop it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rand::Rng as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::OnceCell;

use super::database::{self, Database};
use super::keeper::Keeper;

/// Below those that systems give to whoever asks for any: a cluster that is stopped would lose its
/// port to a connection, even to a client of its own that tries to reach it.
const PORTS: RangeInclusive<u16> = 15_000..=30_000;

/// Fits many small databases and the connections of many servers.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 400
shared_buffers = 64MB
# It would look into every database in turn, and stand in the way of copies of the template.
autovacuum = off
max_wal_size = 256MB
";

/// For a cluster that is never stopped but to be removed.
const FAST: &str = "
fsync = off
full_page_writes = off
";

/// What the largest tests write, several times over.
const ROOM_KIB: u64 = 2 * 1024 * 1024;

/// Whether what is committed must still be there after [`Cluster::stop_immediate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    None,
    Full,
}

/// A running PostgreSQL. It ends, and its folder goes, when it is dropped or the test process ends.
pub(crate) struct Cluster {
    keeper: Mutex<Keeper>,
    dir: PathBuf,
    port: u16,
    template: OnceCell<()>,
    databases: AtomicU32,
}

impl Cluster {
    /// The cluster of this test process, started by the first test that needs it; it is not to be
    /// stopped.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Result<Arc<Cluster>, String>> = OnceLock::new();
        let shared =
            SHARED.get_or_init(|| Self::start(Durability::None, &quick_folder()).map(Arc::new));
        shared.clone().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A cluster of one's own, which keeps what it acknowledged when it is stopped.
    pub(crate) fn durable() -> Arc<Self> {
        Self::durable_in(&quick_folder())
    }

    /// The same in a folder: on a disk its commits take as long as anybody's.
    pub(crate) fn durable_in(folder: &Path) -> Arc<Self> {
        Arc::new(Self::start(Durability::Full, folder).unwrap_or_else(|error| panic!("{error}")))
    }

    fn start(durability: Durability, folder: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("flowgate-postgres-").tempdir_in(folder);
        let dir = dir.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let speed = if durability == Durability::None { FAST } else { "" };
        let sockets = format!("unix_socket_directories = '{}'\n", dir.path().display());
        std::fs::write(dir.path().join("settings"), [SETTINGS, speed, &sockets].concat())
            .map_err(|error| format!("cannot write to {}: {error}", dir.path().display()))?;
        let mut keeper = Keeper::start(dir.path())?;
        let dir = dir.keep();
        keeper.order("init")?;
        let port = start_on_a_free_port(&mut keeper)?;
        Ok(Self {
            keeper: Mutex::new(keeper),
            dir,
            port,
            template: OnceCell::new(),
            databases: AtomicU32::new(0),
        })
    }

    /// Where it and its log are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops it as a crash would: every connection breaks, nothing is written first.
    pub(crate) fn stop_immediate(&self) {
        let stopped = self.keeper.lock().unwrap().order("stop");
        stopped.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on what it left on disk, on the same port.
    pub(crate) fn start_again(&self) {
        let started = self.keeper.lock().unwrap().order(&format!("start {}", self.port));
        started.unwrap_or_else(|error| panic!("{error}"));
    }

    /// A connection that may do everything, such as `pg_terminate_backend`, in no test's database.
    pub(crate) async fn admin(&self) -> PgConnection {
        let admin = self.try_admin().await;
        admin.unwrap_or_else(|error| panic!("cannot reach PostgreSQL: {error}"))
    }

    /// The same, while it may be down.
    pub(crate) async fn try_admin(&self) -> sqlx::Result<PgConnection> {
        self.options("postgres", "postgres").connect().await
    }

    /// An empty store of its own, gone when it is dropped.
    pub(crate) async fn database(self: &Arc<Self>) -> Database {
        self.template.get_or_init(|| database::make_template(self)).await;
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        Database::create(Arc::clone(self), format!("test_{number}")).await
    }

    /// Where a server finds a database, as the user that tests have.
    pub(super) fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}", database::USER, self.port)
    }

    /// The short way there, for the tests themselves.
    pub(super) fn options(&self, user: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.dir)
            .port(self.port)
            .username(user)
            .database(database)
            .disable_statement_logging()
    }
}

/// Where files are quickly made: a database is three hundred of them, and some file systems slow
/// down when as many were removed a moment ago. In memory, where there is plenty of it.
fn quick_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").arg("-Pk").arg(memory).stderr(Stdio::null()).output();
    let told = free.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let kib =
        told.ok().and_then(|told| told.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok());
    if kib.is_some_and(|kib: u64| kib >= ROOM_KIB) {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Another process may take the port between the look and the start, so one more look is taken.
fn start_on_a_free_port(keeper: &mut Keeper) -> Result<u16, String> {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut result = Err("no port is free on 127.0.0.1".to_owned());
    let tries = (0..1_000).map(|_| rand::rng().random_range(PORTS));
    for port in tries.filter(is_free).take(3) {
        result = keeper.order(&format!("start {port}")).map(|()| port);
        if result.is_ok() {
            break;
        }
    }
    result
}

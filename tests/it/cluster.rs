//! The PostgreSQL that the tests bring along: every test has a store to itself, and nothing of it
//! outlives the test process.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use sqlx::Executor as _;

use crate::support::eventually;
use crate::support::postgres::{Cluster, Database};

/// Makes [`a_test_has_a_database_to_itself`] say where its cluster is, and stay.
const STAY: &str = "FLOWGATE_TEST_STAY";

#[tokio::test]
async fn a_test_has_a_database_to_itself() {
    let (one, two) = (Database::new().await, Database::new().await);
    one.connect().await.execute("CREATE TABLE mine (a INT)").await.unwrap();
    assert!(one.connect().await.execute("SELECT * FROM mine").await.is_ok());
    assert!(two.connect().await.execute("SELECT * FROM mine").await.is_err());
    if std::env::var_os(STAY).is_some() {
        // It outlives this process: had it the keeper's pipe too, the cluster would not go.
        let mut survivor = Command::new("cat").stdout(Stdio::null()).spawn().unwrap();
        println!("the cluster is in {}", one.cluster().dir().display());
        survivor.wait().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_database_is_gone() {
    let database = Database::new().await;
    let (cluster, url) = (database.cluster().clone(), database.url());
    let name = url.rsplit('/').next().unwrap().to_owned();
    // Connections do not keep it.
    let _connected = database.connect().await;
    drop(database);
    let mut admin = cluster.admin().await;
    eventually("it is dropped", async || {
        let found = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(&name);
        let found = found.fetch_optional(&mut admin).await.unwrap();
        found.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_durable_cluster_keeps_what_was_committed_before_it_was_stopped() {
    let cluster = Cluster::durable();
    let database = cluster.database().await;
    let mut connection = database.connect().await;
    connection.execute("CREATE TABLE kept (a INT)").await.unwrap();
    connection.execute("INSERT INTO kept VALUES (1)").await.unwrap();
    cluster.stop_immediate();
    assert!(connection.execute("SELECT 1").await.is_err());
    cluster.start_again();
    let found = database.connect().await.fetch_all("SELECT * FROM kept").await.unwrap();
    assert_eq!(found.len(), 1);

    let dir = cluster.dir().to_owned();
    let address = address_in(&dir);
    assert!(listens(address));
    drop((database, cluster));
    assert!(!dir.exists() && !listens(address), "a dropped cluster is gone at once");
}

#[tokio::test]
async fn a_cluster_does_not_outlive_a_killed_test_process() {
    let mut it = Staying::start();
    it.process.kill().unwrap();
    it.process.wait().unwrap();
    it.is_gone().await;
}

#[tokio::test]
async fn a_cluster_does_not_outlive_a_test_process_that_is_interrupted_at_the_terminal() {
    let mut it = Staying::start();
    kill_process_group(Pid::from_child(&it.process), Signal::INT).unwrap();
    it.process.wait().unwrap();
    it.is_gone().await;
}

/// Another test process with a cluster of its own, in a process group of its own as a terminal
/// would have it.
struct Staying {
    process: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Staying {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cluster::a_test_has_a_database_to_itself", "--nocapture"])
            .env(STAY, "yes")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let dir: PathBuf = said
            .find_map(|line| line.split_once("the cluster is in ").map(|(_, dir)| dir.into()))
            .expect("it says where");
        let address = address_in(&dir);
        assert!(listens(address));
        Self { process, dir, address }
    }

    async fn is_gone(&self) {
        eventually("the folder is gone", async || (!self.dir.exists()).then_some(())).await;
        assert!(!listens(self.address), "the server is gone");
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // If the test went well, it has ended and was waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a cluster listens, as PostgreSQL itself notes it.
fn address_in(dir: &Path) -> SocketAddr {
    let noted = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    let port: u16 = noted.lines().nth(3).unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Not whether the process exists: where nothing reaps orphans, one that has ended still does.
fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

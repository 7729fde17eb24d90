//! A database for every test, copied from one template that has the schema.

use std::sync::Arc;

use flowgate::store::{PostgresBackend, PostgresOptions};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnection;

use super::cluster::Cluster;

/// The user that servers and tests connect as. It owns what is in its databases and has no
/// privilege beyond that.
pub(super) const USER: &str = "flowgate";
const TEMPLATE: &str = "flowgate_template";

/// What is made with the schema is the same in every copy; but every store has its own epoch.
const OWN_EPOCH: &str = "DO $$
BEGIN
    IF to_regclass('meta') IS NOT NULL THEN
        UPDATE meta SET epoch = replace(gen_random_uuid()::text, '-', '');
    END IF;
END $$";

/// A store of its own, gone when it is dropped.
pub(crate) struct Database {
    cluster: Arc<Cluster>,
    name: String,
}

impl Database {
    /// A new store in the cluster that this test process shares.
    pub(crate) async fn new() -> Self {
        // The first waits for a whole cluster to be made, on a thread that may do so.
        let cluster = match tokio::task::spawn_blocking(Cluster::shared).await {
            Ok(cluster) => cluster,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        cluster.database().await
    }

    pub(super) async fn create(cluster: Arc<Cluster>, name: String) -> Self {
        let database = Self { cluster, name };
        database.fill().await;
        database
    }

    async fn fill(&self) {
        let Self { cluster, name } = self;
        let mut admin = cluster.admin().await;
        // Half the time of the other way, which is the only one before version 15.
        let strategy = match admin.server_version_num() {
            Some(150_000..) => "STRATEGY file_copy",
            _ => "",
        };
        let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {USER} {strategy}");
        run(&mut admin, &create).await;
        run(&mut self.connect().await, OWN_EPOCH).await;
    }

    /// As `--store` takes it.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// A connection behind the back of whoever serves it.
    pub(crate) async fn connect(&self) -> PgConnection {
        let connection = self.try_connect().await;
        connection.unwrap_or_else(|error| panic!("cannot reach {}: {error}", self.url()))
    }

    /// The same, while the database may be down.
    pub(crate) async fn try_connect(&self) -> sqlx::Result<PgConnection> {
        self.cluster.options(USER, &self.name).connect().await
    }

    /// The cluster it is in.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let options = self.cluster.options("postgres", "postgres");
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // Nobody waits for it: what is not dropped in time goes with the cluster.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let dropped = async { try_run(&mut options.connect().await?, &drop).await };
            runtime.map(|runtime| runtime.block_on(dropped))
        });
    }
}

/// Makes the database that all others are copies of. Nobody may be connected to it after this.
pub(super) async fn make_template(cluster: &Cluster) {
    let mut admin = cluster.admin().await;
    run(&mut admin, &format!("CREATE ROLE {USER} LOGIN")).await;
    run(&mut admin, &format!("CREATE DATABASE {TEMPLATE} OWNER {USER}")).await;
    migrate_template(&cluster.url(TEMPLATE)).await;
    run(&mut admin, &format!("ALTER DATABASE {TEMPLATE} WITH ALLOW_CONNECTIONS false")).await;
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity";
    run(&mut admin, &format!("{all} WHERE datname = '{TEMPLATE}'")).await;
}

/// Brings the schema into an empty database.
async fn migrate_template(url: &str) {
    PostgresBackend::open(&PostgresOptions::new(url)).await.expect("the schema can be made");
}

/// Runs what was put together from names of this file, which must succeed.
async fn run(connection: &mut PgConnection, sql: &str) {
    try_run(connection, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn try_run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

//! Probes that mean something: `/readyz` and `grpc.health.v1` turn false within 5 s of trouble and true again by
//! themselves, and `/healthz` has nothing to do with any of it.

use std::time::{Duration, Instant};

use flowgate::pb::{execution_service_server, provider_service_server, system_service_server};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};
use tonic::Streaming;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::postgres::{Cluster, Frozen};
use crate::support::{Config, Db, StoreHome, TestServer, eventually, on_both, on_postgres, submit};

/// The promise.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take until a server is ready after its trouble is over; nothing is promised of that.
const BACK_WITHIN: Duration = Duration::from_secs(30);

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    a_server_that_is_well_says_what_it_looked_at;
    #[tokio::test(flavor = "multi_thread")]
    a_dispatcher_that_is_stuck_while_the_store_can_be_read_is_told_and_the_end_of_it_too;
    #[tokio::test(flavor = "multi_thread")]
    a_schema_that_is_older_than_the_server_is_told_and_a_newer_one_is_fine;
}

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    a_database_that_is_down_is_told_and_its_return_too;
    #[tokio::test(flavor = "multi_thread")]
    a_database_that_is_frozen_is_told_and_its_return_too;
    #[tokio::test(flavor = "multi_thread")]
    a_database_that_was_replaced_by_an_empty_one_is_told;
}

async fn a_server_that_is_well_says_what_it_looked_at(db: Db) {
    let server = TestServer::start(config(db)).await;
    assert_eq!(server.http_get("/readyz").await, (200, "ready\n".to_owned()));
    let all = "ready\n[+] store\n[+] migrations\n[+] dispatcher\n";
    assert_eq!(server.http_get("/readyz?verbose").await, (200, all.to_owned()));
    let mut probes = Probes::of(&server).await;
    probes.are_all(ServingStatus::Serving).await;
}

async fn a_dispatcher_that_is_stuck_while_the_store_can_be_read_is_told_and_the_end_of_it_too(
    db: Db,
) {
    let server = TestServer::start(config(db)).await;
    let mut probes = Probes::of(&server).await;
    let mut held = Held::take(server.store()).await;
    let body = probes.turn_false(&server, "dispatcher: ").await;
    assert!(!body.contains("store: "), "{body}");
    assert!(server.store().open_beside().await.head().await.is_ok(), "it can be read");
    held.release().await;
    probes.turn_true(&server).await;
}

async fn a_schema_that_is_older_than_the_server_is_told_and_a_newer_one_is_fine(db: Db) {
    let server = TestServer::start(config(db)).await;
    let mut probes = Probes::of(&server).await;
    let store = server.store();
    let newest = "(SELECT max(version) FROM _sqlx_migrations)";
    let copy = format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        SELECT version + 1, description, success, checksum, execution_time
        FROM _sqlx_migrations WHERE version = {newest}"
    );
    assert_eq!(
        store.execute(sqlx::AssertSqlSafe(copy)).await,
        1,
        "a replica of a later version came"
    );
    store.execute("CREATE TABLE undone AS SELECT * FROM _sqlx_migrations WHERE version > 1").await;
    assert_eq!(server.http_get("/readyz").await.0, 200);
    store.execute("DELETE FROM _sqlx_migrations WHERE version > 1").await;
    probes.turn_false(&server, "migrations: the store has version 1, needed is ").await;
    store.execute("INSERT INTO _sqlx_migrations SELECT * FROM undone").await;
    probes.turn_true(&server).await;
}

async fn a_database_that_is_down_is_told_and_its_return_too() {
    let cluster = Cluster::durable();
    let server = TestServer::start_in(&cluster, config(Db::Postgres)).await;
    let mut probes = Probes::of(&server).await;
    cluster.stop_immediate();
    probes.turn_false(&server, "store: ").await;
    tokio::task::block_in_place(|| cluster.start_again());
    probes.turn_true(&server).await;
    // It is logged with the next look.
    let log = eventually("the log says so", async || {
        Some(server.stderr_log()).filter(|log| log.contains("Ready again"))
    })
    .await;
    assert_eq!(log.matches("Not ready: ").count(), 1, "{log}");
    assert_eq!(log.matches("Ready again").count(), 1, "{log}");
}

async fn a_database_that_is_frozen_is_told_and_its_return_too() {
    let cluster = Cluster::durable();
    let server = TestServer::start_in(&cluster, config(Db::Postgres)).await;
    let mut probes = Probes::of(&server).await;
    let frozen = Frozen::freeze(&cluster);
    probes.turn_false(&server, "store: does not answer").await;
    drop(frozen);
    probes.turn_true(&server).await;
}

async fn a_database_that_was_replaced_by_an_empty_one_is_told() {
    let server = TestServer::start(config(Db::Postgres)).await;
    let mut probes = Probes::of(&server).await;
    let mut connection = server.database().connect().await;
    connection
        .execute("ALTER SCHEMA public RENAME TO lost; CREATE SCHEMA public")
        .await
        .expect("the database is its own");
    probes.turn_false(&server, "migrations: the store has no schema").await;
    connection
        .execute("DROP SCHEMA public; ALTER SCHEMA lost RENAME TO public")
        .await
        .expect("the database is its own");
    probes.turn_true(&server).await;
}

/// That a store is a file that can be removed is true of SQLite alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_removed_is_told_though_the_server_could_go_on_writing_to_it() {
    let server = TestServer::start(config(Db::Sqlite)).await;
    let mut probes = Probes::of(&server).await;
    let StoreHome::Sqlite { file, .. } = server.store() else { unreachable!("it was asked for") };
    let aside = file.with_extension("aside");
    std::fs::rename(file, &aside).unwrap();
    probes.turn_false(&server, "store: ").await;
    std::fs::rename(&aside, file).unwrap();
    probes.turn_true(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_is_told_to_be_not_ready_while_it_finishes() {
    let mut server = TestServer::start(config(Db::Sqlite)).await;
    let mut probes = Probes::of(&server).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 2_000 }))).await.id;
    server.sigterm();
    probes.pushed(ServingStatus::NotServing, TOLD_WITHIN).await;
    assert_eq!(server.http_get("/readyz").await, (503, "shutting down\n".to_owned()));
    assert_eq!(server.http_get("/healthz").await.0, 200);
    assert!(server.wait_exit(Duration::from_secs(30)).await.success());
    let log = server.stderr_log();
    assert!(!log.contains("Not ready") && !id.is_empty(), "that is no trouble: {log}");
}

fn config(db: Db) -> Config {
    Config::on(db).simulated("sim", 1)
}

/// Somebody who watches the health of a server.
struct Probes {
    client: HealthClient<tonic::transport::Channel>,
    watch: Streaming<HealthCheckResponse>,
}

impl Probes {
    async fn of(server: &TestServer) -> Self {
        let mut client = HealthClient::new(server.channel());
        let everything = HealthCheckRequest { service: String::new() };
        let watch = client.watch(everything).await.unwrap().into_inner();
        let mut probes = Self { client, watch };
        probes.pushed(ServingStatus::Serving, TOLD_WITHIN).await;
        probes
    }

    /// Waits for the next status that a watch is told, which must be this one.
    async fn pushed(&mut self, expected: ServingStatus, within: Duration) -> Duration {
        let asked = Instant::now();
        let told = tokio::time::timeout(within, self.watch.message()).await;
        let told = told.unwrap_or_else(|_| panic!("{expected:?} was not told within {within:?}"));
        assert_eq!(told.unwrap().expect("a watch does not end").status(), expected);
        asked.elapsed()
    }

    async fn are_all(&mut self, expected: ServingStatus) {
        for service in [
            "",
            execution_service_server::SERVICE_NAME,
            provider_service_server::SERVICE_NAME,
            system_service_server::SERVICE_NAME,
        ] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = self.client.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), expected, "{service}");
        }
    }

    /// Waits until all is told to be wrong, with this among the reasons, and returns all that `/readyz` says.
    async fn turn_false(&mut self, server: &TestServer, reason: &str) -> String {
        let asked = Instant::now();
        let took = self.pushed(ServingStatus::NotServing, TOLD_WITHIN).await;
        println!("not ready after {took:?}");
        self.are_all(ServingStatus::NotServing).await;
        assert_eq!(server.http_get("/healthz").await.0, 200);
        // What follows from the trouble may be found before the trouble itself.
        eventually(reason, async || {
            let (status, body) = server.http_get("/readyz").await;
            assert!(status == 503 && asked.elapsed() < TOLD_WITHIN, "{status}: {body}");
            body.contains(&format!("[-] {reason}")).then_some(body)
        })
        .await
    }

    async fn turn_true(&mut self, server: &TestServer) {
        let took = self.pushed(ServingStatus::Serving, BACK_WITHIN).await;
        println!("ready again after {took:?}");
        self.are_all(ServingStatus::Serving).await;
        assert_eq!(server.http_get("/readyz").await.0, 200);
        let id = server.submit(submit("sim", json!({}))).await.id;
        server.ended(&id).await;
    }
}

/// A store that can be read but not claimed from.
enum Held {
    Sqlite(sqlx::sqlite::SqliteConnection),
    Postgres(sqlx::postgres::PgConnection),
}

impl Held {
    async fn take(store: &StoreHome) -> Self {
        match store {
            StoreHome::Sqlite { file, .. } => {
                let options = SqliteConnectOptions::new().filename(file);
                let mut connection = options.connect().await.unwrap();
                connection.execute("BEGIN IMMEDIATE").await.unwrap();
                Self::Sqlite(connection)
            }
            StoreHome::Postgres(database) => {
                let mut connection = database.connect().await;
                let lock = "BEGIN; LOCK TABLE providers IN EXCLUSIVE MODE";
                connection.execute(lock).await.unwrap();
                Self::Postgres(connection)
            }
        }
    }

    async fn release(&mut self) {
        match self {
            Self::Sqlite(connection) => connection.execute("ROLLBACK").await.map(drop),
            Self::Postgres(connection) => connection.execute("ROLLBACK").await.map(drop),
        }
        .unwrap();
    }
}

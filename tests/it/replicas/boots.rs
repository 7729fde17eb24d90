//! Replicas that start: at the same moment, and beside a newer version.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::support::{Config, Db, StoreHome, TestServer, audit_is_clean, on_postgres, submit};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    replicas_that_start_at_once_on_an_empty_database_all_come_up;
    #[tokio::test]
    a_replica_older_than_the_schema_says_so_and_ends;
}

/// A test's database has the schema already.
const EMPTY: &str = "DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE 'DROP TABLE ' || name || ' CASCADE';
    END LOOP;
END $$";

async fn replicas_that_start_at_once_on_an_empty_database_all_come_up() {
    for _ in 0..3 {
        let home = StoreHome::new(Db::Postgres).await;
        home.execute(EMPTY).await;
        let config = Config::on(Db::Postgres).simulated("one", 3).simulated("two", 5);
        let replicas = TestServer::together(&home, &config, 3).await;
        let providers = home.open_beside().await.providers().await.unwrap();
        let limit = |name: &str| {
            let row = providers.iter().find(|row| row.record.name.as_str() == name);
            row.expect("it is declared").record.effective().max_concurrent
        };
        assert_eq!((limit("one"), limit("two"), limit("openai")), (3, 5, 3));
        for replica in &replicas {
            let id = replica.submit(submit("one", json!({}))).await.id;
            replicas[0].ended(&id).await;
        }
        audit_is_clean(&replicas[0].store_url());
    }
}

async fn a_replica_older_than_the_schema_says_so_and_ends() {
    let home = StoreHome::new(Db::Postgres).await;
    home.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of a later version', true, '', 0)",
    )
    .await;
    let mut replica = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    replica
        .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
        .args(["--store", &home.url()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(30), replica.output()).await;
    let output = ended.expect("it gives up").expect("cargo built the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("one line was expected: {said}") };
    assert!(error.contains("schema version 9999"), "{error}");
    assert!(error.contains("knows versions up to"), "{error}");
}

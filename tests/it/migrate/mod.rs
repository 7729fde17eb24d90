//! `flowgate migrate`: everything arrives as it was, once, or nothing does. From SQLite to
//! PostgreSQL, so that every test has both.

mod fixture;
mod refusals;
mod served;

use flowgate::admin::{MigrateError, migrate};
use flowgate::store::{Outcome, Transferred};

use crate::store::fixture::{Kind, TestStore};
use crate::support::postgres::Database;
use crate::support::{StoreHome, audit_is_clean, from_env};
use fixture::{crowded, lived, rows_of_postgres, rows_of_sqlite, versions};

/// Moves a store into a database.
async fn moved(from: &StoreHome, to: &Database) -> Result<Transferred, MigrateError> {
    migrate(&from.url(), &to.url(), &|_, _| {}).await
}

/// One more entry in the log of a database.
async fn append(connection: &mut sqlx::PgConnection) {
    let append = "
        UPDATE meta SET revision = revision + 1;
        INSERT INTO events
        SELECT revision + 1, execution_id, provider, kind, at + 1, change
        FROM events
        ORDER BY revision DESC
        LIMIT 1";
    sqlx::raw_sql(append).execute(connection).await.unwrap();
}

#[tokio::test]
async fn everything_arrives_as_it_was() {
    let source = lived().await.close().await;
    let before = rows_of_sqlite(&source).await;
    let target = Database::new().await;
    let transferred = moved(&source, &target).await.unwrap();
    assert_eq!(transferred.outcome, Outcome::Moved { replaced: 0 });
    let census = &transferred.source;
    let states = [
        census.records_pending,
        census.records_running,
        census.records_succeeded,
        census.records_failed,
        census.records_cancelled,
    ];
    assert!(states.iter().all(|count| *count > 0), "there is something in every state: {states:?}");
    assert_eq!(census.workers, 3);
    let after = rows_of_postgres(&mut target.connect().await).await;
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "there is something in {table}");
        assert_eq!(&after[table], rows, "{table}");
    }
    assert_eq!(before.len(), after.len());
    assert_eq!(rows_of_sqlite(&source).await, before, "the source is as it was");
    audit_is_clean(&target.url());
}

#[tokio::test]
async fn moved_again_it_changes_nothing() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    moved(&source, &target).await.unwrap();
    let mut connection = target.connect().await;
    let before = versions(&mut connection).await;
    let again = moved(&source, &target).await.unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyThere);
    assert_eq!(versions(&mut connection).await, before);
}

#[tokio::test]
async fn a_database_without_a_schema_gets_one_with_the_store() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    let mut connection = target.connect().await;
    let drop = "
        DO $$
        DECLARE found text;
        BEGIN
            FOR found IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                EXECUTE 'DROP TABLE ' || found;
            END LOOP;
        END $$";
    sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
    moved(&source, &target).await.unwrap();
    assert_eq!(rows_of_postgres(&mut connection).await, rows_of_sqlite(&source).await);
}

#[tokio::test]
async fn an_empty_store_keeps_its_epoch() {
    let t = TestStore::open(Kind::Sqlite).await;
    let head = t.store.head().await.unwrap();
    let source = t.close().await;
    let target = Database::new().await;
    let transferred = moved(&source, &target).await.unwrap();
    assert_eq!(transferred.outcome, Outcome::Moved { replaced: 0 });
    let epoch = sqlx::query_scalar::<_, String>("SELECT epoch FROM meta");
    assert_eq!(epoch.fetch_one(&mut target.connect().await).await.unwrap(), head.epoch);
    assert_eq!(moved(&source, &target).await.unwrap().outcome, Outcome::AlreadyThere);
}

#[tokio::test]
async fn what_postgres_cannot_hold_is_replaced_and_counted() {
    let t = TestStore::open(Kind::Sqlite).await;
    t.declare("p", 1).await;
    let labelled = t.submit_with("p", |spec| {
        spec.labels.insert("label".to_owned(), "a\0b \\u0000 \0".to_owned());
    });
    let id = labelled.await.to_string();
    t.pause("p", None).await;
    let source = t.close().await;
    source.execute("UPDATE providers SET pause_reason = 'why' || char(0) || ' not'").await;
    let target = Database::new().await;
    let transferred = moved(&source, &target).await.unwrap();
    assert_eq!(transferred.outcome, Outcome::Moved { replaced: 3 });
    let rows = rows_of_postgres(&mut target.connect().await).await;
    assert_eq!(rows["executions"][0]["id"], id);
    assert_eq!(rows["executions"][0]["labels"]["label"], "a\u{fffd}b \\u0000 \u{fffd}");
    assert_eq!(rows["providers"][0]["pause_reason"], "why\u{fffd} not");
}

#[tokio::test]
async fn a_log_without_its_oldest_entries_is_moved_as_it_is() {
    let source = lived().await.close().await;
    source.execute("DELETE FROM events WHERE revision <= 3").await;
    source.execute("UPDATE meta SET compacted = 3").await;
    let target = Database::new().await;
    assert_eq!(moved(&source, &target).await.unwrap().source.first_event, 4);
    assert_eq!(moved(&source, &target).await.unwrap().outcome, Outcome::AlreadyThere);
}

#[tokio::test]
async fn a_target_that_went_on_is_left_alone() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    let revision = moved(&source, &target).await.unwrap().source.revision;
    let mut connection = target.connect().await;
    append(&mut connection).await;
    let before = versions(&mut connection).await;
    let again = moved(&source, &target).await.unwrap();
    assert_eq!(again.outcome, Outcome::TargetWentOn { revision: revision + 1 });
    assert_eq!(versions(&mut connection).await, before);
}

#[tokio::test]
async fn a_large_store_arrives_whole() {
    let executions = from_env("FLOWGATE_TEST_EXECUTIONS", 3_000);
    let source = crowded(executions).await.close().await;
    let target = Database::new().await;
    let started = std::time::Instant::now();
    let census = moved(&source, &target).await.unwrap().source;
    println!("{executions} executions, {} revisions: {:?}", census.events, started.elapsed());
    assert_eq!(usize::try_from(census.executions).unwrap(), executions);
    let mut connection = target.connect().await;
    assert_eq!(rows_of_postgres(&mut connection).await, rows_of_sqlite(&source).await);
    let before = versions(&mut connection).await;
    assert_eq!(moved(&source, &target).await.unwrap().outcome, Outcome::AlreadyThere);
    assert_eq!(versions(&mut connection).await, before);
    audit_is_clean(&target.url());
}

//! Commits whose answer a crash of the database swallowed (promise P2).

use std::sync::Arc;

use flowgate::store::Submitted;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::store::fixture::TestStore;
use crate::support::postgres::Cluster;
use crate::support::{StoreHome, eventually};

/// Every commit that inserts an execution takes a minute, until the database is started again.
const LINGER: &str = "
    CREATE TABLE lingering AS SELECT pg_postmaster_start_time() AS since;
    CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT 1 FROM lingering WHERE since = pg_postmaster_start_time()) THEN
            PERFORM pg_sleep(60);
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER lingering AFTER INSERT ON executions
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()";

/// The numbers of transactions that left nothing on disk are given out again after a crash, and
/// another transaction that has one of them says nothing about the one that was lost.
#[tokio::test]
async fn a_commit_that_a_crash_undid_is_not_taken_for_the_next_one_of_the_same_number() {
    let cluster = Cluster::durable();
    let database = Arc::new(cluster.database().await);
    let name = database.url().rsplit('/').next().unwrap().to_owned();
    let home = StoreHome::Postgres(Arc::clone(&database));
    let t = TestStore::over(home.open().await, Some(home));
    t.declare("p", 1).await;

    let mut admin = cluster.admin().await;
    // Only commits write to disk, so that one which does not end leaves nothing there.
    admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    database.connect().await.execute(LINGER).await.unwrap();
    let allow =
        |yes: bool| AssertSqlSafe(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {yes}"));
    admin.execute(allow(false)).await.unwrap();

    let new = t.new_with("p", |_| {});
    let (id, store) = (new.spec.id, t.store.clone());
    let submit = tokio::spawn(async move { store.submit(vec![new]).await });
    let lost = eventually("the commit lingers", async || {
        let lingering =
            "SELECT backend_xid::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        admin.fetch_optional(lingering).await.unwrap().map(|row| row.get::<String, _>(0))
    })
    .await;
    cluster.stop_immediate();
    cluster.start_again();
    // Nobody can ask for the outcome before the number belongs to another, which is committed.
    let mut admin = cluster.admin().await;
    let mut number = 0;
    while number < lost.parse::<i64>().unwrap() {
        let row = admin.fetch_one("SELECT pg_current_xact_id()::text::bigint").await.unwrap();
        number = row.get(0);
    }
    admin.execute(allow(true)).await.unwrap();

    let answers = submit.await.unwrap().unwrap().unwrap();
    assert!(matches!(answers[..], [Submitted::New { .. }]), "{answers:?}");
    assert_eq!(t.records(&[id]).await.len(), 1, "what was acknowledged is there");
    t.check().await;
}

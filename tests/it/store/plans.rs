//! What the hot statements read of a store that holds a million finished and a million scheduled
//! executions: a few rows by their indexes, and never a table.

use sqlx::Row as _;

use super::fixture::{GRACE, Kind, LEASE, TestStore};
use crate::support::eventually;

/// Rows of each sort.
const MANY: &str = "1000000";

#[tokio::test]
async fn a_million_finished_and_a_million_scheduled_executions_are_not_looked_at() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 10).await;
    fill(&t).await;
    let home = t.home().clone();
    // As a replica finds it: its first plans are made now, and not for an empty store.
    let t = t.reopen().await;
    // A session says what it read when it ends.
    let before = read(&t).await;
    let rounds = 30;
    for _ in 0..rounds {
        t.submit_plain("p", 20).await;
        let claimed = t.claim("p", 10).await;
        assert_eq!(claimed.len(), 10);
        t.store.renew(claimed.iter().map(|it| it.lease.clone()).collect(), LEASE).await.unwrap();
        for claimed in &claimed {
            t.succeed(&claimed.lease).await;
        }
        t.store.advance(GRACE).await.unwrap();
    }
    // 20 submitted, 10 claimed one way or another and 10 renewed and settled: a few reads of each.
    drop(t.reopen().await);
    let t = TestStore::over(home.open().await, Some(home));
    let after = eventually("the sessions have said what they read", async || {
        let after = read(&t).await;
        (after.index_reads > before.index_reads + rounds * 20).then_some(after)
    })
    .await;
    assert_eq!(after.table_scans, before.table_scans, "no table was scanned");
    let reads = after.index_reads - before.index_reads;
    assert!(reads < rounds * 2_000, "{} entries of indexes read a round", reads / rounds);
}

struct Reads {
    table_scans: i64,
    index_reads: i64,
}

/// What was read of the hot table so far.
async fn read(t: &TestStore) -> Reads {
    let mut connection = match t.home() {
        crate::support::StoreHome::Postgres(database) => database.connect().await,
        crate::support::StoreHome::Sqlite { .. } => panic!("this test runs on PostgreSQL"),
    };
    let row = sqlx::query(
        "SELECT seq_scan, (SELECT sum(idx_tup_read)::bigint
                           FROM pg_stat_user_indexes
                           WHERE relname = 'records')
         FROM pg_stat_user_tables
         WHERE relname = 'records'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    Reads { table_scans: row.get(0), index_reads: row.get(1) }
}

async fn fill(t: &TestStore) {
    let rows = "INSERT INTO records
            (id, provider, state, ready, wait, interrupted, priority, due_at, token, attempts,
             charged, crashes)
        SELECT gen_random_uuid(), 'p', STATE, false, WAIT, false, 0, 1900000000000000 + n, 0, 0, 0, 0
        FROM generate_series(1, MANY) AS n";
    for (state, wait) in [("2", "0"), ("0", "2")] {
        let rows = rows.replace("STATE", state).replace("WAIT", wait).replace("MANY", MANY);
        t.home().execute(sqlx::AssertSqlSafe(rows)).await;
    }
    t.home().execute("ANALYZE records").await;
}

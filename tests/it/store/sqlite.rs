//! What is particular to the embedded database: its file.

use flowgate::domain::{State, Timestamp, WorkerId};
use flowgate::store::{
    Backend, BackendError, EventQuery, Lane, Payload, SqliteBackend, WorkerRow, WorkerStatus,
};

use super::fixture::{Kind, LEASE, SECOND, TestStore, retry, succeeded};

#[tokio::test]
async fn a_reopened_store_has_everything_it_had() {
    let t = TestStore::open(Kind::Sqlite).await;
    t.declare("p", 3).await;
    t.limit("p", Some(2)).await;
    t.pause("q", None).await;
    let ids = t.submit_plain("p", 4).await;
    let claimed = t.claim("p", 2).await;
    t.settle(&claimed[0].lease, succeeded("[1]")).await.unwrap();
    t.settle(&claimed[1].lease, retry(SECOND)).await.unwrap();
    let lease = t.claim("p", 1).await[0].lease.clone();
    t.cancel(ids[3]).await;

    let head = t.store.head().await.unwrap();
    let log = t.log().await;
    let executions = t.store.executions(&ids, Payload::With).await.unwrap();
    let records = t.records(&ids).await;
    let providers = t.store.providers().await.unwrap();
    let totals = t.store.totals().await.unwrap();
    let t = t.reopen().await;
    assert_eq!(t.store.head().await.unwrap(), head, "revision and epoch are kept");
    assert_eq!(t.log().await, log);
    assert_eq!(t.store.executions(&ids, Payload::With).await.unwrap(), executions);
    assert_eq!(t.records(&ids).await, records);
    assert_eq!(t.store.providers().await.unwrap(), providers);
    assert_eq!(t.store.totals().await.unwrap(), totals);
    // The lease outlives the restart too.
    t.store.renew(vec![lease.clone()], LEASE).await.unwrap();
    t.succeed(&lease).await;
    assert_eq!(t.state(lease.id).await, State::Succeeded);
    t.check().await;
}

#[tokio::test]
async fn two_stores_have_different_epochs() {
    let (a, b) = (TestStore::open(Kind::Sqlite).await, TestStore::open(Kind::Sqlite).await);
    assert_ne!(a.store.head().await.unwrap().epoch, b.store.head().await.unwrap().epoch);
}

#[tokio::test]
async fn a_file_in_use_is_not_opened_again() {
    let t = TestStore::open(Kind::Sqlite).await;
    let second = SqliteBackend::open(&t.path()).await;
    assert!(matches!(second, Err(BackendError::Locked(path)) if path == t.path()));
    let t = t.reopen().await;
    t.submit_plain("p", 1).await;
}

#[tokio::test]
async fn a_file_in_use_is_refused_under_any_other_name() {
    let t = TestStore::open(Kind::Sqlite).await;
    let link = t.path().with_extension("link");
    std::os::unix::fs::symlink(t.path(), &link).unwrap();
    assert!(matches!(SqliteBackend::open(&link).await, Err(BackendError::Locked(_))));
    let hard = t.path().with_extension("hard");
    std::fs::hard_link(t.path(), &hard).unwrap();
    assert!(matches!(SqliteBackend::open(&hard).await, Err(BackendError::HardLinked(_))));
    std::fs::remove_file(hard).unwrap();
    t.submit_plain("p", 1).await;
}

#[tokio::test]
async fn a_store_closed_in_order_is_one_file() {
    let t = TestStore::open(Kind::Sqlite).await;
    t.submit_plain("p", 3).await;
    let backend = SqliteBackend::open_beside(&t.path()).await.unwrap();
    let before = backend.head().await.unwrap();
    drop(backend);
    t.store.close();
    t.tasks.ended().await;
    let copy = t.path().with_extension("copy");
    std::fs::copy(t.path(), &copy).unwrap();
    let copy = SqliteBackend::open(&copy).await.unwrap();
    assert_eq!(copy.head().await.unwrap(), before, "nothing is left in the write-ahead log");
}

#[tokio::test]
async fn a_file_in_use_can_be_read_beside_and_not_written() {
    let t = TestStore::open(Kind::Sqlite).await;
    t.submit_plain("p", 3).await;
    let beside = SqliteBackend::open_beside(&t.path()).await.unwrap();
    assert_eq!(beside.head().await.unwrap(), t.store.head().await.unwrap());
    let head = t.store.head().await.unwrap();
    let mut transaction = beside.begin(Lane::Changes).await.unwrap();
    assert!(transaction.put_worker(&worker(), Timestamp::default()).await.is_err());
    drop(transaction);
    assert_eq!(t.store.workers().await.unwrap(), []);
    assert_eq!(t.store.head().await.unwrap(), head);
    t.submit_plain("p", 1).await;
    let query = EventQuery { after: 0, execution: None, output: true, limit: 10 };
    assert_eq!(beside.events(&query).await.unwrap(), t.log().await);
}

fn worker() -> WorkerRow {
    WorkerRow {
        id: WorkerId::new(),
        host: String::new(),
        version: String::new(),
        status: WorkerStatus::Serving,
        started_at: Timestamp::default(),
        heartbeat_at: Timestamp::default(),
        figures: serde_json::json!({}),
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_not_made_by_reading_it() {
    let t = TestStore::open(Kind::Sqlite).await;
    let missing = t.path().with_file_name("missing.db");
    assert!(SqliteBackend::open_beside(&missing).await.is_err());
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_store_in_a_directory_that_is_missing_says_so() {
    let t = TestStore::open(Kind::Sqlite).await;
    let nowhere = t.path().with_file_name("no").join("flowgate.db");
    assert!(matches!(SqliteBackend::open(&nowhere).await, Err(BackendError::Open { .. })));
}

//! What is particular to the shared database: several stores over one, and connections that break.

use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::{Limits, State, SystemClock, Timestamp};
use flowgate::store::{
    BackendError, ClockSource, Listen, PostgresBackend, PostgresOptions, Store, StoreError,
    Submitted,
};
use futures_util::join;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use tokio::sync::broadcast::Receiver;

use super::fixture::{GRACE, Kind, LEASE, TestStore, name};
use crate::support::postgres::{Cluster, Database};
use crate::support::{StoreHome, eventually};

/// Another replica's store on the same database and the same clock.
async fn beside(t: &TestStore) -> Store {
    Store::start(t.home().open().await, t.clock.clone(), &t.tasks)
}

fn database(t: &TestStore) -> &Database {
    match t.home() {
        StoreHome::Postgres(database) => database,
        StoreHome::Sqlite { .. } => panic!("these tests run on PostgreSQL"),
    }
}

/// Waits until a commit of anybody brings this revision.
async fn heard(feed: &mut Receiver<Arc<flowgate::store::Commit>>, revision: i64) {
    let deadline = Duration::from_secs(10);
    let heard = async {
        loop {
            if feed.recv().await.unwrap().newest >= revision {
                return;
            }
        }
    };
    tokio::time::timeout(deadline, heard).await.expect("it is heard of in time");
}

async fn terminate(connection: &mut PgConnection, which: &'static str) -> u64 {
    let found = connection.execute(which).await.unwrap();
    found.rows_affected()
}

#[tokio::test]
async fn what_one_store_commits_is_read_at_once_through_another() {
    let t = TestStore::open(Kind::Postgres).await;
    let other = beside(&t).await;
    t.declare("p", 1).await;
    for _ in 0..50 {
        let id = t.submit_with("p", |_| {}).await;
        let found = other.execution(id, flowgate::store::Payload::With).await.unwrap();
        assert_eq!(found, Some(t.get(id).await));
    }
}

#[tokio::test]
async fn a_request_id_raced_for_by_two_stores_gives_one_execution() {
    let t = TestStore::open(Kind::Postgres).await;
    let other = beside(&t).await;
    t.declare("p", 1).await;
    for round in 0..50 {
        let new = || t.new_with("p", |spec| spec.request_id = Some(format!("request {round}")));
        // Each also has requests of the others' in the opposite order.
        let more =
            |n: i32| t.new_with("p", |spec| spec.request_id = Some(format!("more {round} {n}")));
        let (here, there) = join!(
            t.store.submit(vec![more(1), new(), more(2)]),
            other.submit(vec![more(2), new(), more(1)])
        );
        let mut answers = here.unwrap().unwrap();
        answers.extend(there.unwrap().unwrap());
        let replayed = answers.iter().filter(|it| matches!(it, Submitted::Replayed(_))).count();
        assert_eq!(replayed, 3, "{answers:?}");
    }
    t.check().await;
}

#[tokio::test]
async fn limits_hold_whoever_claims() {
    let t = TestStore::open(Kind::Postgres).await;
    let other = beside(&t).await;
    t.declare("p", 3).await;
    t.submit_plain("p", 60).await;
    let mut running = 0;
    for _ in 0..20 {
        let (here, there) =
            join!(t.store.claim(t.claim_of(&[("p", 9)])), other.claim(t.claim_of(&[("p", 9)])));
        let (here, there) = (here.unwrap().claimed, there.unwrap().claimed);
        running += here.len() + there.len();
        assert!(running <= 3, "{running} run");
        for claimed in here.iter().chain(&there) {
            t.succeed(&claimed.lease).await;
            running -= 1;
        }
    }
    t.check().await;
}

#[tokio::test]
async fn stores_that_declare_at_once_lose_no_override() {
    let t = TestStore::open(Kind::Postgres).await;
    let other = beside(&t).await;
    let limits = |max_concurrent| vec![(name("p"), Limits::concurrent(max_concurrent))];
    let (here, there) = join!(t.store.declare(limits(2)), other.declare(limits(2)));
    let changed = here.unwrap().len() + there.unwrap().len();
    assert_eq!(changed, 1, "one of them added it, the other found it");
    t.limit("p", Some(5)).await;
    other.declare(limits(3)).await.unwrap();
    let rows = t.store.providers().await.unwrap();
    assert_eq!(rows[0].record.overriding.max_concurrent, Some(5));
    assert_eq!(rows[0].record.declared.max_concurrent, 3);
    t.check().await;
}

#[tokio::test]
async fn what_another_session_locks_holds_up_only_claims_of_that_provider() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 2).await;
    t.declare("q", 2).await;
    t.submit_plain("p", 2).await;
    t.submit_plain("q", 2).await;
    let lease = t.claim("p", 1).await[0].lease.clone();
    let mut session = database(&t).connect().await;
    session.execute("BEGIN").await.unwrap();
    session.execute("SELECT 1 FROM providers WHERE name = 'p' FOR UPDATE").await.unwrap();

    let claimed = t.store.claim(t.claim_of(&[("p", 1), ("q", 1)])).await.unwrap().claimed;
    let providers: Vec<_> = claimed.iter().map(|claimed| claimed.spec.provider.as_str()).collect();
    assert_eq!(providers, ["q"]);
    t.submit_plain("p", 1).await;
    t.store.renew(vec![lease.clone()], LEASE).await.unwrap();
    t.succeed(&lease).await;
    t.store.advance(GRACE).await.unwrap();
    let other = beside(&t).await;
    assert_eq!(other.claim(t.claim_of(&[("q", 1)])).await.unwrap().claimed.len(), 1);

    session.execute("ROLLBACK").await.unwrap();
    assert_eq!(t.claim("p", 1).await.len(), 1);
    t.check().await;
}

#[tokio::test]
async fn a_session_that_holds_a_lock_for_too_long_is_an_error_and_no_hang() {
    let home = StoreHome::new(crate::support::Db::Postgres).await;
    let lease = Duration::from_secs(1);
    let options =
        PostgresOptions { clock: ClockSource::Injected, lease, ..PostgresOptions::new(home.url()) };
    let backend = Arc::new(PostgresBackend::open(&options).await.unwrap());
    let t = TestStore::over(backend, Some(home));
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let mut session = database(&t).connect().await;
    session.execute("BEGIN").await.unwrap();
    session.execute("SELECT 1 FROM records FOR UPDATE").await.unwrap();
    let refused = t.store.cancel(vec![id], "x".to_owned()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    session.execute("ROLLBACK").await.unwrap();
    t.cancel(id).await;
    assert_eq!(t.state(id).await, State::Cancelled);
    t.check().await;
}

#[tokio::test]
async fn connections_that_were_terminated_are_made_again_unnoticed() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 100).await;
    let mut session = database(&t).connect().await;
    for _ in 0..5 {
        let ids = t.submit_plain("p", 3).await;
        let claimed = t.claim("p", 3).await;
        assert_eq!(claimed.len(), 3);
        t.store.renew(vec![claimed[0].lease.clone()], LEASE).await.unwrap();
        let ended = terminate(
            &mut session,
            "SELECT pg_terminate_backend(pid)
             FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        assert!(ended.await >= 3);
        // Readers, each lane and the bell find out by themselves.
        assert_eq!(t.state(ids[0]).await, State::Running);
        t.succeed(&claimed[1].lease).await;
        t.store.renew(vec![claimed[0].lease.clone()], LEASE).await.unwrap();
        t.succeed(&claimed[0].lease).await;
        t.succeed(&claimed[2].lease).await;
    }
    t.check().await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_neither_repeated_nor_denied() {
    let cluster = Cluster::durable();
    let home = StoreHome::Postgres(Arc::new(cluster.database().await));
    let t = TestStore::over(home.open().await, Some(home));
    t.declare("p", 1).await;
    let mut admin = cluster.admin().await;
    // Commits are done, but their answers wait for a standby that never comes.
    admin.execute("SET synchronous_commit = local").await.unwrap();
    let standby = "ALTER SYSTEM SET synchronous_standby_names = ";
    admin.execute(sqlx::AssertSqlSafe(format!("{standby} 'nobody'"))).await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    // The setting takes effect a moment later: until then commits are answered at once.
    let (answers, stored) = eventually("a commit waits, and its session is ended", async || {
        let submit = tokio::spawn({
            let (store, new) = (t.store.clone(), t.new_with("p", |_| {}));
            async move { store.submit(vec![new]).await }
        });
        let mut ended = 0;
        while ended == 0 && !submit.is_finished() {
            ended = terminate(
                &mut admin,
                "SELECT pg_terminate_backend(pid)
                 FROM pg_stat_activity
                 WHERE wait_event = 'SyncRep'",
            )
            .await;
        }
        let answers = submit.await.unwrap().unwrap().unwrap();
        (ended > 0).then_some((answers, t.head().await))
    })
    .await;
    let [Submitted::New { revision, .. }] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(stored, revision, "it was stored once");
    admin.execute(sqlx::AssertSqlSafe(format!("{standby} ''"))).await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    t.submit_with("p", |_| {}).await;
    t.check().await;
}

#[tokio::test]
async fn a_commit_that_was_undone_is_run_again() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 1).await;
    let mut session = database(&t).connect().await;
    // The commit itself takes until its session is ended, the first time.
    session
        .execute(
            "CREATE SEQUENCE commits;
             CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('commits') = 1 THEN
                     PERFORM pg_sleep(60);
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER lingering AFTER INSERT ON executions
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()",
        )
        .await
        .unwrap();
    let submit = tokio::spawn({
        let (store, new) = (t.store.clone(), t.new_with("p", |_| {}));
        async move { store.submit(vec![new]).await }
    });
    eventually("the commit lingers, and its session is ended", async || {
        let ended = terminate(
            &mut session,
            "SELECT pg_terminate_backend(pid)
             FROM pg_stat_activity
             WHERE wait_event = 'PgSleep' AND datname = current_database()",
        );
        (ended.await > 0).then_some(())
    })
    .await;
    let answers = submit.await.unwrap().unwrap().unwrap();
    assert!(matches!(answers[..], [Submitted::New { .. }]), "{answers:?}");
    t.check().await;
}

#[tokio::test]
async fn what_others_commit_is_heard_of_at_once_and_by_polling_where_nobody_rings() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 9).await;
    let options = PostgresOptions {
        clock: ClockSource::Injected,
        listen: Listen::Never,
        poll_interval: Duration::from_millis(50),
        ..PostgresOptions::new(t.home().url())
    };
    let deaf = Arc::new(PostgresBackend::open(&options).await.unwrap());
    let deaf = Store::start(deaf, t.clock.clone(), &t.tasks);
    let other = beside(&t).await;
    let (mut feed, mut polled) = (other.commits(), deaf.commits());
    for round in 0..20 {
        let id = t.submit_with("p", |_| {}).await;
        let revision = t.get(id).await.revision;
        heard(&mut feed, revision).await;
        heard(&mut polled, revision).await;
        if round % 5 == 4 {
            terminate(
                &mut database(&t).connect().await,
                "SELECT pg_terminate_backend(pid)
                 FROM pg_stat_activity
                 WHERE query = 'LISTEN \"flowgate\"' AND datname = current_database()",
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_listen_that_is_never_answered_keeps_nobody_from_looking() {
    let t = TestStore::open(Kind::Postgres).await;
    t.declare("p", 9).await;
    // Connections to it are made, and that is all.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let options = PostgresOptions {
        clock: ClockSource::Injected,
        listen: Listen::At(format!("postgres://flowgate@127.0.0.1:{port}/flowgate")),
        poll_interval: Duration::from_millis(50),
        ..PostgresOptions::new(t.home().url())
    };
    let deaf = Arc::new(PostgresBackend::open(&options).await.unwrap());
    let deaf = Store::start(deaf, t.clock.clone(), &t.tasks);
    let mut polled = deaf.commits();
    for _ in 0..20 {
        let id = t.submit_with("p", |_| {}).await;
        heard(&mut polled, t.get(id).await.revision).await;
    }
}

#[tokio::test]
async fn time_never_runs_backwards_along_the_log() {
    let home = StoreHome::new(crate::support::Db::Postgres).await;
    let open = async || {
        let backend = PostgresBackend::open(&PostgresOptions::new(home.url())).await.unwrap();
        let tasks = flowgate::tasks::Tasks::default();
        Store::start(Arc::new(backend), Arc::new(SystemClock), &tasks)
    };
    let (one, two) = (open().await, open().await);
    let t = TestStore::open(Kind::Memory).await;
    for _ in 0..50 {
        let new = || vec![t.new_with("p", |_| {}), t.new_with("q", |_| {})];
        let (here, there) = join!(one.submit(new()), two.submit(new()));
        assert!(here.unwrap().is_ok() && there.unwrap().is_ok());
    }
    let query = flowgate::store::EventQuery { after: 0, execution: None, output: true, limit: 999 };
    let log = one.events(&query).await.unwrap();
    assert_eq!(log.len(), 200);
    assert!(log.is_sorted_by_key(|event| event.at));
    let now = Timestamp::from(std::time::SystemTime::now());
    // One machine, so one clock.
    assert!(
        one.now().since(now) < Duration::from_secs(1)
            && now.since(one.now()) < Duration::from_secs(1)
    );
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused() {
    let t = TestStore::open(Kind::Postgres).await;
    t.home()
        .execute(
            "INSERT INTO _sqlx_migrations
                 (version, description, success, checksum, execution_time)
             VALUES (9999, 'of a later version', true, '', 0)",
        )
        .await;
    let refused = PostgresBackend::open(&PostgresOptions::new(t.home().url())).await;
    assert!(matches!(refused, Err(BackendError::SchemaTooNew { found: 9999, .. })));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_an_error_without_the_password() {
    let url = "postgres://me:hunter2@127.0.0.1:1/nowhere";
    let Err(error) = PostgresBackend::open(&PostgresOptions::new(url)).await else { panic!() };
    let said = flowgate::store::with_sources(&error);
    assert!(said.starts_with("cannot connect to the store: "), "{said}");
    assert!(!said.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_queue_is_filled_exactly_by_two_replicas_at_once() {
    let t = TestStore::open(Kind::Postgres).await;
    let other = beside(&t).await;
    let limits = Limits { max_pending: Some(17), ..Limits::concurrent(2) };
    t.declare_limits("p", limits).await;
    for round in 0..5 {
        let submissions = (0..24).map(|n| {
            let store = if n % 2 == 0 { &t.store } else { &other };
            let batch = (0..1 + n % 3).map(|_| t.new_with("p", |_| {})).collect();
            async move { store.submit(batch).await.unwrap() }
        });
        let answers = futures_util::future::join_all(submissions).await;
        let stored: usize = answers.iter().flatten().map(Vec::len).sum();
        assert_eq!(stored, if round == 0 { 17 } else { 2 }, "it is full, and no more than that");
        let rows = other.providers().await.unwrap();
        assert_eq!(rows[0].pending, 17);
        for claimed in t.claim("p", 2).await {
            t.succeed(&claimed.lease).await;
        }
    }
    t.check().await;
}

//! What `flowgate migrate` refuses, and that a refusal leaves both sides as they were.

use std::path::Path;
use std::process::{Command, Output};

use flowgate::admin::{MigrateError, migrate};
use flowgate::store::{BackendError, SqliteBackend, TransferError, Transferred, with_sources};
use tempfile::TempDir;

use super::fixture::{lived, rows_of_postgres, versions};
use super::{append, moved};
use crate::store::fixture::{Kind, TestStore};
use crate::support::postgres::Database;

fn refusal(result: Result<Transferred, MigrateError>) -> TransferError {
    match result.unwrap_err() {
        MigrateError::Transfer(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_store_in_use_is_not_moved() {
    let t = lived().await;
    let target = Database::new().await;
    let error = refusal(moved(t.home(), &target).await);
    assert!(matches!(error, TransferError::Source(BackendError::Locked(_))), "{error}");
    assert!(with_sources(&error).contains("another server is using"));
    t.submit_plain("p", 1).await;
}

#[tokio::test]
async fn nobody_else_uses_either_side_meanwhile() {
    let t = lived().await;
    let file = t.path();
    let source = t.close().await;
    let target = Database::new().await;
    let meanwhile = async || {
        let served = SqliteBackend::open(&file).await;
        let mut connection = target.connect().await;
        let read = "BEGIN; LOCK TABLE events IN ACCESS SHARE MODE NOWAIT";
        let read = sqlx::raw_sql(read).execute(&mut connection).await.unwrap_err();
        let locked = read.as_database_error().unwrap().code().unwrap() == "55P03";
        let mut connection = target.connect().await;
        // What a replica takes that starts, to bring the schema up to date.
        let start = "SELECT pg_try_advisory_lock(x'666c6f7767617465'::bigint)";
        let start: bool = sqlx::query_scalar(start).fetch_one(&mut connection).await.unwrap();
        (matches!(served, Err(BackendError::Locked(_))), locked, start)
    };
    let seen = std::sync::Mutex::new(Vec::new());
    // Asked in the middle of it, on a thread of its own: this one is not to go on before.
    let progress = |_: &'static str, _: u64| {
        let asked = std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            scope.spawn(|| runtime.unwrap().block_on(meanwhile())).join().unwrap()
        });
        seen.lock().unwrap().push(asked);
    };
    migrate(&source.url(), &target.url(), &progress).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|seen| *seen == (true, true, false)), "{seen:?}");
}

#[tokio::test]
async fn who_came_first_is_not_overwritten() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    let mut first = target.connect().await;
    let declare = "BEGIN; INSERT INTO providers VALUES ('p', 1, NULL, false, NULL, NULL, 0, 0)";
    sqlx::raw_sql(declare).execute(&mut first).await.unwrap();
    let waits =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'providers'::regclass";
    let waits = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut first).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let mut moving = std::pin::pin!(moved(&source, &target));
    tokio::select! {
        early = &mut moving => panic!("it does not wait: {early:?}"),
        () = waits => {}
    }
    sqlx::raw_sql("COMMIT").execute(&mut first).await.unwrap();
    let refused = moving.await;
    assert!(matches!(refusal(refused), TransferError::NotEmpty { .. }));
    assert_eq!(rows_of_postgres(&mut first).await["executions"].len(), 0);
}

async fn moved_file(from: &Path, to: &Database) -> Result<Transferred, MigrateError> {
    migrate(&format!("sqlite://{}", from.display()), &to.url(), &|_, _| {}).await
}

#[tokio::test]
async fn what_is_no_store_is_neither_moved_nor_made_one() {
    let dir = TempDir::new().unwrap();
    let target = Database::new().await;
    let missing = dir.path().join("missing.db");
    let error = refusal(moved_file(&missing, &target).await);
    assert!(matches!(error, TransferError::Source(BackendError::Open { .. })), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");

    for content in ["", "this is not a database, but it is long enough to look at"] {
        let file = dir.path().join("other.db");
        std::fs::write(&file, content).unwrap();
        let error = refusal(moved_file(&file, &target).await);
        assert!(matches!(error, TransferError::Source(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    let foreign = dir.path().join("foreign.db");
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE events (mine)").execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let before = std::fs::read(&foreign).unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    let error = refusal(moved_file(&foreign, &target).await);
    assert!(matches!(error, TransferError::Source(BackendError::NotAStore(_))), "{error}");
    assert_eq!(std::fs::read(&foreign).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), files, "nothing was left beside it");
}

#[tokio::test]
async fn a_target_with_anything_in_it_is_refused_and_left_alone() {
    let source = lived().await.close().await;
    let other = lived().await.close().await;
    let used = Database::new().await;
    moved(&other, &used).await.unwrap();
    let declared = Database::new().await;
    let declare = "
        INSERT INTO providers VALUES ('p', 1, NULL, false, NULL, NULL, 1, 0);
        INSERT INTO events VALUES (1, NULL, 'p', 2, 1, '{}');
        UPDATE meta SET revision = 1";
    sqlx::raw_sql(declare).execute(&mut declared.connect().await).await.unwrap();
    let seen = Database::new().await;
    let see = "INSERT INTO workers VALUES (gen_random_uuid(), 'h', '1', 'serving', 1, 1, '{}')";
    sqlx::raw_sql(see).execute(&mut seen.connect().await).await.unwrap();
    for target in [used, declared, seen] {
        let mut connection = target.connect().await;
        let before = versions(&mut connection).await;
        let error = refusal(moved(&source, &target).await);
        assert!(matches!(error, TransferError::NotEmpty { .. }), "{error}");
        assert!(error.to_string().contains("holds another store"), "{error}");
        assert_eq!(versions(&mut connection).await, before);
    }
}

#[tokio::test]
async fn a_source_that_was_served_again_is_refused() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    moved(&source, &target).await.unwrap();
    let t = TestStore::over(source.open().await, Some(source));
    t.submit_plain("p", 1).await;
    let source = t.close().await;
    let mut connection = target.connect().await;
    let before = versions(&mut connection).await;
    let error = refusal(moved(&source, &target).await);
    assert!(matches!(error, TransferError::SourceWentOn { .. }), "{error}");
    assert!(error.to_string().contains("went on after it was migrated"), "{error}");
    assert_eq!(versions(&mut connection).await, before);

    // As many changes there as here are not the same changes.
    append(&mut connection).await;
    let error = refusal(moved(&source, &target).await);
    assert!(matches!(error, TransferError::Diverged { .. }), "{error}");
    append(&mut connection).await;
    let error = refusal(moved(&source, &target).await);
    assert!(matches!(error, TransferError::Diverged { .. }), "{error}");
    let compact = "DELETE FROM events; UPDATE meta SET compacted = revision";
    sqlx::raw_sql(compact).execute(&mut connection).await.unwrap();
    let error = refusal(moved(&source, &target).await);
    assert!(matches!(error, TransferError::Incomparable { .. }), "{error}");
}

#[tokio::test]
async fn a_log_with_a_gap_is_not_moved() {
    for damage in [
        "DELETE FROM events WHERE revision = 5",
        "DELETE FROM events WHERE revision = 1",
        "DELETE FROM events WHERE revision = (SELECT revision FROM meta)",
        "UPDATE meta SET compacted = 2",
    ] {
        let source = lived().await.close().await;
        assert!(source.execute(damage).await > 0, "it did something");
        let target = Database::new().await;
        let error = refusal(moved(&source, &target).await);
        assert!(matches!(error, TransferError::LogBroken { .. }), "{damage}: {error}");
    }
}

#[tokio::test]
async fn what_does_not_arrive_undoes_what_did() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    let mut connection = target.connect().await;
    let lose = "
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RETURN CASE WHEN NEW.state = 3 THEN NULL ELSE NEW END; END';
        CREATE TRIGGER lose BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION lose()";
    sqlx::raw_sql(lose).execute(&mut connection).await.unwrap();
    let before = versions(&mut connection).await;
    let error = refusal(moved(&source, &target).await);
    let TransferError::Mismatch { difference, .. } = &error else { panic!("{error}") };
    assert!(difference.contains("records_failed: 1, then 0"), "{difference}");
    assert_eq!(versions(&mut connection).await, before);

    // The same if the database itself refuses a row, the last of all of them.
    let refuse = "
        DROP TRIGGER lose ON records;
        ALTER TABLE workers ADD CHECK (status <> 'stopped')";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();
    let error = refusal(moved(&source, &target).await);
    assert!(matches!(error, TransferError::Target { .. }), "{error}");
    assert_eq!(versions(&mut connection).await, before);
    let rows = rows_of_postgres(&mut connection).await;
    assert!(rows.iter().all(|(table, rows)| rows.is_empty() || table == "meta"));
}

#[tokio::test]
async fn only_sqlite_to_postgres_is_supported() {
    for (from, to, why) in [
        (
            "postgres://u:hunter2@h/d",
            "sqlite://x.db",
            "no other way: --from is a PostgreSQL database",
        ),
        (
            "postgres://u:hunter2@h/d",
            "postgres://h/e",
            "no other way: --from is a PostgreSQL database",
        ),
        ("sqlite://x.db", "sqlite://y.db", "no other way: --to is a SQLite file"),
        ("mysql://u:hunter2@h/d", "postgres://h/d", "--from must have the form sqlite://PATH"),
        ("sqlite://", "postgres://h/d", "--from must name a file"),
        ("sqlite://x.db", "postgre://u:hunter2@h/d", "--to must have the form"),
    ] {
        let error = migrate(from, to, &|_, _| {}).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_password_is_never_repeated() {
    let source = lived().await.close().await;
    let from = source.url();
    for to in [
        // Nobody listens there.
        "postgres://user:hunter2@127.0.0.1:1/database",
        "postgres://127.0.0.1:1/database?user=user&password=hunter2",
        // What is not written as it must be would be read as a host, a port or a database.
        "postgres://user:hunter2/@127.0.0.1:1/database",
        "postgres://user:12/hunter2@127.0.0.1:1/database",
        "postgres://user:a@b/hunter2@127.0.0.1:1/database",
        "postgres://user:12?hunter2@127.0.0.1:1/database",
        "postgres://user:12#hunter2@127.0.0.1:1/database",
        "postgres://user:hunter2",
        "postgres://user:hunter2@:x/database",
    ] {
        let error = with_sources(&migrate(&from, to, &|_, _| {}).await.unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = migrate(&from, "postgres://user:hunter2@127.0.0.1:1/database", &|_, _| {}).await;
    assert!(error.unwrap_err().to_string().contains("postgres://127.0.0.1:1/database"));
}

/// The command as a user runs it.
async fn command(arguments: Vec<String>) -> (Option<i32>, String, String) {
    let run = move || -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
        command.arg("migrate").args(arguments).output().expect("cargo built the binary")
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("it is text"));
    (output.status.code(), out, err)
}

#[tokio::test]
async fn the_exit_code_says_whether_the_target_has_it_all() {
    let source = lived().await.close().await;
    let target = Database::new().await;
    let from = source.url();
    let arguments = ["--from", &from, "--to", &target.url()].map(str::to_owned);
    let json = [&arguments[..], &["--output".to_owned(), "json".to_owned()]].concat();
    let (code, out, err) = command(arguments.to_vec()).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("moved store") && out.contains("executions"), "{out}");
    let (code, out, _) = command(arguments.to_vec()).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("nothing to do"), "{out}");
    let (code, out, _) = command(json).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["outcome"]), (Some(0), &"already_there".into()));
    append(&mut target.connect().await).await;
    let (code, out, _) = command(arguments.to_vec()).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("has gone on since"), "{out}");

    let t = TestStore::open(Kind::Sqlite).await;
    let from = format!("sqlite://{}", t.path().display());
    let _dir = t.close().await;
    let arguments = ["--from", &from, "--to", &target.url()].map(str::to_owned);
    let (code, out, err) = command(arguments.to_vec()).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.starts_with("error: ") && err.lines().count() == 1, "{err}");
}

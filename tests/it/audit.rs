//! `flowgate audit`: beside a live store, on what it really wrote, and on what someone else did.

use flowgate::admin::{AuditError, Rule, audit};
use flowgate::domain::Ending;

use crate::store::fixture::{GRACE, Kind, LEASE, SECOND, TestStore, crashed, failed, retry};
use crate::support::{Db, on_both, on_postgres};

on_both! {
    #[tokio::test]
    a_live_store_passes;
    #[tokio::test]
    a_store_passes_while_it_is_written;
    #[tokio::test]
    an_entry_that_is_gone_is_found_with_what_was_around_it;
    #[tokio::test]
    the_newest_entries_being_gone_is_found;
    #[tokio::test]
    a_limit_that_was_not_in_force_is_found_with_what_ran;
    #[tokio::test]
    a_row_that_was_changed_behind_the_log_is_found;
    #[tokio::test]
    an_entry_that_makes_no_sense_is_not_called_clean;
}

on_postgres! {
    #[tokio::test]
    a_database_that_is_missing_is_not_called_clean;
}

/// A store with a bit of everything in it, some of it still running.
async fn lived(db: Db) -> TestStore {
    let t = TestStore::open(db).await;
    t.declare("p", 3).await;
    t.declare("q", 1).await;
    let ids = t.submit_plain("p", 6).await;
    t.submit_plain("q", 2).await;
    let claimed = t.claim("p", 3).await;
    t.succeed(&claimed[0].lease).await;
    t.settle(&claimed[1].lease, retry(SECOND)).await.unwrap();
    t.settle(&claimed[2].lease, crashed()).await.unwrap();
    t.limit("p", Some(1)).await;
    t.claim("p", 3).await;
    t.claim("q", 3).await;
    t.cancel(ids[5]).await;
    t.pause("p", Some(claimed[0].spec.created_at + SECOND)).await;
    t.pass(LEASE + GRACE).await;
    let again = t.claim("p", 3).await;
    t.cancel(again[0].lease.id).await;
    t.settle(&again[0].lease, Ending::Released { begun: true }).await.unwrap();
    t.settle(&t.claim("p", 1).await[0].lease, failed()).await.unwrap();
    t.claim("p", 1).await;
    t
}

/// Writes into the store behind its back.
async fn tamper(t: &TestStore, sql: &'static str) {
    assert!(t.home().execute(sql).await > 0, "the tampering did something");
}

async fn a_live_store_passes(db: Db) {
    let t = lived(db).await;
    let report = audit(&t.home().url()).await.unwrap();
    assert!(report.is_clean(), "{}", report.to_text());
    assert_eq!((report.head, report.executions), (t.head().await, 8));
    let p = &report.providers[0];
    assert_eq!(
        (p.name.as_str(), p.max_running, p.limit_at_max, p.limit),
        ("p", 3, Some(3), Some(1))
    );
    assert_eq!(p.running().len(), 1);
    assert!(report.to_text().contains("clean: every promise was kept"));
    assert_eq!(report.to_json()["clean"], true);
    t.submit_plain("p", 1).await;
}

async fn a_store_passes_while_it_is_written(db: Db) {
    let t = TestStore::open(db).await;
    t.declare("p", 2).await;
    let url = t.home().url();
    let audits = async {
        for _ in 0..10 {
            let report = audit(&url).await.unwrap();
            assert!(report.is_clean(), "{}", report.to_text());
        }
    };
    let traffic = async {
        loop {
            t.submit_plain("p", 20).await;
            for claimed in t.claim("p", 2).await {
                t.succeed(&claimed.lease).await;
            }
        }
    };
    tokio::select! {
        () = audits => {}
        () = traffic => {}
    }
    assert!(t.head().await > 1, "there was traffic");
}

async fn an_entry_that_is_gone_is_found_with_what_was_around_it(db: Db) {
    let t = lived(db).await;
    tamper(&t, "DELETE FROM events WHERE revision = 5").await;
    let report = audit(&t.home().url()).await.unwrap();
    assert!(!report.is_clean());
    let finding = &report.findings[0];
    assert_eq!((finding.violation.rule, finding.violation.revision), (Rule::Revisions, 6));
    assert!(finding.around.iter().any(|event| event.revision == 6));
    assert!(report.to_text().contains("revision 5 should have come next"));
    assert_eq!(report.to_json()["clean"], false);
}

async fn the_newest_entries_being_gone_is_found(db: Db) {
    let t = lived(db).await;
    tamper(&t, "DELETE FROM events WHERE revision > (SELECT revision - 2 FROM meta)").await;
    let report = audit(&t.home().url()).await.unwrap();
    let gone =
        |finding: &flowgate::admin::Finding| finding.violation.message.contains("last 2 entries");
    assert!(report.findings.iter().any(gone), "{}", report.to_text());
}

async fn a_limit_that_was_not_in_force_is_found_with_what_ran(db: Db) {
    let t = lived(db).await;
    tamper(
        &t,
        "UPDATE events
         SET change = replace(change, '\"max_concurrent\":3', '\"max_concurrent\":2')
         WHERE revision = 1",
    )
    .await;
    let report = audit(&t.home().url()).await.unwrap();
    let finding = &report.findings[0];
    assert_eq!((report.violations, finding.violation.rule), (1, Rule::Limits));
    assert_eq!(finding.running.len(), 3);
    assert_eq!(finding.around[0].execution, finding.violation.execution);
}

async fn a_row_that_was_changed_behind_the_log_is_found(db: Db) {
    for (sql, found) in [
        ("UPDATE records SET charged = 7 WHERE state = 1", "charged"),
        ("UPDATE records SET state = 0, ready = true WHERE state = 1", "its row says pending"),
        ("DELETE FROM records WHERE state = 4", "it is in the log and has no row"),
        (
            "UPDATE providers SET overriding_max = 5 WHERE name = 'p'",
            "its row has limit 5, the log 1",
        ),
    ] {
        let t = lived(db).await;
        tamper(&t, sql).await;
        let report = audit(&t.home().url()).await.unwrap();
        assert_eq!(report.findings[0].violation.rule, Rule::Records);
        assert!(report.findings[0].violation.message.contains(found), "{}", report.to_text());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_not_called_clean() {
    let t = TestStore::open(Kind::Sqlite).await;
    let missing = t.home().url().replace("flowgate.db", "missing.db");
    assert!(matches!(audit(&missing).await, Err(AuditError::Unreadable(_))));
    let text = t.path().with_file_name("text.db");
    std::fs::write(&text, "this is not a database, but it is long enough to look at").unwrap();
    let text = format!("sqlite://{}", text.display());
    assert!(matches!(audit(&text).await, Err(AuditError::Unreadable(_))));
    assert!(matches!(audit("mysql://x").await, Err(AuditError::UnknownStore(_))));
}

async fn a_database_that_is_missing_is_not_called_clean() {
    let t = TestStore::open(Kind::Postgres).await;
    let missing = t.home().url() + "_and_more";
    assert!(matches!(audit(&missing).await, Err(AuditError::Unreadable(_))));
}

async fn an_entry_that_makes_no_sense_is_not_called_clean(db: Db) {
    let t = lived(db).await;
    tamper(&t, "UPDATE events SET change = '{}' WHERE revision = 3").await;
    assert!(matches!(audit(&t.home().url()).await, Err(AuditError::Unreadable(_))));
}

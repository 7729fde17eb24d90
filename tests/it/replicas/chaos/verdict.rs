//! What must hold when all is over, read from the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Row as _;

use super::clients::{LABEL, Ledger};
use super::fleet::Fleet;
use super::watchers::{Seen, What};
use crate::support::{audit_is_clean, eventually};

/// Which executions a watcher of many watches.
#[derive(Debug, Clone)]
pub(super) enum Matching {
    Everything,
    Providers(Vec<String>),
    Labelled,
}

/// One entry of the log about an execution.
struct Entry {
    revision: i64,
    id: String,
    provider: String,
    is_output: bool,
}

/// The log, as far as it is about executions.
pub(super) struct Log {
    entries: Vec<Entry>,
    labelled: BTreeSet<String>,
}

impl Log {
    pub(super) async fn read(fleet: &Fleet) -> Self {
        let log = "SELECT revision, execution_id::text, provider, kind = 1
            FROM events
            WHERE execution_id IS NOT NULL
            ORDER BY revision";
        let rows = fleet.rows(|| sqlx::query(log)).await;
        let entry = |row: &sqlx::postgres::PgRow| Entry {
            revision: row.get(0),
            id: row.get(1),
            provider: row.get(2),
            is_output: row.get(3),
        };
        let entries = rows.iter().map(entry).collect();
        let labelled = "SELECT id::text FROM executions WHERE labels ->> $1 = $2";
        let rows = fleet.rows(|| sqlx::query(labelled).bind(LABEL.0).bind(LABEL.1)).await;
        Self { entries, labelled: rows.iter().map(|row| row.get(0)).collect() }
    }

    fn of_many<'a>(&'a self, matching: &'a Matching) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(|entry| !entry.is_output).filter(move |entry| match matching {
            Matching::Everything => true,
            Matching::Providers(providers) => providers.contains(&entry.provider),
            Matching::Labelled => self.labelled.contains(&entry.id),
        })
    }

    /// The last revision that a watcher of these is told of.
    pub(super) fn last(&self, matching: &Matching) -> i64 {
        self.of_many(matching).last().map_or(0, |entry| entry.revision)
    }

    /// What a watcher must have read.
    fn expected(&self, what: &What) -> Vec<(i64, String)> {
        let read = |entry: &Entry| (entry.revision, entry.id.clone());
        match what {
            What::Many(matching) => self.of_many(matching).map(read).collect(),
            What::Ones(ids) => {
                let mut changes: HashMap<&str, Vec<_>> = HashMap::new();
                for entry in &self.entries {
                    changes.entry(&entry.id).or_default().push(read(entry));
                }
                ids.iter().flat_map(|id| changes.remove(&**id).unwrap_or_default()).collect()
            }
        }
    }
}

/// Waits until everything that was acknowledged is over, and everything else that was stored.
pub(super) async fn all_is_over(fleet: &Fleet, ledger: &Ledger, deadline: Duration) {
    let until = Instant::now() + deadline;
    loop {
        let left = "SELECT count(*) FROM records WHERE state < 2";
        let left: i64 = fleet.rows(|| sqlx::query(left)).await[0].get(0);
        if left == 0 {
            break;
        }
        assert!(Instant::now() < until, "{left} executions are not over after {deadline:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = "SELECT id::text, request_id, cancel_requested_at IS NOT NULL, state
        FROM records JOIN executions USING (id)";
    let rows = fleet.rows(|| sqlx::query(all)).await;
    let stored: HashMap<String, (Option<String>, bool)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let in_state = |state: i16| rows.iter().filter(|row| row.get::<i16, _>(3) == state).count();
    let ended = [2, 3, 4].map(in_state);
    let accounts = ledger.accounts();
    let mut requests: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, request_id) in &accounts.acknowledged {
        let (stored_as, _) = stored.get(id).unwrap_or_else(|| {
            panic!("execution {id}, request {request_id:?}, was acknowledged and is not there")
        });
        assert_eq!(stored_as.as_deref().unwrap_or_default(), request_id, "of {id}");
        if !request_id.is_empty()
            && let Some(other) = requests.insert(request_id, id)
        {
            assert_eq!(other, id, "two executions for {request_id}");
        }
    }
    for (id, was_over) in &accounts.cancelled {
        assert!(*was_over || stored[id].1, "the cancellation of {id} is forgotten");
    }
    let [succeeded, failed, cancelled] = ended;
    say("executions acknowledged", accounts.acknowledged.len());
    say("executions over", stored.len());
    println!("{:26}{succeeded} succeeded, {failed} failed, {cancelled} cancelled", "");
    say("cancellations kept", accounts.cancelled.len());
    say("submissions sent again", ledger.sent_again.load(Ordering::Relaxed));
    say("limits set", ledger.limits_set.load(Ordering::Relaxed));
}

fn say(what: &str, value: impl std::fmt::Display) {
    println!("{what:26}{value}");
}

pub(super) async fn check(fleet: &Fleet, log: &Log, seen: &[Seen]) {
    let (mut compared, mut reconnections) = (0, 0);
    for Seen { what, changes, reconnections: broken } in seen {
        let expected = log.expected(what);
        let differs = changes.iter().zip(&expected).position(|(read, logged)| read != logged);
        let at = differs.unwrap_or(changes.len().min(expected.len()));
        assert!(
            *changes == expected,
            "the watcher of {what:?} read {} changes, the log has {}; from the {at}th on they \
             differ: {:?} and {:?}",
            changes.len(),
            expected.len(),
            changes.get(at),
            expected.get(at)
        );
        compared += changes.len();
        reconnections += broken;
    }
    say("watchers", seen.len());
    say("changes they read", compared);
    say("streams that broke", reconnections);
    let reading = fleet.meter().read();
    say("modules", reading.runs);
    say("modules at the same time", reading.most);
    let limit = fleet.meter().limit();
    assert!(reading.most <= limit, "{} modules ran at limit {limit}", reading.most);
    let folder = fleet.meter().dir();
    eventually("no module is left", async || is_deserted(&folder).then_some(())).await;
    audit_is_clean(&fleet.store().url());
    say("audit", "clean");
}

/// Whether no process works in this folder.
fn is_deserted(folder: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut places =
        processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
    !places.any(|place| place == folder)
}

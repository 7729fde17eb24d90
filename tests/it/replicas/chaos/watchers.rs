//! Watchers that go on with their cursor, at any replica, whenever a stream breaks.

use std::sync::Arc;
use std::time::Duration;

use flowgate::pb::{
    ExecutionFilter, ExecutionView, WatchExecutionRequest, WatchExecutionsRequest,
    watch_execution_response, watch_executions_response,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clients::{LABEL, Ledger};
use super::fleet::{Fleet, answer, must_be_an_outage};
use super::verdict::{Log, Matching};

/// What one watcher read.
pub(super) struct Seen {
    pub(super) what: What,
    /// Every change it was told of: the revision and the execution.
    pub(super) changes: Vec<(i64, String)>,
    /// How often its stream broke, or it hung up itself.
    pub(super) reconnections: u64,
}

/// What a watcher watches.
#[derive(Debug, Clone)]
pub(super) enum What {
    Many(Matching),
    /// These, one after another, each with its output.
    Ones(Vec<String>),
}

/// Reads everything that matches from the first revision on, until it has read the whole log.
pub(super) async fn watch_many(
    fleet: Arc<Fleet>,
    number: usize,
    seed: u64,
    mut finished: Receiver<Option<Arc<Log>>>,
) -> Seen {
    let mut rng = StdRng::seed_from_u64(seed);
    let matching = match number % 4 {
        0 => Matching::Everything,
        1 => Matching::Providers(vec!["quick".to_owned()]),
        2 => Matching::Providers(vec!["slow".to_owned(), "chatty".to_owned()]),
        _ => Matching::Labelled,
    };
    let mut filter = ExecutionFilter::default();
    match &matching {
        Matching::Everything => {}
        Matching::Providers(providers) => filter.providers.clone_from(providers),
        Matching::Labelled => drop(filter.labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned())),
    }
    let view = if number == 2 { ExecutionView::Full } else { ExecutionView::Unspecified };
    let mut reader = Reader::default();
    loop {
        let request = WatchExecutionsRequest {
            filter: Some(filter.clone()),
            after_revision: Some(reader.cursor),
            store_epoch: reader.epoch.clone(),
            view: view.into(),
        };
        let mut client = fleet.executions(&mut rng);
        let Some(mut stream) = answer(client.watch_executions(request)).await else {
            reader.lost().await;
            continue;
        };
        let hang_up = Instant::now() + Duration::from_millis(rng.random_range(500..8_000));
        loop {
            let last = finished.borrow_and_update().as_ref().map(|log| log.last(&matching));
            if last.is_some_and(|last| reader.cursor >= last) {
                return reader.seen(What::Many(matching));
            }
            let message = tokio::select! {
                message = stream.message() => message,
                () = tokio::time::sleep_until(hang_up) => break,
                _ = finished.changed() => continue,
            };
            match message {
                Ok(Some(message)) => {
                    reader.note(message.revision, message.store_epoch);
                    if let Some(watch_executions_response::Event::Execution(it)) = message.event {
                        assert_eq!(it.revision, message.revision);
                        reader.changes.push((message.revision, it.id));
                    }
                }
                Ok(None) => panic!("a watch of many ended by itself"),
                Err(status) => {
                    must_be_an_outage(&status);
                    break;
                }
            }
        }
        reader.lost().await;
    }
}

/// Reads one execution after another, each from its first change to its last.
pub(super) async fn watch_one_after_another(
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    seed: u64,
    end: CancellationToken,
) -> Seen {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut ids, mut all) = (Vec::new(), Reader::default());
    while !end.is_cancelled() {
        let newest = {
            let accounts = ledger.accounts();
            let watchable = &accounts.watchable;
            watchable[watchable.len().saturating_sub(10)..].choose(&mut rng).cloned()
        };
        match newest.filter(|id| !ids.contains(id)) {
            Some(id) => {
                let reader = watch_one(&fleet, &mut rng, &id).await;
                all.changes.extend(reader.changes);
                all.reconnections += reader.reconnections;
                ids.push(id);
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    all.seen(What::Ones(ids))
}

async fn watch_one(fleet: &Fleet, rng: &mut StdRng, id: &str) -> Reader {
    let mut reader = Reader::default();
    loop {
        let request = WatchExecutionRequest {
            id: id.to_owned(),
            after_revision: Some(reader.cursor),
            store_epoch: reader.epoch.clone(),
            include_output: true,
        };
        let mut client = fleet.executions(rng);
        let Some(mut stream) = answer(client.watch_execution(request)).await else {
            reader.lost().await;
            continue;
        };
        let hang_up = Instant::now() + Duration::from_millis(rng.random_range(50..3_000));
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = tokio::time::sleep_until(hang_up) => break,
            };
            match message {
                Ok(Some(message)) => {
                    reader.note(message.revision, message.store_epoch);
                    use watch_execution_response::Event::{Execution, Heartbeat, Output};
                    match message.event {
                        Some(Execution(_) | Output(_)) => {
                            reader.changes.push((message.revision, id.to_owned()));
                        }
                        Some(Heartbeat(_)) | None => {}
                    }
                }
                Ok(None) => return reader,
                Err(status) => {
                    must_be_an_outage(&status);
                    break;
                }
            }
        }
        reader.lost().await;
    }
}

#[derive(Default)]
struct Reader {
    cursor: i64,
    epoch: String,
    changes: Vec<(i64, String)>,
    reconnections: u64,
}

impl Reader {
    fn note(&mut self, revision: i64, epoch: String) {
        assert!(revision >= self.cursor, "{revision} after {}", self.cursor);
        (self.cursor, self.epoch) = (revision, epoch);
    }

    async fn lost(&mut self) {
        self.reconnections += 1;
        // A replica that is gone refuses at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn seen(self, what: What) -> Seen {
        Seen { what, changes: self.changes, reconnections: self.reconnections }
    }
}

//! Three replicas under load while everything goes wrong that can (promises P1 to P5): replicas are
//! killed and frozen, sessions terminated, the database crashes. What was acknowledged ends, what a
//! frozen replica says too late is refused, and every watcher reads the log.
//!
//! `FLOWGATE_TEST_CHAOS_SECONDS` sets how long that goes on (60 unless set), `FLOWGATE_TEST_SEED` the
//! seed. `tests/chaos` is the long form.

mod clients;
mod faults;
mod fleet;
mod verdict;
mod watchers;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::{from_env, on_postgres};
use clients::Ledger;
use fleet::Fleet;
use watchers::Seen;

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    whatever_goes_wrong_nothing_acknowledged_is_lost_and_watchers_see_all;
}

const REPLICAS: usize = 3;
const CLIENTS: usize = 10;
const WATCHERS_OF_MANY: usize = 8;
const WATCHERS_OF_ONE: usize = 12;
/// How long the rest of the work may take once everything is well again.
const RECOVERY: Duration = Duration::from_secs(120);

async fn whatever_goes_wrong_nothing_acknowledged_is_lost_and_watchers_see_all() {
    let seed: u64 = from_env("FLOWGATE_TEST_SEED", 1);
    let seconds: u64 = from_env("FLOWGATE_TEST_CHAOS_SECONDS", 60);
    println!("{seconds} seconds with seed {seed}");
    let fleet = Arc::new(Fleet::start(REPLICAS).await);
    let played = play(&fleet, seed, Duration::from_secs(seconds));
    if let Err(panic) = AssertUnwindSafe(played).catch_unwind().await {
        let kept = fleet.keep_evidence(seed).await;
        println!("the seed was {seed}; all logs are in {}", kept.display());
        resume_unwind(panic);
    }
}

async fn play(fleet: &Arc<Fleet>, seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let ledger = Arc::new(Ledger::default());
    let (faults_end, load_ends) = (CancellationToken::new(), CancellationToken::new());
    let (finish, finished) = tokio::sync::watch::channel(None);

    let mut watchers: JoinSet<Seen> = JoinSet::new();
    for n in 0..WATCHERS_OF_MANY {
        let fleet = Arc::clone(fleet);
        watchers.spawn(watchers::watch_many(fleet, n, rng.random(), finished.clone()));
    }
    for _ in 0..WATCHERS_OF_ONE {
        let (fleet, ledger, ends) = (Arc::clone(fleet), Arc::clone(&ledger), load_ends.clone());
        watchers.spawn(watchers::watch_one_after_another(fleet, ledger, rng.random(), ends));
    }
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let (fleet, ledger, ends) = (Arc::clone(fleet), Arc::clone(&ledger), load_ends.clone());
        clients.spawn(clients::submit_and_cancel(fleet, ledger, n, rng.random(), ends));
    }
    clients.spawn(clients::change_limits(
        Arc::clone(fleet),
        Arc::clone(&ledger),
        rng.random(),
        load_ends.clone(),
    ));
    let mut faults = JoinSet::new();
    faults.spawn(faults::kill(Arc::clone(fleet), rng.random(), faults_end.clone()));
    faults.spawn(faults::freeze_and_crash(Arc::clone(fleet), rng.random(), faults_end.clone()));
    faults.spawn(faults::terminate(Arc::clone(fleet), rng.random(), faults_end.clone()));

    let began = Instant::now();
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        ended = clients.join_next() => over_too_soon(ended),
        ended = faults.join_next() => over_too_soon(ended),
        ended = watchers.join_next() => over_too_soon(ended),
    }
    // Each heals what it broke before it ends.
    faults_end.cancel();
    all(&mut faults).await;
    load_ends.cancel();
    all(&mut clients).await;
    println!("{:.0?} of faults and load, and then:", began.elapsed());
    let healed = Instant::now();
    verdict::all_is_over(fleet, &ledger, RECOVERY).await;
    println!("all was over after {:.1?}", healed.elapsed());

    let log = Arc::new(verdict::Log::read(fleet).await);
    finish.send_replace(Some(Arc::clone(&log)));
    let seen = all(&mut watchers).await;
    verdict::check(fleet, &log, &seen).await;
    fleet.counts().conclude();
}

/// Waits for all of them; panics as the first that did.
async fn all<T: 'static>(tasks: &mut JoinSet<T>) -> Vec<T> {
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        results.push(ended.unwrap_or_else(|error| resume_unwind(error.into_panic())));
    }
    results
}

fn over_too_soon<T>(ended: Option<Result<T, JoinError>>) {
    match ended {
        Some(Err(error)) => resume_unwind(error.into_panic()),
        _ => panic!("one of them has ended before its time"),
    }
}

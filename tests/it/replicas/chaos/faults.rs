//! What goes wrong. Whoever breaks something heals it again, so that all is well when they have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::Row as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fleet::{Counts, Fleet};
use crate::support::TestServer;

const KILL_EVERY: Duration = Duration::from_secs(2);
/// How long the others may take to take back what a frozen replica ran, and the thawed one to find out.
const DEADLINE: Duration = Duration::from_secs(60);

/// Kills a replica every two seconds, and starts it again a moment later.
pub(super) async fn kill(fleet: Arc<Fleet>, seed: u64, end: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + KILL_EVERY, KILL_EVERY);
    while !end.is_cancelled() {
        tick.tick().await;
        let Some((n, mut server)) = fleet.idle_one(&mut rng) else { continue };
        server.kill9();
        Counts::add(&fleet.counts().kills, 1);
        pause(&mut rng, 0..500).await;
        fleet.start_again(n, &mut server).await;
    }
}

/// Freezes replicas past their leases, and crashes the database. One after the other: a frozen replica
/// loses its leases to others only while there is a database.
pub(super) async fn freeze_and_crash(fleet: Arc<Fleet>, seed: u64, end: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !end.is_cancelled() {
        pause(&mut rng, 500..1_500).await;
        freeze(&fleet, &mut rng).await;
        pause(&mut rng, 500..1_500).await;
        crash(&fleet, &mut rng).await;
    }
}

async fn freeze(fleet: &Fleet, rng: &mut StdRng) {
    let server = fleet.any_one(rng).await;
    let Some((worker, before)) = wait_for_work(fleet, &server).await else { return };
    server.sigstop();
    // What it had sent to the database is done or undone by then, and its leases last longer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = held_by(fleet, worker).await;
    let until = Instant::now() + DEADLINE;
    while held_by(fleet, worker).await > 0 {
        assert!(Instant::now() < until, "the others do not take back what {worker} runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.sigcont();
    let mut refused = 0;
    let until = Instant::now() + DEADLINE;
    // Each of them is settled, and that is refused, because another token is in force by now.
    while refused < held {
        assert!(Instant::now() < until, "{held} were lost to {worker}, {refused} writes refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
        refused = stale_writes(&server).await.map_or(refused, |stale| stale - before);
    }
    let counts = fleet.counts();
    Counts::add(&counts.freezes, 1);
    Counts::add(&counts.held_while_frozen, held);
    Counts::add(&counts.stale_writes_refused, refused);
}

/// Waits until the replica runs something; tells which worker it is and how many writes it was refused.
async fn wait_for_work(fleet: &Fleet, server: &TestServer) -> Option<(Uuid, u64)> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if let Ok(reply) =
            server.system().get_status(flowgate::pb::GetStatusRequest::default()).await
        {
            let worker = reply.into_inner().worker_id.parse().expect("it is a UUID");
            if let Some(stale) = stale_writes(server).await
                && held_by(fleet, worker).await > 0
            {
                return Some((worker, stale));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

async fn stale_writes(server: &TestServer) -> Option<u64> {
    let reply = server.system().get_status(flowgate::pb::GetStatusRequest::default()).await.ok()?;
    u64::try_from(reply.into_inner().metrics?.stale_writes_rejected).ok()
}

/// How many executions run under a lease of this worker.
async fn held_by(fleet: &Fleet, worker: Uuid) -> u64 {
    let held = "SELECT count(*) FROM records WHERE state = 1 AND owner = $1";
    let rows = fleet.rows(|| sqlx::query(held).bind(worker)).await;
    u64::try_from(rows[0].get::<i64, _>(0)).expect("a count")
}

async fn crash(fleet: &Fleet, rng: &mut StdRng) {
    tokio::task::block_in_place(|| fleet.cluster().stop_immediate());
    pause(rng, 0..1_500).await;
    tokio::task::block_in_place(|| fleet.cluster().start_again());
    Counts::add(&fleet.counts().database_crashes, 1);
}

/// Terminates sessions at random.
pub(super) async fn terminate(fleet: Arc<Fleet>, seed: u64, end: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    let url = fleet.database().url();
    let (_, database) = url.rsplit_once('/').expect("it ends with the database");
    while !end.is_cancelled() {
        pause(&mut rng, 200..800).await;
        let some = "
            SELECT pg_terminate_backend(pid)
            FROM (SELECT pid FROM pg_stat_activity WHERE datname = $1 ORDER BY random() LIMIT $2)
                AS victims";
        let Ok(mut admin) = fleet.cluster().try_admin().await else { continue };
        let some = sqlx::query(some).bind(database).bind(rng.random_range(1..4_i64));
        // It fails if the whole database crashes meanwhile.
        if let Ok(done) = some.execute(&mut admin).await {
            Counts::add(&fleet.counts().terminated_sessions, done.rows_affected());
        }
    }
}

/// The instants are the point of the test; nothing is expected of them.
async fn pause(rng: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(millis))).await;
}

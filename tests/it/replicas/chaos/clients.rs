//! Clients that submit, cancel and change limits whatever goes wrong, and keep account of what they
//! were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use flowgate::pb::{
    CancelExecutionRequest, ProviderLimits, RetryPolicy, SetLimitsRequest, SubmitExecutionRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, SIMULATED, answer};
use crate::support::submit;

/// The label of some executions.
pub(super) const LABEL: (&str, &str) = ("team", "red");
/// How long a request is tried again for.
const DEADLINE: Duration = Duration::from_secs(90);

/// What clients were told.
#[derive(Default)]
pub(super) struct Ledger {
    accounts: Mutex<Accounts>,
    /// Submissions sent again under their request id, because they were not answered.
    pub(super) sent_again: AtomicU64,
    pub(super) limits_set: AtomicU64,
}

#[derive(Default)]
pub(super) struct Accounts {
    /// Executions whose submission was acknowledged, in that order, with their request ids.
    pub(super) acknowledged: Vec<(String, String)>,
    /// Executions whose cancellation was acknowledged, and whether they were over by then.
    pub(super) cancelled: BTreeMap<String, bool>,
    /// What can be watched while it happens.
    pub(super) watchable: Vec<String>,
}

impl Ledger {
    pub(super) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap()
    }

    fn acknowledged(&self, id: String, request: &SubmitExecutionRequest) {
        let mut accounts = self.accounts();
        if ["chatty", "slow"].contains(&&*request.provider) {
            accounts.watchable.push(id.clone());
        }
        accounts.acknowledged.push((id, request.request_id.clone()));
    }

    /// One of those acknowledged last.
    fn recent(&self, rng: &mut StdRng) -> String {
        let accounts = self.accounts();
        let count = accounts.acknowledged.len();
        let (id, _) = &accounts.acknowledged[rng.random_range(count.saturating_sub(40)..count)];
        id.clone()
    }
}

pub(super) async fn submit_and_cancel(
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    client: usize,
    seed: u64,
    end: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut number = 0;
    while !end.is_cancelled() {
        let mut request = execution(&fleet, &mut rng);
        number += 1;
        if rng.random_bool(0.5) {
            request.request_id = format!("client {client} request {number}");
        }
        let Some(id) = acknowledged(&fleet, &ledger, &mut rng, request.clone()).await else {
            continue;
        };
        if !request.request_id.is_empty() && rng.random_bool(0.1) {
            let again = fleet.executions(&mut rng).submit_execution(request.clone()).await;
            if let Ok(reply) = again {
                let reply = reply.into_inner();
                let execution = reply.execution.expect("a reply holds an execution");
                assert_eq!((execution.id, reply.replayed), (id.clone(), true));
            }
        }
        ledger.acknowledged(id, &request);
        if rng.random_bool(0.05) {
            let recent = ledger.recent(&mut rng);
            cancel(&fleet, &ledger, &mut rng, recent).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
    }
}

/// Submits; what has a request id is sent until it is acknowledged.
async fn acknowledged(
    fleet: &Fleet,
    ledger: &Ledger,
    rng: &mut StdRng,
    request: SubmitExecutionRequest,
) -> Option<String> {
    let until = Instant::now() + DEADLINE;
    loop {
        let mut client = fleet.executions(rng);
        if let Some(reply) = answer(client.submit_execution(request.clone())).await {
            return Some(reply.execution.expect("a reply holds an execution").id);
        }
        // A replica that is gone refuses at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if request.request_id.is_empty() {
            return None;
        }
        assert!(Instant::now() < until, "not acknowledged in {DEADLINE:?}: {request:?}");
        ledger.sent_again.fetch_add(1, Ordering::Relaxed);
    }
}

async fn cancel(fleet: &Fleet, ledger: &Ledger, rng: &mut StdRng, id: String) {
    let mut client = fleet.executions(rng);
    let request = CancelExecutionRequest { id: id.clone(), reason: "at random".to_owned() };
    if let Some(reply) = answer(client.cancel_execution(request)).await {
        let execution = reply.execution.expect("a reply holds an execution");
        let over = execution.cancel_requested_time.is_none();
        ledger.accounts().cancelled.entry(id).or_insert(over);
    }
}

/// Changes limits every 100 ms through any replica that answers.
pub(super) async fn change_limits(
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    seed: u64,
    end: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while !end.is_cancelled() {
        tick.tick().await;
        let some = SIMULATED.iter().filter(|_| rng.random_bool(0.6));
        let some: Vec<_> = some.map(|(provider, _)| (*provider).to_owned()).collect();
        let limits = some.into_iter().map(|provider| ProviderLimits {
            provider,
            max_concurrent: Some(rng.random_range(1..8)),
            ..Default::default()
        });
        let limits: Vec<_> = limits.collect();
        if limits.is_empty() {
            continue;
        }
        let request = SetLimitsRequest { limits, ..Default::default() };
        let mut client = fleet.providers(&mut rng);
        if answer(client.set_limits(request)).await.is_some() {
            ledger.limits_set.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn execution(fleet: &Fleet, rng: &mut StdRng) -> SubmitExecutionRequest {
    let mut request = match rng.random_range(0..40) {
        0..2 => fleet.meter().execution(rng.random_range(5..100)),
        2..7 => submit("slow", json!({ "duration_ms": rng.random_range(50..500) })),
        7..14 => submit("chatty", json!({ "duration_ms": rng.random_range(5..80), "chunks": 3 })),
        14..20 => submit("flaky", json!({ "fail": "transient", "fail_attempts": 1 })),
        _ => submit("quick", json!({ "duration_ms": rng.random_range(0..6) })),
    };
    if rng.random_bool(0.3) {
        request.labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
    }
    let millis = |n| Some(prost_types::Duration { seconds: 0, nanos: n * 1_000_000 });
    request.retry_policy = Some(RetryPolicy {
        initial_backoff: millis(10),
        max_backoff: millis(50),
        ..Default::default()
    });
    request
}

//! What the scheduler must do whatever happens, played out on virtual time: the operations
//! themselves over the database in memory, without writers and tasks, ten thousand times a promise.

mod budgets;
mod gates;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::ProptestConfig;

use super::{Claim, ClaimReport, Operation, Submit, Wanted};
use crate::domain::{
    Demand, ExecutionId, Input, Limits, OnLost, ProviderName, ProviderRecord, RetryPolicy, Spec,
    Timestamp, WorkerId,
};
use crate::store::batch::{Batch, Needs};
use crate::store::{Backend as _, Lane, MemoryBackend, NewExecution};

const HEAD_START: Duration = Duration::from_secs(10);

fn many_cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) }
}

/// One provider, three workers, and a clock that moves only when told to.
struct Stage {
    backend: MemoryBackend,
    provider: ProviderName,
    workers: [WorkerId; 3],
    now: Timestamp,
    submitted: u128,
}

impl Stage {
    fn with(limits: Limits) -> Self {
        let mut stage = Self {
            backend: MemoryBackend::default(),
            provider: "p".parse().expect("a name"),
            workers: [(); 3].map(|()| WorkerId::new()),
            now: Timestamp::from_micros(1_000_000_000_000),
            submitted: 0,
        };
        let limits = vec![(stage.provider.clone(), limits)];
        stage.run(&super::Declare { limits });
        stage
    }

    /// Runs one operation as a transaction of its own.
    fn run<O: Operation>(&mut self, operation: &O) -> O::Answer {
        let transact = async {
            let mut transaction = self.backend.begin(O::LANE).await.expect("memory");
            let mut needs = Needs::default();
            operation.needs(&mut needs);
            let batch = Batch::gather(&mut *transaction, self.now, needs).await;
            let mut batch = batch.expect("memory");
            let answer = operation.apply(&mut batch).await.expect("memory");
            batch.finish().await.expect("memory");
            transaction.commit().await.expect("memory");
            answer
        };
        transact.now_or_never().expect("nobody else holds anything")
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn submit(&mut self, priority: i32, demand: Option<Demand>) -> ExecutionId {
        self.submitted += 1;
        let id = ExecutionId::from(uuid::Uuid::from_u128(self.submitted));
        let spec = Spec {
            id,
            provider: self.provider.clone(),
            input: Input { json: "{}".to_owned(), exact: false },
            demand,
            request_id: None,
            priority,
            labels: std::collections::BTreeMap::new(),
            schedule_at: None,
            queue_timeout: None,
            run_timeout: Duration::from_secs(600),
            retry: RetryPolicy::default(),
            on_lost: OnLost::Rerun,
            retry_of: None,
            trace: None,
            created_at: self.now,
        };
        let new = NewExecution {
            spec: Arc::new(spec),
            request_hash: String::new(),
            head_start: HEAD_START,
        };
        self.run(&Submit { executions: vec![new] }).expect("nothing is bounded");
        id
    }

    /// A claim of one of the workers, which shares with the others or not.
    fn claim(&mut self, worker: usize, sharers: u32, slots: u32) -> ClaimReport {
        let provider = self.provider.clone();
        let wanted = Wanted { provider, most: u32::MAX, sharers, running_here: 0 };
        let (worker, lease) = (self.workers[worker], Duration::from_secs(3_600));
        self.run(&Claim { worker, wanted: vec![wanted], slots, kept: 0, beyond: 0, lease })
    }

    fn record(&self) -> ProviderRecord {
        let read = async {
            let mut transaction = self.backend.begin(Lane::Changes).await.expect("memory");
            let found = transaction.lock_providers(std::slice::from_ref(&self.provider)).await;
            found.expect("memory").pop().expect("it is declared")
        };
        read.now_or_never().expect("nobody else holds anything")
    }
}

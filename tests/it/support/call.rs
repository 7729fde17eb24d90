//! One call of a provider as the engine makes it, for tests that have no engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowgate::domain::{ExecutionId, Handle};
use flowgate::providers::{Call, Keeper, LeaseLost, Output, OutputChunk, Stopper, stop_pair};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

/// What the engine keeps of a call.
pub(crate) struct Reins {
    pub(crate) stopper: Stopper,
    _lease: watch::Sender<Instant>,
    pub(crate) said: mpsc::Receiver<OutputChunk>,
}

pub(crate) fn call(input: Value) -> (Call, Reins) {
    let Value::Object(input) = input else { panic!("an input is an object") };
    let (stopper, stop) = stop_pair();
    let (lease, lease_deadline) = watch::channel(Instant::now() + Duration::from_secs(600));
    let (output, said) = Output::channel(16);
    let call = Call {
        execution: ExecutionId::new(),
        attempt: 1,
        input,
        run_timeout: Duration::from_secs(300),
        stop,
        lease_deadline,
        output,
        key: Uuid::nil(),
        handle: None,
        keeper: Arc::new(NoKeeper),
        trace: None,
    };
    (call, Reins { stopper, _lease: lease, said })
}

struct NoKeeper;

#[async_trait]
impl Keeper for NoKeeper {
    async fn keep(&self, handle: &Handle) -> Result<(), LeaseLost> {
        panic!("nothing here goes on at its provider, but this was to be kept: {handle:?}")
    }
}

//! Providers through their public door: what they tell the engine and no client sees.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowgate::domain::{ExecutionId, Handle};
use flowgate::providers::{
    AttemptFailure, Call, Credential, Keeper, LeaseLost, Output, OutputChunk, Provider,
    RemoteConfig, Stopper, Success, stop_pair,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

/// What the engine keeps of a call.
pub(super) struct Reins {
    _stopper: Stopper,
    _lease: watch::Sender<Instant>,
    pub(super) said: mpsc::Receiver<OutputChunk>,
}

pub(super) fn call(input: Value) -> (Call, Reins) {
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
        traceparent: None,
    };
    (call, Reins { _stopper: stopper, _lease: lease, said })
}

/// Makes one attempt; what it says meanwhile is lost.
pub(super) async fn attempt(
    provider: &dyn Provider,
    input: Value,
) -> Result<Success, AttemptFailure> {
    let (call, reins) = call(input);
    let Reins { _stopper, _lease, said } = reins;
    drop(said);
    provider.execute(call).await
}

/// One server, without a key.
pub(super) fn at(url: &str) -> RemoteConfig {
    RemoteConfig {
        endpoints: vec![url.parse().unwrap()],
        key: Credential::None,
        headers: Vec::new(),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    }
}

struct NoKeeper;

#[async_trait]
impl Keeper for NoKeeper {
    async fn keep(&self, handle: &Handle) -> Result<(), LeaseLost> {
        panic!("nothing here goes on at its provider, but this was to be kept: {handle:?}")
    }
}

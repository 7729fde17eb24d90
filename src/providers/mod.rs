//! What does the work: one file per kind, all behind [`Provider`].
//!
//! A provider runs one attempt at a time per call and tells in types how it ended. It knows
//! nothing of leases, limits or the store: the engine stops it through [`Call::stop`] when the
//! attempt is cancelled, times out, or loses its lease, and by dropping its future when the grace
//! it asked for is over.

mod claude;
mod demand;
#[cfg(test)]
mod docs;
mod http;
mod langflow;
mod langgraph;
mod model_call;
mod n8n;
mod ollama;
mod openai;
mod output;
pub mod process;
mod remote;
mod simulated;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::{
    Demand, ErrorCode, ExecutionId, Failure, FailureKind, Handle, Lack, Quota, ResourceGate,
    TraceContext, Usage,
};

pub use claude::Claude;
pub use http::Http;
pub use langflow::Langflow;
pub use langgraph::LangGraph;
pub use model_call::{ModelAnswer, ModelCall};
pub use n8n::N8n;
pub use ollama::Ollama;
pub use openai::OpenAi;
pub use output::{Output, OutputChunk};
pub use process::{Process, ProcessConfig};
pub use remote::{Credential, RemoteConfig, Secret};
pub use simulated::Simulated;
pub use stop::{Stop, StopReason, Stopper, stop_pair};

/// A kind of work, configured.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Checks an input at submission, so that a bad request does not wait an hour to fail.
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>>;

    /// Runs one attempt.
    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure>;

    /// How long `execute` may go on after it was asked to stop, to clean up after itself. When
    /// that is over its future is dropped, which must end the work too.
    fn stop_grace(&self) -> Duration {
        Duration::ZERO
    }

    /// Which model an input names and how many tokens it may take, as far as that can be told;
    /// `bytes` is the size of the input as text.
    fn demand(&self, _input: &Map<String, Value>, _bytes: usize) -> Option<Demand> {
        None
    }

    /// Which model an input calls, and for what, as traces tell it; asked only where one is recorded.
    fn model_call(&self, _input: &Map<String, Value>) -> Option<ModelCall> {
        None
    }

    /// Whether another server does the work.
    fn is_remote(&self) -> bool {
        true
    }

    /// What the machine must have left for an attempt to begin.
    fn gate(&self) -> Option<ResourceGate> {
        None
    }

    /// How an attempt ends that is not begun, because the machine lacks something and the gate says
    /// that it is to fail then.
    fn refuse(&self, _input: Map<String, Value>, lack: Lack) -> AttemptFailure {
        let failure = Failure::new(ErrorCode::Resource, false, lack.refusal());
        AttemptFailure::new(FailureKind::Permanent, failure)
    }

    /// Codes of failures that it calls transient, always or at times: what is tried again unless
    /// the operator says otherwise. Those with a rule of their own are left out.
    fn transient_codes(&self) -> &'static [ErrorCode] {
        &[ErrorCode::Transient, ErrorCode::Timeout]
    }

    /// Why submissions are refused at present, if they are.
    fn unavailable(&self) -> Option<String> {
        None
    }
}

/// One attempt to be made.
pub struct Call {
    /// Which execution.
    pub execution: ExecutionId,
    /// Which attempt at it, from 1.
    pub attempt: u32,
    /// The provider's own request body.
    pub input: Map<String, Value>,
    /// The longest the attempt may take; the engine asks it to stop then.
    pub run_timeout: Duration,
    /// Says when and why to stop.
    pub stop: Stop,
    /// By when the work must be over unless the lease is renewed; moves forward with each renewal.
    pub lease_deadline: watch::Receiver<Instant>,
    /// Takes output while it is produced.
    pub output: Output,
    /// Equal for this attempt and one that takes its place after a crash: what to give a provider
    /// that does the same request only once.
    pub key: Uuid,
    /// How the provider knows work that an earlier attempt began and did not see the end of. Go on
    /// with that instead of beginning anew. Where a stop is asked for already, stop it there.
    pub handle: Option<Handle>,
    /// Keeps a handle as soon as it is known.
    pub keeper: Arc<dyn Keeper>,
    /// The trace context to hand on, where there is one.
    pub trace: Option<TraceContext>,
}

/// Keeps what another attempt needs to go on with the work of this one.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Stores the handle; when this returns, an attempt after a crash gets it.
    async fn keep(&self, handle: &Handle) -> Result<(), LeaseLost>;
}

/// The attempt has no right to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

/// An attempt that did what it should.
#[derive(Debug, Clone, PartialEq)]
pub struct Success {
    /// The result.
    pub output: Value,
    /// What it consumed.
    pub usage: Option<Usage>,
    /// How many more requests the provider takes for now, where it says.
    pub quota: Option<Quota>,
}

impl Success {
    /// A success of a provider that says nothing of how much more it takes.
    pub fn new(output: Value, usage: Option<Usage>) -> Self {
        Self { output, usage, quota: None }
    }
}

/// An attempt that did not.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptFailure {
    /// What it means for the next attempt.
    pub kind: FailureKind,
    /// What went wrong.
    pub failure: Failure,
    /// What there is of a result.
    pub output: Option<Value>,
    /// What it consumed.
    pub usage: Option<Usage>,
    /// The wait before another attempt that the provider asked for, where it said.
    pub retry_after: Option<Duration>,
    /// How many more requests the provider takes for now, where it says.
    pub quota: Option<Quota>,
}

impl AttemptFailure {
    /// A failure that left nothing behind.
    pub fn new(kind: FailureKind, failure: Failure) -> Self {
        Self { kind, failure, output: None, usage: None, retry_after: None, quota: None }
    }
}

/// One thing wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path below the input, such as `args[2]`; empty for the input as a whole.
    pub field: String,
    /// What is wrong, for people.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

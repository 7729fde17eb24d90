//! `langgraph`: runs of graphs on a LangGraph server, as LangSmith Deployment has it.
//!
//! What must stay true: each execution has a thread of its own, named by [`Call::key`], and of the
//! runs on it the first is the work. So whoever looks at the thread before it begins a run, begins
//! none twice.

mod messages;
mod run;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::remote::{
    Check, Class, Remote, RemoteConfig, Rule, STOP_GRACE, Scheme, fields, is_text, run_job,
};
use super::{AttemptFailure, Call, Provider, Success, Violation};
use run::Run;

/// What its errors mean: names of exceptions that a graph raises for what passes. Any other is the
/// graph's own fault.
const RULES: &[Rule] = &[
    // The services that a graph calls were busy or out of reach.
    Rule::named("RateLimitError", Class::Transient),
    Rule::named("OverloadedError", Class::Transient),
    Rule::named("InternalServerError", Class::Transient),
    Rule::named("ServiceUnavailableError", Class::Transient),
    Rule::named("APIConnectionError", Class::Transient),
    Rule::named("APITimeoutError", Class::Transient),
    Rule::named("TimeoutError", Class::Transient),
    Rule::named("ConnectError", Class::Transient),
    Rule::named("ConnectTimeout", Class::Transient),
    Rule::named("ReadError", Class::Transient),
    Rule::named("ReadTimeout", Class::Transient),
    Rule::named("RemoteProtocolError", Class::Transient),
];

/// The provider.
#[derive(Debug)]
pub struct LangGraph {
    remote: Remote,
}

impl LangGraph {
    /// A provider at these base URLs.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Header("x-api-key")) }
    }
}

#[async_trait]
impl Provider for LangGraph {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        const KNOWN: &[(&str, Check, &str)] = &[
            ("assistant_id", is_text, "a text that is not empty: an assistant's id or a graph"),
            ("input", |_| true, "anything"),
            ("config", Value::is_object, "an object"),
            ("context", Value::is_object, "an object"),
            ("metadata", Value::is_object, "an object"),
        ];
        let violations = fields(input, KNOWN, &["assistant_id"]);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        run_job(&Run::new(&self.remote, &call.input), call).await
    }

    fn stop_grace(&self) -> std::time::Duration {
        STOP_GRACE
    }
}

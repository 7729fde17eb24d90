//! `langflow`: flows of a Langflow server, as background jobs.
//!
//! What must stay true: a job is started under [`Call::key`], for which Langflow starts one only;
//! and the job's status decides how it ended, not the status of an answer: a job that failed is
//! told of by a 500, or by a 200 that says so.

mod job;
mod messages;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::remote::{
    Check, Class, Remote, RemoteConfig, Rule, STOP_GRACE, Scheme, fields, is_text, run_job,
};
use super::{AttemptFailure, Call, Provider, Success, Violation};
use job::Flow;

/// What its errors mean.
const RULES: &[Rule] = &[
    // A component of the flow failed.
    Rule::named("JOB_FAILED", Class::Permanent),
    Rule::named("EXECUTION_ERROR", Class::Permanent),
    // The worker that ran the job is gone.
    Rule::named("worker_lost", Class::Transient),
    // The flow took longer than Langflow lets it.
    Rule::named("EXECUTION_TIMEOUT", Class::Transient),
];

/// The provider.
#[derive(Debug)]
pub struct Langflow {
    remote: Remote,
}

impl Langflow {
    /// A provider at these base URLs.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Header("x-api-key")) }
    }
}

#[async_trait]
impl Provider for Langflow {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        const KNOWN: &[(&str, Check, &str)] = &[
            ("flow_id", is_uuid, "the UUID of a flow; names are not taken"),
            ("input_value", Value::is_string, "a text"),
            ("session_id", is_text, "a text that is not empty"),
            ("tweaks", Value::is_object, "an object"),
            ("globals", is_texts, "an object of texts"),
        ];
        let violations = fields(input, KNOWN, &["flow_id"]);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        run_job(&Flow::new(&self.remote), call).await
    }

    fn stop_grace(&self) -> std::time::Duration {
        STOP_GRACE
    }
}

fn is_uuid(value: &Value) -> bool {
    value.as_str().is_some_and(|text| Uuid::try_parse(text).is_ok())
}

fn is_texts(value: &Value) -> bool {
    value.as_object().is_some_and(|texts| texts.values().all(Value::is_string))
}

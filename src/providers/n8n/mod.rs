//! `n8n`: workflows that begin with a webhook. One that answers with its execution's id is followed
//! through n8n's public API; the answer of any other is the result.
//!
//! What must stay true: one attempt calls the webhook once, whatever becomes of the answer, since
//! n8n begins another execution with each call; and the API's key is not shown to webhooks.

mod execution;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::remote::{
    Check, Class, METHODS, Remote, RemoteConfig, Rule, STOP_GRACE, Scheme, connection_headers,
    fields, is_headers, is_method, is_path, run_job,
};
use super::{AttemptFailure, Call, Provider, Success, Violation};
use execution::Execution;

/// What the errors of webhooks mean.
const WEBHOOK_RULES: &[Rule] = &[
    // The workflow failed, or was stopped while its webhook waited; what else goes wrong in n8n is
    // told in the same way.
    Rule::status(500, Class::Permanent),
];

/// What the errors of the public API mean: nothing of its own.
const API_RULES: &[Rule] = &[];

/// The provider.
#[derive(Debug)]
pub struct N8n {
    remote: Remote,
}

impl N8n {
    /// A provider at these base URLs, with webhooks below `/webhook` and the API below `/api/v1`.
    pub fn new(config: RemoteConfig) -> Self {
        Self { remote: Remote::new(config, Scheme::Header("x-n8n-api-key")) }
    }
}

#[async_trait]
impl Provider for N8n {
    fn check(&self, input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        const KNOWN: &[(&str, Check, &str)] = &[
            ("webhook", is_webhook, "the path of a webhook below /webhook, without .., \\ or #"),
            ("method", is_method, METHODS),
            ("headers", is_headers, "an object of texts that are valid headers"),
            ("body", |_| true, "anything"),
        ];
        let mut violations = fields(input, KNOWN, &["webhook"]);
        violations.extend(connection_headers(input));
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    async fn execute(&self, call: Call) -> Result<Success, AttemptFailure> {
        run_job(&Execution::new(&self.remote), call).await
    }

    fn stop_grace(&self) -> std::time::Duration {
        STOP_GRACE
    }
}

fn is_webhook(value: &Value) -> bool {
    is_path(value) && value.as_str().is_some_and(|path| !path.trim_matches('/').is_empty())
}

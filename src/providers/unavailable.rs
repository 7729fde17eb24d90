//! A provider that exists by name but cannot run anything: submissions are refused with the
//! reason.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{AttemptFailure, Call, Provider, Success, Violation};
use crate::domain::{ErrorCode, Failure, FailureKind};

/// The provider.
#[derive(Debug, Clone)]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    /// A provider that refuses work because of `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

#[async_trait]
impl Provider for Unavailable {
    /// Lets everything pass: the submission is refused for another reason than its input.
    fn check(&self, _input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        Ok(())
    }

    /// Only work that an earlier configuration took gets here.
    async fn execute(&self, _call: Call) -> Result<Success, AttemptFailure> {
        let failure = Failure::new(ErrorCode::Permanent, false, self.reason.clone());
        Err(AttemptFailure::new(FailureKind::Permanent, failure))
    }

    fn unavailable(&self) -> Option<String> {
        Some(self.reason.clone())
    }
}

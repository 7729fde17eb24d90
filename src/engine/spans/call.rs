//! `provider call`: what a provider does in an attempt.

use opentelemetry::{Array, StringValue, Value};
use serde_json::Map;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::domain::{ErrorCode, FailureKind, Usage};
use crate::engine::ConfiguredProvider;
use crate::engine::ending::Outcome;
use crate::providers::{ModelAnswer, ModelCall, StopReason};
use crate::telemetry::{self, SPAN_TARGET};

/// The span of what a provider does in an attempt.
pub(in crate::engine) struct CallSpan {
    pub(in crate::engine) span: Span,
    told: Told,
}

/// What of a result may be told.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    /// Of a module: how it exited.
    Exit,
    /// Of a model: which answered, and why it stopped.
    Model,
}

impl CallSpan {
    pub(in crate::engine) fn new(
        configured: &ConfiguredProvider,
        input: &Map<String, serde_json::Value>,
    ) -> Self {
        let provider = &configured.provider;
        let span = tracing::debug_span!(
            target: SPAN_TARGET,
            "provider call",
            otel.kind = if provider.is_remote() { "client" } else { "internal" },
            otel.status_code = Empty,
            error.r#type = Empty,
        );
        if telemetry::recorded(&span).is_none() {
            return Self { span, told: Told::Nothing };
        }
        span.set_attribute("provider", configured.name.as_str().to_owned());
        span.set_attribute("provider.kind", configured.kind.clone());
        let Some(ModelCall { operation, system, model }) = provider.model_call(input) else {
            telemetry::rename(&span, format!("call {}", configured.kind));
            let told = if configured.kind == "process" { Told::Exit } else { Told::Nothing };
            return Self { span, told };
        };
        span.set_attribute("gen_ai.operation.name", operation);
        span.set_attribute("gen_ai.provider.name", system);
        match model {
            Some(model) => {
                telemetry::rename(&span, format!("{operation} {model}"));
                span.set_attribute("gen_ai.request.model", model);
            }
            None => telemetry::rename(&span, operation),
        }
        Self { span, told: Told::Model }
    }

    /// Notes what came of the call, and why it was stopped if it was.
    pub(in crate::engine) fn ended(&self, outcome: &Outcome, reason: Option<StopReason>) {
        let span = &self.span;
        if telemetry::recorded(span).is_none() {
            return;
        }
        let (output, usage) = match outcome {
            Outcome::Returned(Ok(success)) => (Some(&success.output), success.usage),
            Outcome::Returned(Err(failed)) => (failed.output.as_ref(), failed.usage),
            Outcome::Panicked | Outcome::Dropped { .. } | Outcome::NotBegun => (None, None),
        };
        if let Some(Usage { input_tokens, output_tokens }) = usage.map(Usage::believed) {
            span.set_attribute("gen_ai.usage.input_tokens", input_tokens);
            span.set_attribute("gen_ai.usage.output_tokens", output_tokens);
        }
        if let Some((error, is_fault)) = error_of(outcome, reason) {
            span.record("error.type", error);
            if is_fault {
                span.record("otel.status_code", "ERROR");
            }
        }
        if let Some(output) = output {
            self.tell(output);
        }
    }

    /// Of a result only how it came about: never what it says.
    fn tell(&self, output: &serde_json::Value) {
        let span = &self.span;
        match self.told {
            Told::Nothing => {}
            Told::Exit => {
                if let Some(code) = output.get("exit_code").and_then(serde_json::Value::as_i64) {
                    span.set_attribute("process.exit.code", code);
                }
            }
            Told::Model => {
                let ModelAnswer { model, id, finish_reasons } = ModelCall::answer(output);
                if let Some(model) = model {
                    span.set_attribute("gen_ai.response.model", model);
                }
                if let Some(id) = id {
                    span.set_attribute("gen_ai.response.id", id);
                }
                if !finish_reasons.is_empty() {
                    let reasons = finish_reasons.into_iter().map(StringValue::from).collect();
                    let reasons = Value::Array(Array::String(reasons));
                    span.set_attribute("gen_ai.response.finish_reasons", reasons);
                }
            }
        }
    }
}

/// What went wrong, and whether that is a fault: to be stopped on request is none.
fn error_of(outcome: &Outcome, reason: Option<StopReason>) -> Option<(&'static str, bool)> {
    let asked = matches!(reason, Some(StopReason::Cancelled | StopReason::ShuttingDown));
    let (code, is_fault) = match outcome {
        Outcome::Returned(Ok(_)) | Outcome::NotBegun => return None,
        Outcome::Returned(Err(failed)) => {
            (failed.failure.code, failed.kind != FailureKind::Cancelled && !asked)
        }
        Outcome::Panicked => (ErrorCode::Crashed, true),
        Outcome::Dropped { .. } => match reason {
            Some(StopReason::Cancelled) => (ErrorCode::Cancelled, false),
            Some(StopReason::ShuttingDown) => (ErrorCode::Released, false),
            Some(StopReason::LeaseLost) => (ErrorCode::Lost, true),
            Some(StopReason::TimedOut) | None => (ErrorCode::Timeout, true),
        },
    };
    Some((code.name(), is_fault))
}

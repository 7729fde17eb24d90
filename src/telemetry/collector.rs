//! What the standard variables of OpenTelemetry say of the collector and of this process.

use opentelemetry_sdk::Resource;

/// What can be sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
}

impl Signal {
    const fn endpoint(self) -> &'static str {
        match self {
            Self::Traces => "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        }
    }

    const fn exporter(self) -> &'static str {
        match self {
            Self::Traces => "OTEL_TRACES_EXPORTER",
        }
    }
}

/// Whether a collector is to have this signal.
pub(super) fn is_named(signal: Signal) -> bool {
    let named = set(signal.endpoint()).or(set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set(signal.exporter()).is_some_and(|value| value == "none");
    named.is_some() && !disabled
}

/// Who this process is; the standard variables come first.
pub(super) fn resource() -> Resource {
    let nameless = set("OTEL_SERVICE_NAME").is_none()
        && !set("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
    let resource = Resource::builder();
    if nameless { resource.with_service_name("flowgate") } else { resource }.build()
}

/// An empty variable is as good as none.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

//! What the standard variables of OpenTelemetry say of the collector and of this process.

use std::io;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_sdk::Resource;

/// What can be sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
}

impl Signal {
    /// Its part of the names of variables.
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
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
    let named = of(signal, "ENDPOINT");
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set(signal.exporter()).is_some_and(|value| value == "none");
    named.is_some() && !disabled
}

/// The protocol that is asked for, if it is not the one that is spoken.
pub(super) fn other_protocol(signal: Signal) -> Option<String> {
    let protocol = of(signal, "PROTOCOL").filter(|_| is_named(signal))?;
    (protocol != "grpc").then_some(protocol)
}

/// Whom to trust, and who to be, where the collector is reached by https: public authorities, or
/// the one that a file holds.
pub(super) fn tls(signal: Signal) -> io::Result<ClientTlsConfig> {
    let read = |what: &str| of(signal, what).map(|path| read_file(&path)).transpose();
    let tls = match read("CERTIFICATE")? {
        Some(authority) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    Ok(match read("CLIENT_CERTIFICATE")?.zip(read("CLIENT_KEY")?) {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    })
}

fn read_file(path: &str) -> io::Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {path}: {error}")))
}

/// What is said of a signal, or else of all of them.
fn of(signal: Signal, what: &str) -> Option<String> {
    let prefix = "OTEL_EXPORTER_OTLP";
    set(&format!("{prefix}_{}_{what}", signal.name())).or(set(&format!("{prefix}_{what}")))
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

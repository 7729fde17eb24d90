//! What the standard variables of OpenTelemetry say of the collector and of this process.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_sdk::Resource;
use tonic::metadata::AsciiMetadataKey;
use uuid::Uuid;

/// What can be sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// Its part of the names of variables.
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn exporter(self) -> &'static str {
        match self {
            Self::Traces => "OTEL_TRACES_EXPORTER",
            Self::Metrics => "OTEL_METRICS_EXPORTER",
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

/// Where the collector is that is to have this signal, if one is named: a URL with its scheme.
pub(super) fn endpoint(signal: Signal) -> Option<String> {
    let named = of(signal, "ENDPOINT").filter(|_| is_named(signal))?;
    if named.contains("://") {
        return Some(named);
    }
    let insecure = of(signal, "INSECURE").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    Some(format!("{}://{named}", if insecure { "http" } else { "https" }))
}

/// How long it may take to answer: 10 s where nothing else is said.
pub(super) fn timeout(signal: Signal) -> Duration {
    millis(of(signal, "TIMEOUT")).unwrap_or(Duration::from_secs(10))
}

/// How often metrics are sent: every minute where nothing else is said.
pub(super) fn export_interval() -> Duration {
    millis(set("OTEL_METRIC_EXPORT_INTERVAL")).unwrap_or(Duration::from_secs(60))
}

fn millis(text: Option<String>) -> Option<Duration> {
    let millis = text?.trim().parse().ok().filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis))
}

/// Whether what is sent is compressed.
pub(super) fn is_compressed(signal: Signal) -> bool {
    of(signal, "COMPRESSION").is_some_and(|it| it.eq_ignore_ascii_case("gzip"))
}

/// What is sent along: `name=value` pairs, separated by commas, values percent-encoded. Malformed ones are left
/// out, unseen: they may be secrets.
pub(super) fn headers(signal: Signal) -> MetadataMap {
    // Those of the signal alone are sent beside those of all.
    let sets = [set("OTEL_EXPORTER_OTLP_HEADERS"), of(signal, "HEADERS")];
    let mut headers = MetadataMap::new();
    for pair in sets.iter().flatten().flat_map(|set| set.split(',')) {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let name = AsciiMetadataKey::from_bytes(name.trim().to_ascii_lowercase().as_bytes());
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        if let (Ok(name), Ok(value)) = (name, value.parse()) {
            headers.insert(name, value);
        }
    }
    headers
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
    static INSTANCE: OnceLock<String> = OnceLock::new();
    let instance = INSTANCE.get_or_init(|| Uuid::new_v4().to_string());
    let named = set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_named = |key: &str| named.split(',').any(|it| it.trim().starts_with(&format!("{key}=")));
    let is_called = set("OTEL_SERVICE_NAME").is_some();
    let known = [
        ("service.name", "flowgate".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        // What replicas count is told apart by this.
        ("service.instance.id", instance.clone()),
        ("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
    ];
    let own = known
        .into_iter()
        .filter(|(key, _)| !(is_named(key) || is_called && *key == "service.name"));
    Resource::builder().with_attributes(own.map(|(key, value)| KeyValue::new(key, value))).build()
}

/// What `OTEL_TRACES_SAMPLER` says, if it is none of the samplers there are.
pub(super) fn unknown_sampler() -> Option<String> {
    const KNOWN: [&str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];
    let sampler = set("OTEL_TRACES_SAMPLER").filter(|_| is_named(Signal::Traces))?;
    (!KNOWN.contains(&sampler.as_str())).then_some(sampler)
}

/// An empty variable is as good as none.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

//! Lays file, variables and flags over each other, each value with the name of where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::reader::Reader;
use super::{ConfigError, ServeFlags, file, keys, providers};
use crate::domain::ProviderName;

/// Variables and the keys they set.
const VARIABLES: &[(&str, &str)] = &[
    ("FLOWGATE_STORE", "store"),
    ("FLOWGATE_LISTEN_URL", "listen_url"),
    ("FLOWGATE_GRPC_ADDR", "grpc_addr"),
    ("FLOWGATE_HTTP_ADDR", "http_addr"),
    ("FLOWGATE_LEASE", "lease"),
    ("FLOWGATE_POLL_INTERVAL", "poll_interval"),
    ("FLOWGATE_DRAIN_TIMEOUT", "drain_timeout"),
    ("FLOWGATE_SLOTS", "slots"),
    ("FLOWGATE_PRIORITY_HEAD_START", "priority_head_start"),
    ("FLOWGATE_POOL_MIN", POOL_MIN),
    ("FLOWGATE_POOL_MAX", POOL_MAX),
    ("FLOWGATE_LOG_FORMAT", "log_format"),
    ("FLOWGATE_LOG_LEVEL", "log_level"),
    ("FLOWGATE_TRACE_LEVEL", "trace_level"),
    ("FLOWGATE_METRICS", "metrics"),
    ("FLOWGATE_MODULES_DIR", MODULES_DIR),
];

/// What starts the variables that set a provider's keys.
const PROVIDERS: &str = "FLOWGATE_PROVIDERS__";

const POOL_MIN: &str = "pool.min";
const POOL_MAX: &str = "pool.max";

/// What the shorthand for it sets.
const MODULES_DIR: &str = "providers.process.modules_dir";

/// The sources, laid over each other.
pub(super) struct Layers {
    pub(super) reader: Reader,
    pub(super) ignored_variables: Vec<String>,
    pub(super) rust_log: Option<String>,
}

/// Lays everything over each other, the weakest first.
pub(super) fn gather(
    flags: &ServeFlags,
    mut variables: BTreeMap<String, String>,
    directory: &Path,
) -> Result<Layers, ConfigError> {
    // Compose files and charts set what they leave open to nothing.
    variables.retain(|_, value| !value.is_empty());
    let mut figment = Figment::new();
    let mut names: BTreeSet<_> = providers::built_in().collect();

    let named = flags.config.clone().or_else(|| variables.get("FLOWGATE_CONFIG").map(Into::into));
    let required = named.is_some();
    let path = directory.join(named.unwrap_or_else(|| PathBuf::from("flowgate.toml")));
    if let Some(data) = file::read(&path, required)? {
        let tables = data.get("providers").and_then(Value::as_dict).into_iter().flatten();
        names.extend(tables.filter_map(|(name, _)| name.parse().ok()));
        figment = figment.merge(Layer { origin: format!("in {}", path.display()), data });
    }
    for (variable, key) in VARIABLES {
        if let Some(text) = variables.get(*variable) {
            figment = figment.merge(Layer::one(variable, key, value(key, text)));
        }
    }
    let mut ignored_variables = Vec::new();
    for (variable, text) in &variables {
        let Some(rest) = variable.strip_prefix(PROVIDERS) else { continue };
        match provider_key(rest, &names) {
            Some((name, key)) => {
                let path = format!("providers.{name}.{key}");
                figment = figment.merge(Layer::one(variable, &path, value(&key, text)));
            }
            None => ignored_variables.push(variable.clone()),
        }
    }
    let flags = Value::serialize(flags).expect("a struct of text serialises");
    for (key, value) in flags.into_dict().into_iter().flatten() {
        let origin = format!("--{}", key.replace('_', "-"));
        let key = match key.as_str() {
            "modules_dir" => MODULES_DIR,
            "pool_min" => POOL_MIN,
            "pool_max" => POOL_MAX,
            key => key,
        };
        let text = value.as_str().expect("every flag is text");
        figment = figment.merge(Layer::one(&origin, key, self::value(key, text)));
    }
    let rust_log = variables.remove("RUST_LOG");
    Ok(Layers { reader: Reader::new(figment, variables), ignored_variables, rust_log })
}

/// Splits `NAME__KEY`, `NAME__RETRY__KEY` or `NAME__ADAPTIVE__KEY`. The name is a known one whatever its case and dashes,
/// else taken as it is.
fn provider_key(rest: &str, names: &BTreeSet<ProviderName>) -> Option<(ProviderName, String)> {
    // From the right: no key holds two underscores in a row, but a name may.
    let rest = rest.to_lowercase();
    let (name, key) = rest.rsplit_once("__")?;
    let (name, key) = match name.rsplit_once("__") {
        Some((name, keys::RETRY)) if keys::IN_RETRY.contains(&key) => {
            (name, format!("{}.{key}", keys::RETRY))
        }
        Some((name, keys::ADAPTIVE)) if keys::IN_ADAPTIVE.contains(&key) => {
            (name, format!("{}.{key}", keys::ADAPTIVE))
        }
        _ if keys::provider().contains(&key) => (name, key.to_owned()),
        _ => return None,
    };
    let name = name.to_owned();
    let exact = name.parse::<ProviderName>().ok();
    if let Some(exact) = exact.as_ref().filter(|exact| names.contains(exact)) {
        return Some((exact.clone(), key));
    }
    let alike = |known: &&ProviderName| known.as_str().replace('-', "_") == name.replace('-', "_");
    names.iter().find(alike).cloned().or(exact).map(|name| (name, key))
}

/// The text of a variable or flag as the type that its key has in the file.
fn value(key: &str, text: &str) -> Value {
    match key {
        "env_allow" | "endpoints" | "retry.retry_on" | "retry.no_retry_on" => {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.map(Value::from).collect::<Vec<_>>().into()
        }
        "gate_failures"
        | "max_concurrent"
        | "max_output_bytes"
        | "slots"
        | "cpu_max_percent"
        | "memory_min_bytes"
        | "requests_per_minute"
        | "input_tokens_per_minute"
        | "output_tokens_per_minute"
        | "max_pending"
        | "adaptive.min"
        | "adaptive.max"
        | POOL_MIN
        | POOL_MAX
        | "retry.max_attempts"
        | "retry.budget_min" => match text.trim().parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        "retry.backoff_multiplier" | "retry.budget" => match text.trim().parse::<f64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        "resource_gate" => match text.trim().parse::<bool>() {
            Ok(truth) => truth.into(),
            Err(_) => text.into(),
        },
        _ => text.into(),
    }
}

/// Values from one source.
struct Layer {
    origin: String,
    data: Dict,
}

impl Layer {
    fn one(source: &str, key: &str, value: Value) -> Self {
        let data = nest(key, value).into_dict().expect("a key nests into a table");
        Self { origin: format!("by {source}"), data }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

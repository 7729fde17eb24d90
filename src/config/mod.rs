//! Settings: flags over `FLOWGATE_*` variables over `flowgate.toml` over defaults.
//!
//! What must stay true: a setting that cannot be honoured stops the start, and the error says in
//! one line which key it is, where it was set and what it may be; nothing is read of the process
//! but what [`load`] is given; no error repeats a value that may hold a secret.

mod file;
mod flags;
mod keys;
mod layers;
mod limits;
mod providers;
mod reader;
mod remote;
mod retry;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{ConfiguredProvider, Machine, PoolSettings, ThisMachine};
use crate::store::{Listen, StoreUrl};
use crate::telemetry::{LogSettings, TraceLevel};

pub use flags::ServeFlags;

use layers::Layers;
use reader::Reader;

/// What a point of priority is worth: within a minute of each other, the higher priority goes first.
const DEFAULT_HEAD_START: Duration = Duration::from_secs(60);

/// Everything a server is told at its start.
#[derive(Clone)]
pub struct Settings {
    /// Where executions are kept.
    pub store: StoreUrl,
    /// Where to hear of other replicas; for PostgreSQL only.
    pub listen: Listen,
    /// Where gRPC is served, `HOST:PORT`; port 0 takes a free one.
    pub grpc_addr: String,
    /// Where the page, metrics and probes are served over HTTP, `HOST:PORT`; port 0 takes a free one.
    pub http_addr: String,
    /// How long a claim holds unless it is renewed; at least 1 s.
    pub lease: Duration,
    /// How often work is looked for when nothing wakes the dispatcher; at least 10 ms.
    pub poll_interval: Duration,
    /// How long a shutdown takes at most, from the signal to the end of the process.
    pub drain_timeout: Duration,
    /// How far ahead in the queue one point of priority puts an execution; at most 1 day.
    pub priority_head_start: Duration,
    /// How many attempts this server runs at the same time, over all providers; 1 to 100,000 each.
    pub pool: PoolSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// What is traced, where the environment names a collector.
    pub trace_level: TraceLevel,
    /// Whether metrics are kept, and shown at `/metrics`.
    pub metrics: bool,
    /// Every provider, by name.
    pub providers: Vec<ConfiguredProvider>,
    /// Tells how busy the machine is: the one that this process runs on.
    pub machine: Arc<dyn Machine>,
    /// Variables that look like a provider's setting but are none; worth a warning.
    pub ignored_variables: Vec<String>,
}

/// A setting that cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there, or was asked for, but cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML at line {line}: {problem}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// The file sets something that does not exist.
    #[error("{path} has the unknown key {key}; {hint}")]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key, dotted.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// The setting exists, but not with this value.
    #[error("{key}, set {origin}, {problem}")]
    Invalid {
        /// The key, dotted.
        key: String,
        /// Where it was set: `by FLOWGATE_LEASE`, `in flowgate.toml`.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Settles every setting from the flags, the environment's variables and the file. The file is
/// the one they name, or `flowgate.toml` in `directory` if it exists.
pub fn load(
    flags: &ServeFlags,
    variables: impl IntoIterator<Item = (String, String)>,
    directory: &Path,
) -> Result<Settings, ConfigError> {
    let Layers { reader, ignored_variables, rust_log } =
        layers::gather(flags, variables.into_iter().collect(), directory)?;
    let filter = match reader.get("log_level", values::log_filter)? {
        Some(filter) => filter,
        // Set for other programs as well, so one that makes no sense is no reason to stop.
        None => rust_log.and_then(|text| values::log_filter(text).ok()).unwrap_or_default(),
    };
    let address = |key, default: &str| {
        let address = reader.get(key, values::address)?;
        Ok(address.unwrap_or_else(|| default.to_owned()))
    };
    let duration = |key, least, default| {
        let duration = reader.get(key, |text| values::duration(text, least))?;
        Ok(duration.unwrap_or(default))
    };
    Ok(Settings {
        store: reader.get("store", values::store)?.unwrap_or_default(),
        listen: reader.get("listen_url", values::listen)?.unwrap_or(Listen::Direct),
        grpc_addr: address("grpc_addr", "127.0.0.1:50051")?,
        http_addr: address("http_addr", "127.0.0.1:8080")?,
        lease: duration("lease", Duration::from_secs(1), Duration::from_secs(30))?,
        poll_interval: duration(
            "poll_interval",
            Duration::from_millis(10),
            Duration::from_secs(2),
        )?,
        drain_timeout: duration(
            "drain_timeout",
            Duration::from_millis(100),
            Duration::from_secs(30),
        )?,
        priority_head_start: reader
            .get("priority_head_start", values::head_start)?
            .unwrap_or(DEFAULT_HEAD_START),
        pool: pool(&reader)?,
        log: LogSettings { format: reader.get("log_format", values::log_format)?, filter },
        trace_level: reader.get("trace_level", values::trace_level)?.unwrap_or_default(),
        metrics: reader.get("metrics", values::switch)?.unwrap_or(true),
        providers: providers::configured(&reader)?,
        machine: Arc::new(ThisMachine::default()),
        ignored_variables,
    })
}

/// The bounds of the pool, or the shorthand for both of them.
fn pool(reader: &Reader) -> Result<PoolSettings, ConfigError> {
    let slots = reader.get("slots", values::count)?;
    let (min, max) =
        (reader.get("pool.min", values::count)?, reader.get("pool.max", values::count)?);
    if let Some(slots) = slots {
        return match ["pool.min", "pool.max"].into_iter().find(|key| reader.has(key)) {
            None => Ok(PoolSettings::fixed(slots)),
            Some(key) => {
                let problem =
                    format!("sets both bounds of the pool, and so does not go with {key}");
                Err(reader.refuse("slots", problem))
            }
        };
    }
    let default = PoolSettings::default();
    let pool = PoolSettings { min: min.unwrap_or(default.min), max: max.unwrap_or(default.max) };
    let by_default = |set: Option<u32>| if set.is_none() { " by default" } else { "" };
    if pool.min <= pool.max {
        return Ok(pool);
    }
    let PoolSettings { min: least, max: most } = pool;
    Err(match min {
        Some(_) => {
            let problem =
                format!("must be at most pool.max, {most}{}, not {least}", by_default(max));
            reader.refuse("pool.min", problem)
        }
        None => {
            let problem = format!("must be at least pool.min, {least} by default, not {most}");
            reader.refuse("pool.max", problem)
        }
    })
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod tests;

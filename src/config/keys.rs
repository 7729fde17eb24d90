//! The names of all settings, and the guess at what a misspelt one was meant to be.

/// Keys at the top of the file, the tables included.
pub(super) const TOP: &[&str] = &[
    "store",
    "listen_url",
    "grpc_addr",
    "http_addr",
    "lease",
    "poll_interval",
    "drain_timeout",
    "slots",
    "priority_head_start",
    "pool",
    "log_format",
    "log_level",
    "trace_level",
    "metrics",
    "providers",
];

/// Keys of the table `pool`.
pub(super) const POOL: &[&str] = &["min", "max"];

/// Keys of a provider of any kind.
const ANY_PROVIDER: &[&str] = &[
    "kind",
    "max_concurrent",
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "max_pending",
    ADAPTIVE,
    MODELS,
    "run_timeout",
    "gate_failures",
    "gate_window",
    "gate_pause",
    RETRY,
];

/// The table of a provider that says between which bounds its limit moves.
pub(super) const ADAPTIVE: &str = "adaptive";

/// Keys of that table.
pub(super) const IN_ADAPTIVE: &[&str] = &["min", "max", "target_latency"];

/// The table of a provider with a table for each model that has rates of its own.
pub(super) const MODELS: &str = "models";

/// Keys of those tables.
pub(super) const IN_MODEL: &[&str] =
    &["requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"];

/// The table of a provider that says how its failed attempts are tried again.
pub(super) const RETRY: &str = "retry";

/// Keys of that table.
pub(super) const IN_RETRY: &[&str] = &[
    "max_attempts",
    "initial_backoff",
    "max_backoff",
    "backoff_multiplier",
    "retry_on",
    "no_retry_on",
    "budget",
    "budget_min",
];

/// Keys of a provider of kind `process`.
pub(super) const PROCESS: &[&str] = &[
    "modules_dir",
    "env_allow",
    "stop_grace",
    "max_output_bytes",
    "resource_gate",
    "cpu_max_percent",
    "memory_min_bytes",
    "when_short",
];

/// Keys of a provider of kind `simulated`.
pub(super) const SIMULATED: &[&str] = &["capacity", "capacity_retry_after"];

/// Keys of a provider that is reached over HTTP.
pub(super) const REMOTE: &[&str] = &[
    "base_url",
    "endpoints",
    "api_key_env",
    "api_key_file",
    "headers",
    "connect_timeout",
    "idle_timeout",
];

/// Every key that a provider can have.
pub(super) fn provider() -> Vec<&'static str> {
    [ANY_PROVIDER, PROCESS, SIMULATED, REMOTE].concat()
}

/// Says which of `known` is nearest to `unknown`.
pub(super) fn hint(unknown: &str, known: &[&str]) -> String {
    let spelling = |text: &str| text.to_lowercase().replace('-', "_");
    let unknown = spelling(unknown);
    let likeness = |key: &str| strsim::jaro_winkler(&unknown, &spelling(key));
    match known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "there are none".to_owned(),
    }
}

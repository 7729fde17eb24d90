//! The flags of `flowgate serve`. All are text: what they may hold is checked where it is for
//! every source.

use std::path::PathBuf;

use serde::Serialize;

/// Settings given on the command line. Those left out are not serialised, or they would override
/// the file.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct ServeFlags {
    /// Where executions are kept: sqlite://PATH or postgres://… [env: FLOWGATE_STORE] [default: sqlite://flowgate.db]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Where to LISTEN if the store is behind a pooler, or off [env: FLOWGATE_LISTEN_URL] [default: the store]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_url: Option<String>,
    /// Where gRPC is served [env: FLOWGATE_GRPC_ADDR] [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_addr: Option<String>,
    /// Where the page, metrics and probes are served over HTTP [env: FLOWGATE_HTTP_ADDR] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_addr: Option<String>,
    /// The settings file [env: FLOWGATE_CONFIG] [default: flowgate.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// How long a claim holds unless renewed [env: FLOWGATE_LEASE] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// How often to look for work unprompted [env: FLOWGATE_POLL_INTERVAL] [default: 2s]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_interval: Option<String>,
    /// How long a shutdown takes at most [env: FLOWGATE_DRAIN_TIMEOUT] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<String>,
    /// The fewest slots of this server's pool [env: FLOWGATE_POOL_MIN] [default: 2]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_min: Option<String>,
    /// The most slots of this server's pool, over all providers [env: FLOWGATE_POOL_MAX] [default: 20]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_max: Option<String>,
    /// A pool of fixed size, instead of its two bounds [env: FLOWGATE_SLOTS]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<String>,
    /// Where the modules of provider `process` are [env: FLOWGATE_MODULES_DIR]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_dir: Option<String>,
    /// How logs look: text or json [env: FLOWGATE_LOG_FORMAT] [default: text on a terminal]
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
    /// What is logged: a level or a filter as in RUST_LOG [env: FLOWGATE_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// What is traced: info, or debug for the store's statements too [env: FLOWGATE_TRACE_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_level: Option<String>,
    /// Whether metrics are kept and shown at /metrics: on or off [env: FLOWGATE_METRICS] [default: on]
    #[arg(long, value_name = "SWITCH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

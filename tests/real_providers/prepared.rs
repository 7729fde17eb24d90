//! n8n and Langflow with a key and with workflows: one of each for the test process.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::support::providers::{Kind, RealServer, shared};
use crate::support::tools;

const N8N: Kind = Kind {
    name: "n8n",
    made_from: &[
        "tests/servers/locks/n8n/package.json",
        "tests/servers/locks/n8n/package-lock.json",
    ],
    ready: "/healthz/readiness",
    key: "",
    arguments: &[],
    starts_within: Duration::from_secs(180),
};

const LANGFLOW: Kind = Kind {
    name: "langflow",
    made_from: &["tests/servers/locks/langflow.txt", "tests/servers/langflow_flows.py"],
    ready: "/health_check",
    key: "",
    arguments: &[],
    starts_within: Duration::from_secs(300),
};

/// The header `X-Hook-Key` that n8n's webhook `echo` asks for.
pub(crate) const HOOK_KEY: &str = "hook-secret";

/// A server that its setup script has prepared.
pub(crate) struct Prepared {
    /// Without a slash at the end.
    pub(crate) url: String,
    /// n8n: the header `X-N8N-API-KEY`. Langflow: `x-api-key`.
    pub(crate) key: String,
    /// The workflows or flows by name, as ids.
    pub(crate) ids: BTreeMap<String, String>,
}

/// What a setup script prints.
#[derive(Deserialize)]
struct Printed {
    key: String,
    #[serde(alias = "workflows", alias = "flows")]
    ids: BTreeMap<String, String>,
}

/// n8n with the workflows of `tests/servers/n8n`, each behind the webhook of its name.
pub(crate) async fn n8n() -> &'static Prepared {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    static PREPARED: OnceCell<Prepared> = OnceCell::const_new();
    PREPARED.get_or_init(async || prepare(shared(&SERVER, &N8N).await, "n8n_setup.py", &[])).await
}

/// Langflow with the flows of `tests/servers/langflow_flows.py`.
pub(crate) async fn langflow() -> &'static Prepared {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    static PREPARED: OnceCell<Prepared> = OnceCell::const_new();
    let prepare = async || {
        let flows = tools::server(LANGFLOW.name, LANGFLOW.made_from).join("flows");
        let flows = flows.to_str().expect("the repository's path is text");
        prepare(shared(&SERVER, &LANGFLOW).await, "langflow_setup.py", &[flows])
    };
    PREPARED.get_or_init(prepare).await
}

fn prepare(server: &RealServer, script: &str, arguments: &[&str]) -> Prepared {
    let mut command = Command::new("python3");
    command.arg(tools::repository("tests/servers").join(script)).arg(&server.url).args(arguments);
    let output = command.output().expect("python3 can be run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed:\n{complaint}");
    let printed = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let Printed { key, ids } = printed;
    Prepared { url: server.url.clone(), key, ids }
}

//! What the benchmarks share: servers of their own, submissions, and figures.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::system_service_client::SystemServiceClient;
use flowgate::pb::{GetStatusRequest, GetStatusResponse, SubmitExecutionRequest};
use tonic::transport::Channel;

/// Slots enough for all limits together, unless a flag says otherwise: what is measured is not how a
/// pool grows.
const SLOTS: u32 = 1_000;

/// A server, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) channel: Channel,
    /// Where its HTTP port is.
    pub(crate) http: String,
}

impl Server {
    /// Starts a server on `store`, configured as `config` says.
    pub(crate) fn start(folder: &Path, store: &str, config: &str, flags: &[&str]) -> Self {
        Self::start_with(folder, store, config, flags, &[])
    }

    /// The same, with these variables. No collector is named but by them.
    pub(crate) fn start_with(
        folder: &Path,
        store: &str,
        config: &str,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let file = folder.join("flowgate.toml");
        std::fs::write(&file, format!("slots = {SLOTS}\n{config}")).expect("a writable folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .args(["--store", store, "--log-level", "warn", "--config"])
            .arg(&file)
            .args(flags)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        let mut told = |what: &str| {
            lines
                .find_map(|line| line.strip_prefix(what).map(str::to_owned))
                .expect("the server tells its addresses")
        };
        let (address, http) = (told("gRPC listening on "), told("HTTP listening on "));
        // The port is open before the line is printed; the first call waits until it serves.
        let channel = Channel::from_shared(format!("http://{address}"));
        Self { child, channel: channel.expect("an address").connect_lazy(), http }
    }

    /// CPU time it has used; only Linux tells.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        // What Linux counts a second, whatever the kernel's own clock does.
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // The name of the program, in parentheses, may have spaces in it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS
    }

    pub(crate) fn executions(&self) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn status(&self) -> GetStatusResponse {
        let mut client = SystemServiceClient::new(self.channel.clone());
        client.get_status(GetStatusRequest::default()).await.expect("a status").into_inner()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn request(provider: &str, duration_ms: i64) -> SubmitExecutionRequest {
    SubmitExecutionRequest {
        provider: provider.to_owned(),
        input_json: format!("{{\"duration_ms\":{duration_ms}}}"),
        ..Default::default()
    }
}

/// `percent` of the durations, which are sorted, are no longer than this.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

pub(crate) fn print_percentiles(what: &str, sorted: &[Duration]) {
    let (p50, p99) = (percentile(sorted, 50), percentile(sorted, 99));
    println!("{what:<54}  p50 {p50:>8.1?}  p99 {p99:>8.1?}");
}

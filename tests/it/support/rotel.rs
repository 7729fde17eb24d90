//! rotel, an OpenTelemetry collector by others, which hands on what it gets to the test's own.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::collector::Collector;
use super::providers::Port;
use super::{eventually, tools};

const KEEPER: &str = include_str!("providers/keeper.sh");

/// A collector in a process of its own. It is killed when it is dropped or the test process ends.
pub(crate) struct Rotel {
    port: Port,
    state: PathBuf,
    keeper: Child,
    /// The only end of the pipe that is written to; see `keeper.sh`.
    life: Option<ChildStdin>,
}

impl Rotel {
    /// Starts one that takes OTLP over gRPC and hands it on.
    pub(crate) async fn before(collector: &Collector) -> Self {
        let port = Port::take();
        let state = tempfile::Builder::new().prefix("flowgate-rotel-").tempdir();
        let state = state.expect("a temporary folder can be made").keep();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&state).arg(tools::rotel()).arg("start");
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", port.number)]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", port.number + 1)]);
        command.args(["--exporter", "otlp", "--otlp-exporter-protocol", "grpc"]);
        command.args(["--otlp-exporter-endpoint", &collector.url(), "--batch-timeout", "50ms"]);
        command.env("NO_PROXY", "localhost,127.0.0.1").env("no_proxy", "localhost,127.0.0.1");
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("sh can be run");
        let life = keeper.stdin.take();
        let rotel = Self { port, state, keeper, life };
        eventually("rotel listens", async || {
            let addr = ([127, 0, 0, 1], rotel.port.number).into();
            TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()
        })
        .await;
        rotel
    }

    /// Where it listens, as exporters have it.
    pub(crate) fn url(&self) -> String {
        self.port.url()
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.state.join("log")).unwrap_or_default()
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        drop(self.life.take());
        // It fails only if it was waited for.
        let _ = self.keeper.wait();
    }
}

//! One life of a server: the process, from its start until it has ended or is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Config, StoreHome};

/// A start takes a fraction of a second; a loaded machine gets more.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// One life of a server. Dropping it kills it.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) grpc_addr: String,
    pub(super) http_addr: String,
    pub(super) channel: Channel,
}

impl Process {
    /// Starts one and waits until it takes work; returns what it said, if it gave up.
    pub(super) async fn start(
        config: &Config,
        dir: &Path,
        store: &StoreHome,
        boot: u32,
    ) -> Result<Self, String> {
        let stdout = log_file(dir, boot, "stdout");
        let child = command(config, dir, &store.url())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(log_file(dir, boot, "stderr")).unwrap())
            .spawn()
            .expect("cargo built the binary");
        // From here on the child is owned: whatever panics below, it is killed.
        let channel = Endpoint::from_static("http://0.0.0.0:0").connect_lazy();
        let mut process =
            Self { child, grpc_addr: String::new(), http_addr: String::new(), channel };

        let told = tokio::time::timeout(START_DEADLINE, process.listening(&stdout)).await;
        if !matches!(told, Ok(true)) {
            let stderr = read(&log_file(dir, boot, "stderr"));
            return Err(read(&stdout) + &stderr);
        }
        process.channel = Endpoint::from_shared(format!("http://{}", process.grpc_addr))
            .expect("the server prints an address")
            .connect_lazy();
        let until = Instant::now() + START_DEADLINE;
        while !process.is_serving().await {
            if Instant::now() > until {
                return Err("it is not ready in time".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(process)
    }

    /// Waits until both addresses were printed; false if the process ended before.
    async fn listening(&mut self, stdout: &Path) -> bool {
        loop {
            let printed = read(stdout);
            for line in printed.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                if let Some(addr) = line.strip_prefix("gRPC listening on ") {
                    self.grpc_addr = addr.to_owned();
                } else if let Some(addr) = line.strip_prefix("HTTP listening on ") {
                    self.http_addr = addr.to_owned();
                }
            }
            if !self.grpc_addr.is_empty() && !self.http_addr.is_empty() {
                return true;
            }
            if self.child.try_wait().expect("a child can be waited for").is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn is_serving(&self) -> bool {
        let request = HealthCheckRequest { service: String::new() };
        let reply = HealthClient::new(self.channel.clone()).check(request).await;
        reply.is_ok_and(|reply| reply.get_ref().status() == ServingStatus::Serving)
    }

    pub(super) fn kill9(&mut self) {
        // Both fail only if the process is gone and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn command(config: &Config, dir: &Path, store_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    // What is set where the tests run is not meant for this server.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("FLOWGATE_") || name_text.starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir)
        .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
        .args(["--store", &config.pooled(store_url)])
        .arg("--config")
        .arg(dir.join("flowgate.toml"))
        .envs(config.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    if config.pooler.is_some() {
        command.args(["--listen-url", store_url]);
    }
    command
}

/// Where what a process writes to one of its streams goes.
pub(super) fn log_file(dir: &Path, boot: u32, stream: &str) -> PathBuf {
    dir.join(format!("{boot}.{stream}"))
}

/// What a file holds, if it is there.
pub(super) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

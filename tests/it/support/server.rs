//! A real server: the binary of this build in a process of its own, on free ports, with a store
//! and a folder of its own; or several on one store. Dropping it kills the process and removes the
//! folder; after a failed test the folder stays and its place is printed.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::provider_service_client::ProviderServiceClient;
use flowgate::pb::system_service_client::SystemServiceClient;
use flowgate::pb::{
    Execution, GetExecutionRequest, GetStatusRequest, GetStatusResponse, SubmitExecutionRequest,
    WatchExecutionRequest, WatchExecutionResponse, watch_execution_response::Event,
};
use flowgate::store::Backend;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use super::postgres::{Cluster, Database};
use super::process::{Process, log_file, read};
use super::{Config, StoreHome, is_terminal};

/// The longest a test waits for one execution.
const EXECUTION_DEADLINE: Duration = Duration::from_secs(60);
/// Above what the server takes and sends, so that its limits are met and not the client's.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// A running server process and a connection to it.
pub(crate) struct TestServer {
    config: Config,
    dir: TempDir,
    store: StoreHome,
    /// How many times a process was started; names its log files.
    boots: u32,
    process: Process,
}

impl TestServer {
    /// Starts a server on a new store and waits until it takes work.
    pub(crate) async fn start(config: Config) -> Self {
        let dir = folder();
        let store = StoreHome::within(dir.path(), config.db).await;
        Self::start_on(store, dir, config).await
    }

    async fn start_on(store: StoreHome, dir: TempDir, config: Config) -> Self {
        config.write(dir.path());
        let process = Process::start(&config, dir.path(), &store, 1).await;
        let process = process.unwrap_or_else(|said| panic!("the server did not start:\n{said}"));
        Self { config, dir, store, boots: 1, process }
    }

    /// Starts a server on a store that there is already.
    pub(crate) async fn start_at(store: StoreHome, config: Config) -> Self {
        Self::start_on(store, folder(), config).await
    }

    /// Starts a replica: another server on the same store, with this configuration.
    pub(crate) async fn start_beside(&self, config: Config) -> Self {
        Self::start_at(self.store.clone(), config).await
    }

    /// Starts a server in the cluster of one's own, which can be stopped under it.
    pub(crate) async fn start_in(cluster: &Arc<Cluster>, config: Config) -> Self {
        let store = StoreHome::Postgres(Arc::new(cluster.database().await));
        Self::start_at(store, config).await
    }

    /// Starts equal replicas on one new store.
    pub(crate) async fn replicas(config: Config, count: usize) -> Vec<Self> {
        let mut replicas = vec![Self::start(config.clone()).await];
        while replicas.len() < count {
            replicas.push(replicas[0].start_beside(config.clone()).await);
        }
        replicas
    }

    /// Starts equal replicas on this store at the same moment.
    pub(crate) async fn together(store: &StoreHome, config: &Config, count: usize) -> Vec<Self> {
        let starting = (0..count).map(|_| Self::start_on(store.clone(), folder(), config.clone()));
        futures_util::future::join_all(starting).await
    }

    /// Ends the process if it still runs, and starts another on the same store and new ports.
    pub(crate) async fn restart(&mut self) {
        self.try_restart().await.unwrap_or_else(|said| panic!("the server did not start:\n{said}"));
    }

    /// The same, but returns what it said if it gave up, as it does without its database.
    pub(crate) async fn try_restart(&mut self) -> Result<(), String> {
        self.kill9();
        self.boots += 1;
        let dir = self.dir.path();
        self.process = Process::start(&self.config, dir, &self.store, self.boots).await?;
        Ok(())
    }

    /// Kills the process without a warning, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the process to shut down.
    pub(crate) fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Freezes the process, as a machine that is moved or out of memory does.
    pub(crate) fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub(crate) fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process.child);
        kill_process(pid, signal).expect("the process is a child that was not waited for");
    }

    /// Waits until the process has ended by itself, or panics.
    pub(crate) async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.process.child;
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "the server still runs after {deadline:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `host:port` of the gRPC service.
    pub(crate) fn grpc_addr(&self) -> &str {
        &self.process.grpc_addr
    }

    /// `host:port` of the probes.
    pub(crate) fn http_addr(&self) -> &str {
        &self.process.http_addr
    }

    /// Status and body of a path of the HTTP port.
    pub(crate) async fn http_get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http_addr()).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: flowgate\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("answered");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status line"), body.to_owned())
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The memory that the process holds, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS")
    }

    /// The most memory that the process ever held, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.process.child.id())));
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("a live process");
        let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number");
        kib * 1024
    }

    /// The server's own folder, in which `flowgate.toml`, `modules` and a store that is a file lie.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> &StoreHome {
        &self.store
    }

    /// The store, as `--store` takes it.
    pub(crate) fn store_url(&self) -> String {
        self.store.url()
    }

    /// The database of a store that is in one.
    pub(crate) fn database(&self) -> &Database {
        match &self.store {
            StoreHome::Postgres(database) => database,
            StoreHome::Sqlite { .. } => panic!("the store is in a file"),
        }
    }

    /// The store, to be looked at past the server.
    pub(crate) async fn open_store_beside(&self) -> Arc<dyn Backend> {
        self.store.open_beside().await
    }

    /// Everything the server wrote to stderr since its first start.
    pub(crate) fn stderr_log(&self) -> String {
        (1..=self.boots).map(|boot| read(&log_file(self.dir(), boot, "stderr"))).collect()
    }

    /// The connection made at the start, shared by all clients.
    pub(crate) fn channel(&self) -> Channel {
        self.process.channel.clone()
    }

    /// A client of `ExecutionService`.
    pub(crate) fn execution(&self) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    /// A client of `ProviderService`.
    pub(crate) fn provider(&self) -> ProviderServiceClient<Channel> {
        ProviderServiceClient::new(self.channel())
    }

    /// A client of `SystemService`.
    pub(crate) fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel())
    }

    /// Submits, which must succeed.
    pub(crate) async fn submit(&self, request: SubmitExecutionRequest) -> Execution {
        let reply = self.execution().submit_execution(request).await.expect("submitted");
        reply.into_inner().execution.expect("a reply holds an execution")
    }

    /// The execution as it stands.
    pub(crate) async fn get(&self, id: &str) -> Execution {
        let request = GetExecutionRequest { id: id.to_owned(), ..Default::default() };
        let reply = self.execution().get_execution(request).await.expect("read");
        reply.into_inner().execution.expect("a reply holds an execution")
    }

    /// The status of the service.
    pub(crate) async fn status(&self) -> GetStatusResponse {
        self.system().get_status(GetStatusRequest::default()).await.expect("read").into_inner()
    }

    /// Every message about an execution, output included, from its first change to the end.
    pub(crate) async fn watch_to_end(&self, id: &str) -> Vec<WatchExecutionResponse> {
        let request = WatchExecutionRequest {
            id: id.to_owned(),
            after_revision: Some(0),
            include_output: true,
            ..Default::default()
        };
        let watched = async {
            let mut stream = self.execution().watch_execution(request).await?.into_inner();
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok::<_, tonic::Status>(messages)
        };
        match tokio::time::timeout(EXECUTION_DEADLINE, watched).await {
            Ok(messages) => messages.expect("the watch ends OK"),
            Err(_) => {
                panic!("{id} has not ended after {EXECUTION_DEADLINE:?}: {:?}", self.get(id).await)
            }
        }
    }

    /// Waits until an execution is terminal, and returns it.
    pub(crate) async fn ended(&self, id: &str) -> Execution {
        let messages = self.watch_to_end(id).await;
        let last = messages.into_iter().rev().find_map(|message| match message.event {
            Some(Event::Execution(execution)) => Some(execution),
            _ => None,
        });
        let execution = last.expect("a watch tells of the execution");
        assert!(is_terminal(&execution), "the watch ended before the execution: {execution:?}");
        execution
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("the server's folder is kept: {}", self.dir.path().display());
            let log = read(&log_file(self.dir.path(), self.boots, "stderr"));
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the end of its log:\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

fn folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let dir = builder.prefix("server-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    dir.expect("cargo makes this folder")
}

//! The resource gate of kind `process`: in servers of this process whose machine is as busy as a test
//! says, and through the real program with bounds that no machine meets.

mod fails;
mod real;
mod replicas;
mod waits;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowgate::config::{ServeFlags, load};
use flowgate::domain::{Breaker, Limits, MachineLoad, ResourceGate, RetryRules, WhenShort};
use flowgate::engine::{ConfiguredProvider, Machine};
use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::provider_service_client::ProviderServiceClient;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    Execution, ExecutionState, GetExecutionRequest, SubmitExecutionRequest, WaitReason,
    WatchExecutionRequest, WatchExecutionResponse,
};
use flowgate::providers::{Process, ProcessConfig};
use flowgate::server::Server;
use flowgate::shutdown::Shutdown;
use flowgate::tasks::Tasks;
use serde_json::json;
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::support::{StoreHome, submit};

const GIB: u64 = 1024 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);

/// 80 % of the processors and 4 GiB, as `resource_gate = true` asks for.
const GATE: ResourceGate = ResourceGate {
    cpu_max_percent: Some(80),
    memory_min_bytes: Some(4 * GIB),
    when_short: WhenShort::Wait,
};

/// A machine that is as busy as it is told to be.
struct Told(Mutex<MachineLoad>);

impl Told {
    fn busy(cpu_percent: f64, memory_available_bytes: u64) -> Arc<Self> {
        let told = Self(Mutex::default());
        told.is(cpu_percent, memory_available_bytes);
        Arc::new(told)
    }

    fn is(&self, cpu_percent: f64, memory_available_bytes: u64) {
        *self.0.lock().unwrap() = MachineLoad {
            cpu_percent: Some(cpu_percent),
            memory_available_bytes: Some(memory_available_bytes),
        };
    }

    fn is_idle(&self) {
        self.is(5.0, 16 * GIB);
    }
}

impl Machine for Told {
    fn load(&self) -> MachineLoad {
        *self.0.lock().unwrap()
    }
}

/// A server in this process: `gated` runs modules under a gate, `sim` is simulated.
struct Served {
    shutdown: Shutdown,
    server: Option<Server>,
    channel: Channel,
    _modules: TempDir,
}

impl Served {
    /// `slots` is how many attempts it runs at a time.
    async fn start(home: &StoreHome, machine: Arc<Told>, gate: ResourceGate, slots: u32) -> Self {
        let modules = TempDir::new().unwrap();
        let script = modules.path().join("hello.sh");
        std::fs::write(script, "echo hello\n").unwrap();
        let flags = ServeFlags {
            store: Some(home.url()),
            grpc_addr: Some("127.0.0.1:0".to_owned()),
            http_addr: Some("127.0.0.1:0".to_owned()),
            slots: Some(slots.to_string()),
            lease: Some("2s".to_owned()),
            ..ServeFlags::default()
        };
        let file = "[providers.sim]\nkind = 'simulated'\nmax_concurrent = 5";
        std::fs::write(modules.path().join("flowgate.toml"), file).unwrap();
        let mut settings = load(&flags, [], modules.path()).unwrap();
        settings.machine = machine;
        settings.providers.push(ConfiguredProvider {
            name: "gated".parse().unwrap(),
            kind: "process".to_owned(),
            limits: Limits::concurrent(3),
            run_timeout: DEADLINE,
            breaker: Breaker::default(),
            retry: RetryRules::default(),
            provider: Arc::new(Process::new(ProcessConfig {
                modules_dir: Some(modules.path().to_owned()),
                guard_program: env!("CARGO_BIN_EXE_flowgate").into(),
                gate: Some(gate),
                ..ProcessConfig::default()
            })),
        });
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let server = Box::pin(Server::start(settings, shutdown.clone(), Tasks::default()));
        let server = server.await.unwrap();
        let url = format!("http://{}", server.grpc_addr());
        let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { shutdown, server: Some(server), channel, _modules: modules }
    }

    fn execution(&self) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::new(self.channel.clone())
    }

    fn provider(&self) -> ProviderServiceClient<Channel> {
        ProviderServiceClient::new(self.channel.clone())
    }

    async fn submit(&self, request: SubmitExecutionRequest) -> String {
        let reply = self.execution().submit_execution(request).await.unwrap();
        reply.into_inner().execution.unwrap().id
    }

    async fn get(&self, id: &str) -> Execution {
        let request = GetExecutionRequest { id: id.to_owned(), ..Default::default() };
        self.execution().get_execution(request).await.unwrap().into_inner().execution.unwrap()
    }

    /// Watches from the first change on.
    async fn watch(&self, id: &str) -> Watched {
        let request = WatchExecutionRequest {
            id: id.to_owned(),
            after_revision: Some(0),
            ..Default::default()
        };
        Watched(self.execution().watch_execution(request).await.unwrap().into_inner())
    }

    async fn stop(mut self) {
        self.shutdown.begin();
        let Self { server, channel, .. } = &mut self;
        *channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        server.take().unwrap().run().await.unwrap();
    }
}

/// A watch of one execution, output left out.
struct Watched(Streaming<WatchExecutionResponse>);

impl Watched {
    /// The execution at its next change.
    async fn next(&mut self) -> Execution {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.0.message()).await;
            let message = message.expect("something changes in time").unwrap().expect("no end");
            if let Some(Event::Execution(execution)) = message.event {
                return execution;
            }
        }
    }

    /// Waits until it says that it waits for resources, and returns the message.
    async fn lacks(&mut self) -> String {
        loop {
            let execution = self.next().await;
            assert_eq!(execution.state(), ExecutionState::Pending, "{execution:?}");
            if let Some(message) = lack(&execution) {
                return message;
            }
        }
    }

    /// Everything that is seen up to the end.
    async fn until_end(&mut self) -> Vec<Execution> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next().await);
            if crate::support::is_terminal(&seen[seen.len() - 1]) {
                return seen;
            }
        }
    }
}

/// What an execution says it lacks, if it says so.
fn lack(execution: &Execution) -> Option<String> {
    let wait = execution.wait_reason.as_ref()?;
    (wait.code() == WaitReason::Resource).then(|| wait.message.clone())
}

fn hello(provider: &str) -> SubmitExecutionRequest {
    submit(provider, json!({ "module": "hello.sh" }))
}

//! A collector that takes everything and keeps nothing: rotel, which is by others, where it is
//! installed, else one in this process.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1 as metrics;
use opentelemetry_proto::tonic::collector::trace::v1 as trace;
use tonic::{Request, Response, Status};

/// Until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// It ends when it is dropped.
pub(crate) struct Collector {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    process: Option<Child>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let address = free();
        let (name, process) = match rotel() {
            Some(rotel) => ("rotel", Some(run(rotel, &address))),
            None => {
                let server = tonic::transport::Server::builder()
                    .add_service(trace::trace_service_server::TraceServiceServer::new(Taker))
                    .add_service(metrics::metrics_service_server::MetricsServiceServer::new(Taker));
                tokio::spawn(server.serve(address.parse().expect("an address")));
                ("in this process", None)
            }
        };
        let listens = async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listens).await.expect("the collector listens");
        Self { name, url: format!("http://{address}"), process }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Fails only if it is gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// The program, which is in the Python package of that name.
fn rotel() -> Option<PathBuf> {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-tools/python/bin/python");
    let tell = "import rotel.agent; print(rotel.agent.Agent.agent_path)";
    let found = Command::new(tools).args(["-B", "-c", tell]).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    path.is_file().then_some(path)
}

fn run(rotel: PathBuf, address: &str) -> Child {
    let mut command = Command::new(rotel);
    command.args(["start", "--exporter", "blackhole", "--otlp-grpc-endpoint", address]);
    command.args(["--otlp-http-endpoint", &free()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the collector starts")
}

struct Taker;

#[tonic::async_trait]
impl trace::trace_service_server::TraceService for Taker {
    async fn export(
        &self,
        _: Request<trace::ExportTraceServiceRequest>,
    ) -> Result<Response<trace::ExportTraceServiceResponse>, Status> {
        Ok(Response::new(trace::ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl metrics::metrics_service_server::MetricsService for Taker {
    async fn export(
        &self,
        _: Request<metrics::ExportMetricsServiceRequest>,
    ) -> Result<Response<metrics::ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(metrics::ExportMetricsServiceResponse::default()))
    }
}

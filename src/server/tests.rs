use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::{ServeFlags, load};
use crate::pb;
use crate::tasks::Tasks;

async fn start(directory: &tempfile::TempDir, drain_timeout: &str) -> (Server, Shutdown) {
    let settings = settings(directory, drain_timeout);
    let shutdown = Shutdown::new(settings.drain_timeout);
    let server = Box::pin(Server::start(settings, shutdown.clone(), Tasks::default()))
        .await
        .expect("it starts");
    (server, shutdown)
}

fn settings(directory: &tempfile::TempDir, drain_timeout: &str) -> Settings {
    let flags = ServeFlags {
        store: Some(format!("sqlite://{}", directory.path().join("flowgate.db").display())),
        grpc_addr: Some("127.0.0.1:0".to_owned()),
        http_addr: Some("127.0.0.1:0".to_owned()),
        drain_timeout: Some(drain_timeout.to_owned()),
        ..ServeFlags::default()
    };
    load(&flags, [], directory.path()).expect("the settings are fine")
}

async fn get(addr: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(addr).await.expect("the port is open");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("it is read");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn a_server_that_has_started_says_so_everywhere() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (server, shutdown) = start(&directory, "5s").await;
    assert!(get(server.http_addr(), "/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(get(server.http_addr(), "/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(get(server.http_addr(), "/else").await.starts_with("HTTP/1.1 404 "));

    let url = format!("http://{}", server.grpc_addr());
    let endpoint = tonic::transport::Endpoint::from_shared(url).expect("a URL");
    let mut health = HealthClient::new(endpoint.connect().await.expect("it accepts"));
    for service in ["", pb::execution_service_server::SERVICE_NAME] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("it answers").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    shutdown.begin();
    assert!(get(server.http_addr(), "/healthz").await.starts_with("HTTP/1.1 200 "));
    let answer = get(server.http_addr(), "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("shutting down"), "{answer}");
    server.run().await.expect("it was told to end");
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_hold_up_the_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (server, shutdown) = start(&directory, "5s").await;
    let grpc = TcpStream::connect(server.grpc_addr()).await.expect("the port is open");
    let http = TcpStream::connect(server.http_addr()).await.expect("the port is open");
    shutdown.begin();
    let close_by = shutdown.begun().await.close_by;
    timeout_at(close_by, server.run()).await.expect("in time").expect("it was told to end");
    drop((grpc, http));
}

#[tokio::test]
async fn a_port_in_use_and_a_store_in_use_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (server, shutdown) = start(&directory, "5s").await;

    let other = tempfile::tempdir().expect("a temporary directory");
    let taken = Settings { grpc_addr: server.grpc_addr().to_string(), ..settings(&other, "5s") };
    let refused = Box::pin(Server::start(taken, shutdown.clone(), Tasks::default())).await;
    assert!(matches!(refused, Err(ServeError::Listen { protocol: "gRPC", .. })));

    let refused =
        Box::pin(Server::start(settings(&directory, "5s"), shutdown.clone(), Tasks::default()))
            .await;
    assert!(matches!(refused, Err(ServeError::Open { source: BackendError::Locked(_), .. })));
    shutdown.begin();
    server.run().await.expect("it was told to end");
}

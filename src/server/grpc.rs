//! The gRPC port: how connections are accepted and kept, and what clients are told of its health.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use futures_util::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::util::MapRequestLayer;
use tower_http::trace::{DefaultOnFailure, TraceLayer};
use tracing::Level;

use super::rpc;
use crate::health::Condition;
use crate::pb;

/// Calls and watches one connection may have open; tonic's default is no limit.
const MAX_STREAMS: u32 = 1_024;
/// How often a silent connection is asked whether it is alive, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The wait after a connection could not be accepted, as when no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `closing`, and then until every connection is closed, which may be never.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Routes,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let trace = TraceLayer::new_for_grpc()
        .make_span_with(rpc::span)
        .on_request(())
        .on_response(rpc::answered)
        .on_eos(rpc::ended)
        .on_body_chunk(())
        // A client's mistake is not an error of the server's.
        .on_failure(DefaultOnFailure::new().level(Level::DEBUG));
    Server::builder()
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapRequestLayer::new(rpc::decide))
        .layer(trace)
        .add_routes(routes)
        .serve_with_incoming_shutdown(accept(listener), closing.cancelled_owned())
        .await
}

/// Connections, for ever: tonic would end the server at the first error it does not know.
fn accept(listener: TcpListener) -> impl Stream<Item = Result<TcpStream, Error>> {
    futures_util::stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Only latency is lost where this fails.
                    let _ = connection.set_nodelay(true);
                    return Some((Ok(connection), listener));
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(error = %error, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Whether the error is that of a client that went away before it was accepted.
fn is_of_the_connection(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// What `grpc.health.v1` answers, for the server as a whole and for each service: all of them need the same.
#[derive(Clone)]
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Not serving, until told otherwise.
    pub(super) async fn new() -> (Self, HealthServer<HealthService>) {
        let health = Self { reporter: HealthReporter::new() };
        health.set(false).await;
        let service = HealthService::from_health_reporter(health.reporter.clone());
        (health, HealthServer::new(service))
    }

    /// Tells what condition the server is in, at once and whenever it changes. Whoever watches hears of it.
    pub(super) async fn follow(self, condition: Condition) {
        let mut told = None;
        let mut seen = condition.seen();
        loop {
            let ready = condition.is_ready();
            if told != Some(ready) {
                self.set(ready).await;
                told = Some(ready);
            }
            seen = condition.changed(seen).await;
        }
    }

    pub(super) async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        // The server as a whole last: whoever watches that finds the services as it says.
        for service in [
            pb::execution_service_server::SERVICE_NAME,
            pb::provider_service_server::SERVICE_NAME,
            pb::system_service_server::SERVICE_NAME,
            "",
        ] {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

//! Reaching the server.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;

use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::provider_service_client::ProviderServiceClient;
use crate::pb::system_service_client::SystemServiceClient;

/// An execution in full may carry an input and an output of 16 MiB each, and a page many of them.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after these two together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    url: String,
}

impl Server {
    /// `host:port` alone means plain HTTP/2.
    pub(super) fn new(address: String) -> Self {
        let url = if address.contains("://") { address } else { format!("http://{address}") };
        Self { url }
    }

    /// Connects, so that a server that is not there is told at once and as such.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let url = &self.url;
        if !url.starts_with("http://") {
            // Anything else would be spoken to in the clear all the same.
            return Err(anyhow!("--server {url:?}: only http:// is spoken by this version"));
        }
        let endpoint = Endpoint::from_shared(url.clone())
            .with_context(|| format!("--server {url:?} is not a URL"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        endpoint.connect().await.map_err(|error| {
            let error = anyhow::Error::new(error);
            anyhow!("cannot reach the server at {url}: {}", error.root_cause())
        })
    }

    pub(super) async fn executions(&self) -> anyhow::Result<ExecutionServiceClient<Channel>> {
        Ok(executions(self.connect().await?))
    }

    pub(super) async fn providers(&self) -> anyhow::Result<ProviderServiceClient<Channel>> {
        Ok(ProviderServiceClient::new(self.connect().await?))
    }

    pub(super) async fn system(&self) -> anyhow::Result<SystemServiceClient<Channel>> {
        Ok(SystemServiceClient::new(self.connect().await?))
    }

    pub(super) async fn health(&self) -> anyhow::Result<HealthClient<Channel>> {
        Ok(HealthClient::new(self.connect().await?))
    }
}

/// The client for executions, with room for the largest of them.
pub(super) fn executions(channel: Channel) -> ExecutionServiceClient<Channel> {
    ExecutionServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

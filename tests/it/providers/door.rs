//! Providers through their public door: what they tell the engine and no client sees.

use std::time::Duration;

use flowgate::providers::{AttemptFailure, Credential, Provider, RemoteConfig, Success};
use serde_json::Value;

use crate::support::call;

/// Makes one attempt; what it says meanwhile is lost.
pub(super) async fn attempt(
    provider: &dyn Provider,
    input: Value,
) -> Result<Success, AttemptFailure> {
    let (call, mut reins) = call(input);
    reins.said.close();
    provider.execute(call).await
}

/// One server, without a key.
pub(super) fn at(url: &str) -> RemoteConfig {
    RemoteConfig {
        endpoints: vec![url.parse().unwrap()],
        key: Credential::None,
        headers: Vec::new(),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    }
}

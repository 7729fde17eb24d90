//! Workers: how several share the work of one store, how one shares its slots among providers,
//! and what is known of them.

mod held;
mod pool;
mod registry;
mod sharing;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::{Breaker, Limits, RetryRules, SystemClock, Timestamp};
use flowgate::engine::{ConfiguredProvider, Engine, EngineSettings, PoolSettings, ThisMachine};
use flowgate::providers::Provider;
use flowgate::store::{MemoryBackend, Store};
use flowgate::tasks::Tasks;

use crate::engine::draft;
use crate::support::eventually;
use held::Held;

/// Short, as heartbeats are a third of it apart and tests wait for them.
const LEASE: Duration = Duration::from_secs(1);
/// Longer than any test takes: nothing is found by polling.
const NEVER: Duration = Duration::from_secs(3_600);

/// A store that several engines of this process share.
fn store() -> Store {
    Store::start(Arc::new(MemoryBackend::default()), Arc::new(SystemClock), &Tasks::default())
}

fn settings(providers: Vec<ConfiguredProvider>) -> EngineSettings {
    EngineSettings {
        lease: LEASE,
        poll_interval: NEVER,
        drain_timeout: Duration::from_secs(30),
        priority_head_start: Duration::from_secs(60),
        pool: PoolSettings::fixed(1_000),
        providers,
        machine: Arc::new(ThisMachine::default()),
        host: "here".to_owned(),
        version: "test".to_owned(),
    }
}

fn provider(name: &str, max_concurrent: u32, provider: &Arc<Held>) -> ConfiguredProvider {
    let provider: Arc<dyn Provider> = Arc::<Held>::clone(provider);
    ConfiguredProvider {
        name: name.parse().unwrap(),
        kind: "test".to_owned(),
        limits: Limits::concurrent(max_concurrent),
        run_timeout: NEVER,
        breaker: Breaker::default(),
        retry: RetryRules::default(),
        provider,
    }
}

async fn start(store: &Store, settings: EngineSettings) -> Engine {
    Engine::start(store.clone(), settings, &Tasks::default()).await.unwrap()
}

async fn submit_many(engine: &Engine, provider: &str, count: usize) {
    engine.submit((0..count).map(|_| draft(provider, "{}")).collect()).await.unwrap();
}

/// Waits until this engine has taken note of everything that the register held at the call.
async fn takes_note(store: &Store, engine: &Engine) {
    let mut seen = heard_of(store, engine).await;
    // It reads the register after each; with the second, the first is sure to be over.
    for _ in 0..2 {
        seen = eventually("another heartbeat", async || {
            let heard = heard_of(store, engine).await;
            (heard > seen).then_some(heard)
        })
        .await;
    }
}

async fn heard_of(store: &Store, engine: &Engine) -> Timestamp {
    let rows = store.workers().await.unwrap();
    rows.into_iter().find(|row| row.id == engine.worker()).unwrap().heartbeat_at
}

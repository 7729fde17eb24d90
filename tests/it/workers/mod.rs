//! Workers: how several share the work of one store, how one shares its slots among providers,
//! and what is known of them.

mod held;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::{Limits, SystemClock};
use flowgate::engine::{ConfiguredProvider, Engine, EngineSettings};
use flowgate::providers::Provider;
use flowgate::store::{MemoryBackend, Store};
use flowgate::tasks::Tasks;

use crate::engine::draft;
use held::Held;

/// Nobody waits for the poll, and a heartbeat is soon.
const LEASE: Duration = Duration::from_millis(300);
const NEVER: Duration = Duration::from_secs(3_600);

/// A store that several engines of this process share.
fn store() -> Store {
    Store::start(Arc::new(MemoryBackend::default()), Arc::new(SystemClock), &Tasks::default())
}

fn settings(providers: Vec<ConfiguredProvider>) -> EngineSettings {
    EngineSettings {
        lease: LEASE,
        poll_interval: NEVER,
        slots: 1_000,
        providers,
        host: "here".to_owned(),
        version: "test".to_owned(),
    }
}

fn provider(name: &str, max_concurrent: u32, provider: &Arc<Held>) -> ConfiguredProvider {
    let provider: Arc<dyn Provider> = Arc::<Held>::clone(provider);
    ConfiguredProvider {
        name: name.parse().unwrap(),
        kind: "test".to_owned(),
        limits: Limits { max_concurrent },
        run_timeout: NEVER,
        provider,
    }
}

async fn start(store: &Store, settings: EngineSettings) -> Engine {
    Engine::start(store.clone(), settings, &Tasks::default()).await.unwrap()
}

async fn submit_many(engine: &Engine, provider: &str, count: usize) {
    engine.submit((0..count).map(|_| draft(provider, "{}")).collect()).await.unwrap();
}

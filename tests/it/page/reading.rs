//! What open pages cost, and what they are told when the store fails them.
//!
//! On SQLite only: how often something is read does not depend on where.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flowgate::domain::SystemClock;
use flowgate::engine::{Engine, EngineSettings, PoolSettings, ThisMachine};
use flowgate::health::Condition;
use flowgate::shutdown::Phase;
use flowgate::store::Store;
use flowgate::tasks::Tasks;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Events;
use crate::store::faults::{Fault, Faulty};
use crate::support::{Db, StoreHome};

const PAGES: usize = 50;

/// The HTTP port of an engine in this process, over a store that fails on demand.
struct Port {
    addr: String,
    faulty: Faulty,
    engine: Engine,
    tasks: Tasks,
    _home: StoreHome,
}

impl Port {
    async fn open() -> Self {
        let home = StoreHome::new(Db::Sqlite).await;
        let faulty = Faulty::over(home.open().await);
        let tasks = Tasks::default();
        let store = Store::start(Arc::new(faulty.clone()), Arc::new(SystemClock), &tasks);
        let settings = EngineSettings {
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(30),
            priority_head_start: Duration::from_secs(60),
            pool: PoolSettings::fixed(1),
            providers: Vec::new(),
            machine: Arc::new(ThisMachine::default()),
            host: "here".to_owned(),
            version: "test".to_owned(),
        };
        let engine = Engine::start(store, settings, &tasks).await.unwrap();
        let (_, phase) = watch::channel(Phase::Serving);
        let routes = flowgate::http::routes(Condition::new(phase), engine.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, routes).await });
        Self { addr, faulty, engine, tasks, _home: home }
    }
}

#[tokio::test]
async fn however_many_look_the_store_is_read_once_and_not_at_all_when_nobody_does() {
    let port = Port::open().await;
    assert_eq!(port.faulty.totals_read(), 0, "nobody looks");
    let mut pages = Vec::new();
    for _ in 0..PAGES {
        pages.push(Events::open(&port.addr).await);
    }
    let mut pictures = BTreeSet::new();
    for page in &mut pages {
        pictures.insert(page.text().await.unwrap());
        pictures.insert(page.text().await.unwrap());
    }
    let read = port.faulty.totals_read();
    // One may have been read that no page got to see, as the latest goes first, and one just now.
    let seen = pictures.len() as u64;
    assert!(read <= seen + 2, "{PAGES} pages saw {seen} pictures, {read} were read");
    drop(pages);
    // All else ends when it is told to, the task that reads when nobody looks.
    port.tasks.stop();
    port.engine.close();
    let ended = tokio::time::timeout(Duration::from_secs(30), port.tasks.ended()).await;
    ended.expect("nothing is read for pages that are closed");
}

#[tokio::test]
async fn a_page_is_told_that_the_store_fails_and_when_it_no_longer_does() {
    let port = Port::open().await;
    let mut page = Events::open(&port.addr).await;
    page.until(|_| true).await;
    port.faulty.will(Fault::Unreadable);
    page.named("trouble").await;
    port.faulty.heal();
    page.named("picture").await;
}

#[tokio::test]
async fn a_reading_that_panics_ends_the_streams_and_the_next_page_is_served() {
    let port = Port::open().await;
    let mut page = Events::open(&port.addr).await;
    page.until(|_| true).await;
    port.faulty.will(Fault::ReadingPanics);
    while page.text().await.is_some() {}
    port.faulty.heal();
    Events::open(&port.addr).await.until(|_| true).await;
}

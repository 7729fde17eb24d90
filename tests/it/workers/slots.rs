//! A worker runs no more attempts than it has slots, and no provider takes them from another.

use flowgate::domain::{ExecutionId, State, Wait};
use flowgate::engine::{ConfiguredProvider, Engine, EngineSettings, PoolSettings};
use flowgate::store::Payload;

use super::held::{Held, Starts};
use super::{provider, settings, start, store, submit_many};
use crate::engine::submit;
use crate::support::eventually;

#[tokio::test]
async fn no_more_attempts_run_than_there_are_slots_and_each_end_lets_the_next_in() {
    let store = store();
    let held = Held::new();
    let providers = vec![provider("p", 10, &held), provider("q", 10, &held)];
    let engine = start(&store, with_slots(3, providers)).await;
    submit_many(&engine, "p", 20).await;
    submit_many(&engine, "q", 20).await;
    held.runs(3).await;
    let status = engine.status().await.unwrap();
    assert_eq!((status.figures.active, status.slots), (3, 3));
    held.let_go(40);
    eventually("all have ended", async || {
        (store.totals().await.unwrap().succeeded == 40).then_some(())
    })
    .await;
    assert_eq!(held.most(), 3);
}

#[tokio::test]
async fn a_flood_of_long_executions_leaves_the_last_slots_to_other_providers() {
    let store = store();
    let (flood, other) = (Held::new(), Held::new());
    let providers = vec![provider("flood", 100, &flood), provider("other", 1, &other)];
    let engine = start(&store, with_slots(4, providers)).await;
    submit_many(&engine, "flood", 50).await;
    flood.runs(3).await;
    submit(&engine, "other", "{}").await;
    other.runs(1).await;
    assert_eq!((flood.running(), flood.most()), (3, 3));
}

#[tokio::test]
async fn of_a_single_slot_every_provider_has_its_turn() {
    let store = store();
    let starts = Starts::default();
    let (p, q) = (Held::noted("p", &starts), Held::noted("q", &starts));
    let providers = vec![provider("p", 10, &p), provider("q", 10, &q)];
    let engine = start(&store, with_slots(1, providers)).await;
    submit_many(&engine, "p", 5).await;
    p.runs(1).await;
    let first = submit(&engine, "q", "{}").await;
    waits_for_room(&engine, first).await;
    submit_many(&engine, "q", 4).await;
    p.let_go(5);
    q.let_go(5);
    eventually("all have ended", async || {
        (store.totals().await.unwrap().succeeded == 10).then_some(())
    })
    .await;
    let starts = starts.lock().unwrap();
    assert_eq!(*starts, ["p", "q", "p", "q", "p", "q", "p", "q", "p", "q"]);
}

#[tokio::test]
async fn what_no_slot_is_free_for_says_that_it_waits() {
    let store = store();
    let held = Held::new();
    let providers = vec![provider("p", 10, &held)];
    let engine = start(&store, with_slots(1, providers)).await;
    submit(&engine, "p", "{}").await;
    held.runs(1).await;
    let second = submit(&engine, "p", "{}").await;
    waits_for_room(&engine, second).await;
}

fn with_slots(slots: u32, providers: Vec<ConfiguredProvider>) -> EngineSettings {
    EngineSettings { pool: PoolSettings::fixed(slots), ..settings(providers) }
}

async fn waits_for_room(engine: &Engine, id: ExecutionId) {
    eventually("it says that it waits", async || {
        let view = engine.get(id, Payload::Without).await.unwrap().unwrap();
        assert_eq!(view.execution.state, State::Pending);
        (view.execution.wait == Wait::Limit).then_some(())
    })
    .await;
}

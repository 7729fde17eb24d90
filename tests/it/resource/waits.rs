//! `when_short = "wait"`: work waits without a slot, and says for what.

use flowgate::pb::{
    CancelExecutionRequest, ExecutionFilter, ExecutionState, GateState, GetProviderRequest,
    ListExecutionsRequest, PauseProviderRequest, WaitReason,
};
use serde_json::json;

use super::{GATE, GIB, Served, Told, hello, lack};
use crate::support::{Db, StoreHome, audit_is_clean, on_both, submit};

on_both! {
    #[tokio::test]
    work_waits_for_a_machine_with_room_and_says_so;
    #[tokio::test]
    what_is_said_moves_with_the_machine;
    #[tokio::test]
    a_pause_is_said_before_a_shortage;
    #[tokio::test]
    a_shortage_outlives_neither_the_work_nor_the_server;
}

async fn work_waits_for_a_machine_with_room_and_says_so(db: Db) {
    let home = StoreHome::new(db).await;
    let machine = Told::busy(93.0, 16 * GIB);
    let server = Served::start(&home, machine.clone(), GATE, 1).await;
    let id = server.submit(hello("gated")).await;
    let mut watch = server.watch(&id).await;
    assert_eq!(watch.lacks().await, "cpu 93 % of 80 %");

    let said = "cpu 93 % of 80 %".to_owned();
    let lacks = Some(said.clone());
    let seen = server.get(&id).await;
    assert_eq!((lack(&seen), seen.attempt_count), (lacks.clone(), 0));
    let filter = ExecutionFilter { providers: vec!["gated".to_owned()], ..Default::default() };
    let request = ListExecutionsRequest { filter: Some(filter), ..Default::default() };
    let listed = server.execution().list_executions(request).await.unwrap().into_inner();
    assert_eq!(lack(&listed.executions[0]), lacks);
    let second = server.submit(hello("gated")).await;
    assert_eq!(lack(&server.get(&second).await), lacks, "a later one says so at once");
    let provider = provider(&server).await;
    assert_eq!(provider.gate_state(), GateState::Short);
    assert_eq!((provider.gate_reason, provider.running_count), (said, 0));

    // There is one slot, and it is free.
    let other = server.submit(submit("sim", json!({}))).await;
    let ended = server.watch(&other).await.until_end().await;
    assert_eq!(ended.last().unwrap().state(), ExecutionState::Succeeded);
    assert_eq!(server.get(&id).await.state(), ExecutionState::Pending);

    machine.is_idle();
    let rest = watch.until_end().await;
    assert_eq!(rest.last().unwrap().state(), ExecutionState::Succeeded, "{rest:?}");
    assert!(rest.iter().all(|seen| lack(seen).is_none()), "{rest:?}");
    let ended = server.watch(&second).await.until_end().await;
    assert_eq!(ended.last().unwrap().state(), ExecutionState::Succeeded);
    assert_eq!(self::provider(&server).await.gate_state(), GateState::Open);
    server.stop().await;
    audit_is_clean(&home.url());
}

async fn provider(server: &Served) -> flowgate::pb::Provider {
    let request = GetProviderRequest { provider: "gated".to_owned() };
    server.provider().get_provider(request).await.unwrap().into_inner().provider.unwrap()
}

async fn what_is_said_moves_with_the_machine(db: Db) {
    let home = StoreHome::new(db).await;
    let machine = Told::busy(93.0, 16 * GIB);
    let server = Served::start(&home, machine.clone(), GATE, 10).await;
    let id = server.submit(hello("gated")).await;
    let mut watch = server.watch(&id).await;
    assert_eq!(watch.lacks().await, "cpu 93 % of 80 %");
    machine.is(12.0, GIB + GIB / 4);
    assert_eq!(watch.lacks().await, "memory 1.2 GiB of 4 GiB free needed");
    // Less than what is needed and something to spare.
    machine.is(12.0, 4 * GIB + 1);
    assert_eq!(watch.lacks().await, "memory 4 GiB of 4 GiB free needed");
    machine.is_idle();
    let rest = watch.until_end().await;
    assert_eq!(rest.last().unwrap().state(), ExecutionState::Succeeded);
    server.stop().await;
}

async fn a_pause_is_said_before_a_shortage(db: Db) {
    let home = StoreHome::new(db).await;
    let machine = Told::busy(93.0, 16 * GIB);
    let server = Served::start(&home, machine.clone(), GATE, 10).await;
    let id = server.submit(hello("gated")).await;
    let mut watch = server.watch(&id).await;
    watch.lacks().await;
    let provider = "gated".to_owned();
    let request = PauseProviderRequest { provider: provider.clone(), ..Default::default() };
    server.provider().pause_provider(request).await.unwrap();
    let paused = watch.next().await.wait_reason.unwrap();
    assert_eq!(paused.code(), WaitReason::Paused);
    let request = flowgate::pb::ResumeProviderRequest { provider, ..Default::default() };
    server.provider().resume_provider(request).await.unwrap();
    assert_eq!(watch.lacks().await, "cpu 93 % of 80 %");
    server.stop().await;
    audit_is_clean(&home.url());
}

async fn a_shortage_outlives_neither_the_work_nor_the_server(db: Db) {
    let home = StoreHome::new(db).await;
    let machine = Told::busy(93.0, 16 * GIB);
    let server = Served::start(&home, machine.clone(), GATE, 10).await;
    let id = server.submit(hello("gated")).await;
    server.watch(&id).await.lacks().await;
    let request = CancelExecutionRequest { id, ..Default::default() };
    server.execution().cancel_execution(request).await.unwrap();
    let open = async || (provider(&server).await.gate_state() == GateState::Open).then_some(());
    crate::support::eventually("nothing waits any more", open).await;

    let id = server.submit(hello("gated")).await;
    server.watch(&id).await.lacks().await;
    server.stop().await;
    let backend = home.open_beside().await;
    let rows = backend.providers().await.unwrap();
    assert!(rows.iter().all(|row| row.record.shortage.is_none()), "{rows:?}");
    backend.close().await.unwrap();
    audit_is_clean(&home.url());
}

//! Watches (promise P5): whatever happens to the client or the server, what a watcher read put
//! together is the log, in order, once.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use flowgate::pb::execution_service_client::ExecutionServiceClient;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    BatchSubmitExecutionsRequest, WatchExecutionRequest, WatchExecutionResponse,
    WatchExecutionsRequest,
};
use flowgate::store::EventQuery;
use serde_json::json;
use tokio::sync::watch::{Receiver, Sender, channel};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Config, Db, TestServer, eventually, is_terminal, on_both, submit};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    three_hundred_watchers_each_read_the_log_across_a_restart;
    #[tokio::test(flavor = "multi_thread")]
    a_frozen_watcher_costs_the_others_nothing;
    #[tokio::test]
    a_paused_provider_is_told_to_those_that_wait;
    #[tokio::test]
    a_watch_from_any_cursor_goes_on_exactly_there;
    #[tokio::test]
    whoever_comes_late_gets_the_output_there_was;
    #[tokio::test]
    a_cursor_that_cannot_be_followed_is_refused;
}

const EXECUTIONS: usize = 60;
const WATCHERS: usize = 300;

async fn three_hundred_watchers_each_read_the_log_across_a_restart(db: Db) {
    let config = Config::on(db).simulated("sim", 8).env("FLOWGATE_DRAIN_TIMEOUT", "1s");
    let mut server = TestServer::start(config).await;
    let requests = (0..EXECUTIONS).map(|n| {
        let mut request = submit(
            "sim",
            json!({ "duration_ms": 150, "chunks": 3, "fail": "transient",
                    "fail_attempts": n % 3 }),
        );
        let millis = |n| Some(prost_types::Duration { seconds: 0, nanos: n * 1_000_000 });
        request.retry_policy = Some(flowgate::pb::RetryPolicy {
            initial_backoff: millis(10),
            max_backoff: millis(20),
            ..Default::default()
        });
        request
    });
    let batch = BatchSubmitExecutionsRequest { requests: requests.collect() };
    let stored = server.execution().batch_submit_executions(batch).await.unwrap().into_inner();
    let ids: Vec<_> = stored.executions.into_iter().map(|execution| execution.id).collect();

    let (address, addresses) = channel(server.grpc_addr().to_owned());
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let habit = match n {
                _ if n % 10 == 0 => Habit::Slow,
                _ if n % 3 == 0 => Habit::Reconnecting,
                _ => Habit::Steady,
            };
            let watcher =
                Watcher { id: ids[n % ids.len()].clone(), habit, addresses: addresses.clone() };
            tokio::spawn(watcher.read_to_the_end())
        })
        .collect();
    drop(addresses);
    restart_half_way(&mut server, &address).await;

    let mut read = Vec::new();
    for watcher in watchers {
        read.push(watcher.await.unwrap());
    }
    let logs = logs(&server).await;
    for (n, revisions) in read.into_iter().enumerate() {
        let id = &ids[n % ids.len()];
        assert_eq!(revisions, logs[id], "watcher {n} of {id}");
    }
}

/// Restarts the server once some executions are over and others are not.
async fn restart_half_way(server: &mut TestServer, address: &Sender<String>) {
    eventually("a third is over", async || {
        (server.status().await.succeeded_count >= 20).then_some(())
    })
    .await;
    server.sigterm();
    let status = server.wait_exit(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    server.restart().await;
    address.send_replace(server.grpc_addr().to_owned());
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Habit {
    Steady,
    Slow,
    /// Hangs up after every second message.
    Reconnecting,
}

struct Watcher {
    id: String,
    habit: Habit,
    addresses: Receiver<String>,
}

impl Watcher {
    /// Reads until the execution is over, going on with its cursor whenever the stream breaks.
    async fn read_to_the_end(mut self) -> Vec<i64> {
        let mut revisions = Vec::new();
        let (mut cursor, mut epoch) = (0, String::new());
        loop {
            match self.read(&mut revisions, &mut cursor, &mut epoch).await {
                Ok(true) => return revisions,
                Ok(false) => {}
                Err(status) => {
                    let transport = status
                        .source()
                        .and_then(|source| source.downcast_ref::<tonic::transport::Error>());
                    assert!(
                        transport.is_some() || status.code() == Code::Unavailable,
                        "{status:?}"
                    );
                    // The same address until the server is there again at another.
                    let again = Duration::from_millis(50);
                    let _ = tokio::time::timeout(again, self.addresses.changed()).await;
                }
            }
        }
    }

    async fn read(
        &self,
        revisions: &mut Vec<i64>,
        cursor: &mut i64,
        epoch: &mut String,
    ) -> Result<bool, Status> {
        let address = format!("http://{}", *self.addresses.borrow());
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let request = WatchExecutionRequest {
            id: self.id.clone(),
            after_revision: Some(*cursor),
            store_epoch: epoch.clone(),
            include_output: true,
        };
        let mut client = ExecutionServiceClient::new(channel);
        let mut stream = client.watch_execution(request).await?.into_inner();
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        let mut read = 0;
        while let Some(message) = stream.message().await? {
            if self.habit == Habit::Slow {
                pace.tick().await;
            }
            (*cursor, *epoch) = (message.revision, message.store_epoch.clone());
            match message.event {
                Some(Event::Heartbeat(_)) | None => continue,
                Some(Event::Execution(_) | Event::Output(_)) => revisions.push(message.revision),
            }
            read += 1;
            if self.habit == Habit::Reconnecting && read == 2 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The revisions of every execution, from the store itself.
async fn logs(server: &TestServer) -> BTreeMap<String, Vec<i64>> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: true, limit: u32::MAX };
    let mut logs: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in store.events(&query).await.unwrap() {
        if let Some(id) = event.execution {
            logs.entry(id.to_string()).or_default().push(event.revision);
        }
    }
    logs
}

async fn a_frozen_watcher_costs_the_others_nothing(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 2_000)).await;
    let frozen_channel = lazy(server.grpc_addr());
    let mut frozen = ExecutionServiceClient::new(frozen_channel)
        .watch_executions(WatchExecutionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    // It reads nothing from here on, but keeps the stream open.
    let before = server.resident_bytes();
    let mut last = String::new();
    for _ in 0..10 {
        let requests = (0..1_000).map(|_| submit("sim", json!({}))).collect();
        let batch = BatchSubmitExecutionsRequest { requests };
        let stored = server.execution().batch_submit_executions(batch).await.unwrap();
        last = stored.into_inner().executions.pop().unwrap().id;
    }
    assert!(is_terminal(&server.ended(&last).await));
    eventually("all are over", async || {
        (server.status().await.succeeded_count == 10_000).then_some(())
    })
    .await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 100 * 1024 * 1024, "the server grew by {grown} bytes");
    // And it has lost nothing: what it did not read is still to be read, in order.
    let mut revision = 0;
    for _ in 0..30_000 {
        let message = frozen.message().await.unwrap().unwrap();
        assert!(message.revision > revision, "{} after {revision}", message.revision);
        revision = message.revision;
    }
}

async fn a_paused_provider_is_told_to_those_that_wait(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let pause = flowgate::pb::PauseProviderRequest {
        provider: "sim".to_owned(),
        reason: "maintenance".to_owned(),
        ..Default::default()
    };
    let id = {
        let blocker = server.submit(submit("sim", json!({ "duration_ms": 600 }))).await;
        let waiting = server.submit(submit("sim", json!({}))).await;
        eventually("one runs", async || (server.status().await.running_count == 1).then_some(()))
            .await;
        server.provider().pause_provider(pause).await.unwrap();
        server.ended(&blocker.id).await;
        waiting.id
    };
    let now = server.get(&id).await;
    let reason = now.wait_reason.clone().unwrap();
    assert_eq!(reason.code(), Paused, "{now:?}");
    assert!(reason.message.contains("maintenance"), "{reason:?}");
    let resume =
        flowgate::pb::ResumeProviderRequest { provider: "sim".to_owned(), ..Default::default() };
    server.provider().resume_provider(resume).await.unwrap();
    let messages = server.watch_to_end(&id).await;
    let reasons: Vec<_> = messages
        .iter()
        .filter_map(|message| match &message.event {
            Some(Event::Execution(execution)) => Some((
                execution.state(),
                execution.wait_reason.as_ref().map(flowgate::pb::WaitStatus::code),
            )),
            _ => None,
        })
        .collect();
    use flowgate::pb::ExecutionState::{Pending, Running, Succeeded};
    use flowgate::pb::WaitReason::{Limit, Paused};
    assert_eq!(
        reasons,
        [
            (Pending, Some(Limit)),
            (Pending, Some(Paused)),
            (Pending, Some(Limit)),
            (Running, None),
            (Succeeded, None),
        ]
    );
}

async fn a_watch_from_any_cursor_goes_on_exactly_there(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let input = json!({ "chunks": 3, "duration_ms": 10 });
    let id = server.submit(submit("sim", input)).await.id;
    let all = server.watch_to_end(&id).await;
    for (index, message) in all.iter().enumerate() {
        let request = WatchExecutionRequest {
            id: id.clone(),
            after_revision: Some(message.revision),
            store_epoch: message.store_epoch.clone(),
            include_output: true,
        };
        let rest = collect(&server, request).await.unwrap();
        assert_eq!(rest, all[index + 1..], "after {}", message.revision);
    }
}

async fn whoever_comes_late_gets_the_output_there_was(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let id =
        server.submit(submit("sim", json!({ "chunks": 6_000, "duration_ms": 60_000 }))).await.id;
    let watch = |after_revision| WatchExecutionRequest {
        id: id.clone(),
        after_revision,
        include_output: true,
        ..Default::default()
    };
    let early = output(&server, watch(Some(0)), 5).await;
    // It began long ago, and there is no cursor.
    let late = output(&server, watch(None), 5).await;
    assert_eq!(early, late);
    let cancel = flowgate::pb::CancelExecutionRequest { id: id.clone(), ..Default::default() };
    server.execution().cancel_execution(cancel).await.unwrap();
}

/// The first `count` pieces of output of a watch, each with its revision.
async fn output(
    server: &TestServer,
    request: WatchExecutionRequest,
    count: usize,
) -> Vec<WatchExecutionResponse> {
    let mut stream = server.execution().watch_execution(request).await.unwrap().into_inner();
    let mut pieces = Vec::new();
    let mut revision = 0;
    while pieces.len() < count {
        let message = stream.message().await.unwrap().expect("it runs on");
        assert!(message.revision > revision, "revisions grow");
        revision = message.revision;
        if matches!(message.event, Some(Event::Output(_))) {
            pieces.push(message);
        }
    }
    pieces
}

async fn a_cursor_that_cannot_be_followed_is_refused(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 1)).await;
    let id = server.submit(submit("sim", json!({}))).await.id;
    let watch = |after, epoch: &str| WatchExecutionRequest {
        id: id.clone(),
        after_revision: Some(after),
        store_epoch: epoch.to_owned(),
        ..Default::default()
    };
    for (request, reason) in
        [(watch(1_000_000, ""), "REVISION_AHEAD"), (watch(0, "another"), "STORE_EPOCH_MISMATCH")]
    {
        let status = collect(&server, request).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, reason);
    }
}

async fn collect(
    server: &TestServer,
    request: WatchExecutionRequest,
) -> Result<Vec<WatchExecutionResponse>, Status> {
    let mut stream = server.execution().watch_execution(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn lazy(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

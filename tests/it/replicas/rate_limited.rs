//! A provider that asks to be left alone for a while, with 200 executions waiting at three replicas
//! (promise P8): as the log has it, as watches tell it, and as the provider itself saw it, which is
//! aimock with a journal of every call.

use std::time::Duration;

use flowgate::domain::{Change, Event, Timestamp};
use flowgate::pb::watch_execution_response::Event as Message;
use flowgate::pb::{
    BatchSubmitExecutionsRequest, ExecutionState, PauseProviderRequest, ResumeProviderRequest,
    RetryPolicy, SubmitExecutionRequest, WaitReason, WatchExecutionResponse,
};
use flowgate::store::EventQuery;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::providers::{self, AIMOCK, RealServer};
use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, is_terminal, on_postgres, submit,
};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    after_the_first_429_no_call_leaves_before_the_stated_time_and_nothing_is_charged;
}

const WAITING: usize = 200;
const LIMIT: usize = 12;
/// Every so many of them is watched.
const WATCHED: usize = 10;
/// What is asked for with every 429.
const RETRY_AFTER: Duration = Duration::from_secs(2);

async fn after_the_first_429_no_call_leaves_before_the_stated_time_and_nothing_is_charged() {
    let aimock = Aimock::start().await;
    aimock.refuses().await;
    let replicas = TestServer::replicas(config(&aimock.0), 3).await;
    let pause = PauseProviderRequest { provider: "remote".to_owned(), ..Default::default() };
    replicas[0].provider().pause_provider(pause).await.unwrap();
    let ids = submitted(&replicas).await;
    let watched: Vec<_> = ids.iter().step_by(WATCHED).collect();
    let watches = watched.iter().enumerate().map(|(n, id)| replicas[n % 3].watch_to_end(id));
    let (watches, ()) = join(join_all(watches), async {
        let resume = ResumeProviderRequest { provider: "remote".to_owned(), ..Default::default() };
        replicas[1].provider().resume_provider(resume).await.unwrap();
        // The one that is sent to see finds it no better; then it is.
        eventually("the gate has closed again", async || {
            (Gate::of(&log(&replicas[2]).await).closures.len() > 1).then_some(())
        })
        .await;
        aimock.answers().await;
    })
    .await;

    let mut attempts = 0;
    for (n, id) in ids.iter().enumerate() {
        let ended = replicas[n % 3].ended(id).await;
        let (tries, crashes) = (ended.attempt_count, ended.crash_count);
        assert_eq!((ended.state(), tries, crashes), (ExecutionState::Succeeded, 1, 0), "{ended:?}");
        attempts += ended.attempts.len();
    }
    let calls = aimock.calls().await;
    let refusals = calls.iter().filter(|call| call.status == 429).count();
    let gate = Gate::of(&log(&replicas[0]).await);
    println!("{refusals} calls of {} were refused: {:?}", calls.len(), gate.closures);
    assert_eq!((gate.claims, calls.len()), (attempts, attempts), "every attempt is one call");
    assert_eq!(calls.len(), WAITING + refusals);
    assert!(gate.closures[0].claims <= LIMIT, "only what was under way: {:?}", gate.closures);
    for Closure { claims, until } in &gate.closures {
        // The journal knows milliseconds, and what was under way when the gate closed may put it off.
        let (until_ms, refused, next) =
            (until.as_micros() / 1_000, &calls[claims - 1], &calls[*claims]);
        let stated_ms = refused.at_ms + i64::try_from(RETRY_AFTER.as_millis()).unwrap();
        assert!(until_ms >= stated_ms, "closed {} ms too short", stated_ms - until_ms);
        assert!(next.at_ms >= until_ms, "a call left {} ms too early", until_ms - next.at_ms);
    }
    for messages in &watches {
        saw_the_closed_gate(messages, &gate.told);
    }
    audit_is_clean(&replicas[0].store_url());
}

fn config(aimock: &RealServer) -> Config {
    let toml = format!(
        "[providers.remote]\nkind = 'openai'\nmax_concurrent = {LIMIT}\n\
         base_url = '{}/v1'\napi_key_env = 'REMOTE_KEY'",
        aimock.url
    );
    let config = Config::on(Db::Postgres).toml(&toml).env("REMOTE_KEY", aimock.key);
    config.env("FLOWGATE_SLOTS", "40")
}

/// Executions that would fail with the first attempt that is charged, from all replicas.
async fn submitted(replicas: &[TestServer]) -> Vec<String> {
    let input = json!({ "model": "m", "messages": [{ "role": "user", "content": QUESTION }] });
    let once = RetryPolicy { max_attempts: Some(1), ..Default::default() };
    let request =
        SubmitExecutionRequest { retry_policy: Some(once), ..submit("remote", input.clone()) };
    let mut ids = Vec::new();
    for (n, replica) in replicas.iter().enumerate() {
        let count = (WAITING + n) / replicas.len();
        let batch = BatchSubmitExecutionsRequest { requests: vec![request.clone(); count] };
        let reply = replica.execution().batch_submit_executions(batch).await.unwrap();
        ids.extend(reply.into_inner().executions.into_iter().map(|execution| execution.id));
    }
    assert_eq!(ids.len(), WAITING);
    ids
}

async fn log(server: &TestServer) -> Vec<Event> {
    let store = server.open_store_beside().await;
    let query = EventQuery { after: 0, execution: None, output: false, limit: u32::MAX };
    store.events(&query).await.unwrap()
}

/// A time for which the gate was closed.
#[derive(Debug)]
struct Closure {
    /// How many attempts had begun when it closed.
    claims: usize,
    until: Timestamp,
}

/// What the log says of the provider's gate.
#[derive(Default)]
struct Gate {
    /// One that is put off to a later time by what was under way is one.
    closures: Vec<Closure>,
    /// Every time that was ever stated.
    told: Vec<Timestamp>,
    claims: usize,
}

impl Gate {
    /// Panics if something was claimed that should not have been.
    fn of(log: &[Event]) -> Self {
        let mut gate = Self::default();
        let (mut closed, mut probes) = (None, None);
        for Event { revision, at, change, .. } in log {
            match change {
                Change::GateClosed { until, .. } => {
                    let claims = gate.claims;
                    if closed.is_some() {
                        gate.closures.pop();
                    }
                    gate.closures.push(Closure { claims, until: *until });
                    gate.told.push(*until);
                    (closed, probes) = (Some(*until), None);
                }
                Change::GateProbing { .. } => {
                    let until = closed.take().expect("it was closed");
                    assert!(*at >= until, "tried at {at:?}, before {until:?}");
                    probes = Some(0);
                }
                Change::GateOpened {} => probes = None,
                Change::Claimed { .. } => {
                    gate.claims += 1;
                    assert_eq!(closed, None, "claimed at revision {revision}");
                    if let Some(probes) = &mut probes {
                        *probes += 1;
                        assert_eq!(*probes, 1, "sent to see at revision {revision}");
                    }
                }
                _ => {}
            }
        }
        gate
    }
}

/// A watch told that the closed gate is what is waited for, and until when; and the end.
fn saw_the_closed_gate(messages: &[WatchExecutionResponse], told: &[Timestamp]) {
    let mut executions = messages.iter().filter_map(|message| match &message.event {
        Some(Message::Execution(execution)) => Some(execution),
        _ => None,
    });
    let mut closed = 0;
    for waits in executions.clone().filter_map(|execution| execution.wait_reason.as_ref()) {
        if waits.code() == WaitReason::GateClosed {
            let until =
                waits.until.map(|until| until.seconds * 1_000_000 + i64::from(until.nanos) / 1_000);
            // Without a time: another was sent to see whether it is over.
            let known = |until: i64| told.iter().any(|at| at.as_micros() == until);
            assert!(until.is_none_or(known), "{waits:?}");
            closed += usize::from(until.is_some());
        }
    }
    assert!(closed > 0, "a watch never said that the gate is closed: {messages:?}");
    assert!(executions.next_back().is_some_and(is_terminal));
}

/// Unlike any that aimock is started with.
const QUESTION: &str = "how busy are you";

/// aimock, which answers the question as it is told to.
struct Aimock(RealServer);

/// An entry of its journal.
#[derive(Debug)]
struct Call {
    status: i64,
    at_ms: i64,
}

impl Aimock {
    async fn start() -> Self {
        Self(RealServer::start(&AIMOCK).await)
    }

    async fn refuses(&self) {
        let error = json!({ "message": "slow down", "type": "rate_limit_error" });
        let seconds = RETRY_AFTER.as_secs();
        self.says(json!({ "error": error, "status": 429, "retryAfter": seconds })).await;
    }

    async fn answers(&self) {
        self.says(json!({ "content": "Not at all." })).await;
    }

    async fn says(&self, response: Value) {
        let fixture = json!({ "match": { "userMessage": QUESTION }, "response": response });
        let url = format!("{}/__aimock/fixtures", self.0.url);
        let http = providers::http();
        let delete = http.delete(&url).bearer_auth(self.0.key).send().await.unwrap();
        assert!(delete.status().is_success(), "{delete:?}");
        let post = http.post(&url).bearer_auth(self.0.key).json(&json!({ "fixtures": [fixture] }));
        let post = post.send().await.unwrap();
        assert!(post.status().is_success(), "{post:?}");
    }

    /// In the order in which they came.
    async fn calls(&self) -> Vec<Call> {
        let url = format!("{}/__aimock/journal?path=/v1/chat/completions", self.0.url);
        let reply = providers::http().get(url).bearer_auth(self.0.key).send().await.unwrap();
        let entries: Vec<Value> = reply.json().await.unwrap();
        let number = |entry: &Value, at: &str| entry.pointer(at).and_then(Value::as_i64).unwrap();
        let call = |entry: &Value| Call {
            status: number(entry, "/response/status"),
            at_ms: number(entry, "/timestamp"),
        };
        entries.iter().map(call).collect()
    }
}

//! What a dead provider costs the others: `cargo bench --bench isolation`.
//!
//! Each round is a server of its own on the embedded store, with steady load at three providers that
//! are well: callers that submit, watch to the end and submit again. The rounds are taken in turn:
//!
//! - nobody uses the fourth provider;
//! - 500 executions wait for the fourth, which takes calls and never answers them;
//! - the same, and it refuses to be called.
//!
//! After that time it is back, the load still on: how long until its gate is open, how many calls
//! that took, and whether all that waited for it has succeeded.
//!
//! It is dead for 10 s a round, and there are five rounds of each kind; `-- --full`: for 60 s.
//! `-- --slots N`: how many attempts the server may run at a time, 160 unless set, which is more
//! than all limits together. Nothing here passes or fails: machines differ, and the reader compares.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a benchmark, as in a test")]

#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flowgate::pb::provider_service_client::ProviderServiceClient;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    BatchSubmitExecutionsRequest, Execution, ExecutionFilter, ExecutionState, GateState,
    GetProviderRequest, ListExecutionsRequest, SubmitExecutionRequest, WatchExecutionRequest,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use support::{Server, percentile, request};

const ROUNDS: usize = 5;
const WELL: [&str; 3] = ["a", "b", "c"];
/// At each provider that is well; its limit is the same.
const CALLERS: usize = 8;
const DURATION_MS: i64 = 50;
const BACKLOG: usize = 500;
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What the fourth provider does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fourth {
    Unused,
    Silent,
    Refuses,
}

/// What a round came to.
#[derive(Default)]
struct Figures {
    /// Of those that are well, executions a second.
    throughput: f64,
    /// Of those, from submission to start.
    start_p50: Duration,
    start_p99: Duration,
    recovery: Option<Recovery>,
}

struct Recovery {
    took: Duration,
    /// Until the first was answered.
    calls: u32,
    succeeded: usize,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|it| *it != name).nth(1).cloned();
    let slots = after("--slots").unwrap_or_else(|| "160".to_owned());
    let full = arguments.iter().any(|it| it == "--full");
    let dead_for = Duration::from_secs(if full { 60 } else { 10 });
    println!("{ROUNDS} rounds in turn, dead for {dead_for:?}, {slots} slots; medians");

    let mut rounds: BTreeMap<Fourth, Vec<Figures>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for fourth in [Fourth::Unused, Fourth::Silent, Fourth::Refuses] {
            rounds.entry(fourth).or_default().push(round(fourth, dead_for, &slots).await);
        }
    }
    let unused = &rounds[&Fourth::Unused];
    let of = |rounds: &[Figures], figure: fn(&Figures) -> f64| -> f64 {
        median(rounds.iter().map(figure).collect())
    };
    let throughput: fn(&Figures) -> f64 = |figures| figures.throughput;
    let p50: fn(&Figures) -> f64 = |figures| figures.start_p50.as_secs_f64() * 1e3;
    let p99: fn(&Figures) -> f64 = |figures| figures.start_p99.as_secs_f64() * 1e3;
    for (fourth, rounds) in &rounds {
        println!("the fourth provider: {fourth:?}");
        for (what, figure) in [
            ("executions of the others, a second", throughput),
            ("submit to start p50, ms", p50),
            ("submit to start p99, ms", p99),
        ] {
            let all: Vec<String> =
                rounds.iter().map(|round| format!("{:.1}", figure(round))).collect();
            let (here, without) = (of(rounds, figure), of(unused, figure));
            let ratio = here / without;
            println!("  {what:<36} {here:>8.1}  ({ratio:.2} of unused; {})", all.join(" "));
        }
        for recovery in rounds.iter().filter_map(|round| round.recovery.as_ref()) {
            let Recovery { took, calls, succeeded } = recovery;
            println!(
                "  open {took:.1?} after it was back, by {calls} call; {succeeded} of {BACKLOG} succeeded"
            );
        }
    }
}

async fn round(fourth: Fourth, dead_for: Duration, slots: &str) -> Figures {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut dead = Dead::start(fourth).await;
    let server = start(folder.path(), dead.port, slots);
    server.status().await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = WELL
        .iter()
        .flat_map(|provider| (0..CALLERS).map(move |_| *provider))
        .map(|provider| tokio::spawn(calls(server.executions(), provider, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let (from, since) = (std::time::SystemTime::now(), Instant::now());
    if fourth != Fourth::Unused {
        let work = SubmitExecutionRequest {
            provider: "dead".to_owned(),
            input_json: r#"{"path":"/work"}"#.to_owned(),
            ..Default::default()
        };
        let batch = BatchSubmitExecutionsRequest { requests: vec![work; BACKLOG] };
        server.executions().batch_submit_executions(batch).await.expect("stored");
    }
    tokio::time::sleep(dead_for.saturating_sub(since.elapsed())).await;
    let (until, lasted) = (std::time::SystemTime::now(), since.elapsed());
    let recovery = match fourth {
        Fourth::Unused => None,
        Fourth::Silent | Fourth::Refuses => Some(recovery(&server, &mut dead).await),
    };
    stop.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for caller in callers {
        for execution in caller.await.expect("a caller goes on to the end") {
            assert_eq!(execution.state(), ExecutionState::Succeeded, "{execution:?}");
            let created = micros(execution.create_time);
            if (micros(Some(from.into()))..micros(Some(until.into()))).contains(&created) {
                let waited = micros(execution.start_time) - created;
                waits.push(Duration::from_micros(u64::try_from(waited).unwrap_or(0)));
            }
        }
    }
    waits.sort_unstable();
    let throughput = waits.len() as f64 / lasted.as_secs_f64();
    let (start_p50, start_p99) = (percentile(&waits, 50), percentile(&waits, 99));
    Figures { throughput, start_p50, start_p99, recovery }
}

fn start(folder: &Path, port: u16, slots: &str) -> Server {
    let well: String = WELL
        .iter()
        .map(|name| format!("[providers.{name}]\nkind = 'simulated'\nmax_concurrent = {CALLERS}\n"))
        .collect();
    let dead = format!(
        "[providers.dead]\nkind = 'http'\nbase_url = 'http://127.0.0.1:{port}'\n\
         max_concurrent = 100\nrun_timeout = '2s'\ngate_pause = '2s'\n"
    );
    let store = format!("sqlite://{}", folder.join("flowgate.db").display());
    Server::start(folder, &store, &(well + &dead), &["--slots", slots])
}

/// One after the other, until it is to stop.
async fn calls(
    mut client: flowgate::pb::execution_service_client::ExecutionServiceClient<
        tonic::transport::Channel,
    >,
    provider: &str,
    stop: Arc<AtomicBool>,
) -> Vec<Execution> {
    let mut ended = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let reply = client.submit_execution(request(provider, DURATION_MS)).await.expect("stored");
        let id = reply.into_inner().execution.expect("it is told").id;
        let watch = WatchExecutionRequest { id, ..Default::default() };
        let mut watch = client.watch_execution(watch).await.expect("a watch").into_inner();
        let mut last = None;
        while let Some(message) = watch.message().await.expect("it holds") {
            if let Some(Event::Execution(execution)) = message.event {
                last = Some(execution);
            }
        }
        ended.extend(last);
    }
    ended
}

/// The fourth provider is back.
async fn recovery(server: &Server, dead: &mut Dead) -> Recovery {
    let back = Instant::now();
    dead.come_back().await;
    let mut providers = ProviderServiceClient::new(server.channel.clone());
    loop {
        let request = GetProviderRequest { provider: "dead".to_owned() };
        let provider = providers.get_provider(request).await.expect("read").into_inner().provider;
        if provider.expect("it is told").gate_state() == GateState::Open {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = back.elapsed();
    let calls = dead.calls_until_answered.load(Ordering::Relaxed);
    let states = loop {
        let filter = ExecutionFilter { providers: vec!["dead".to_owned()], ..Default::default() };
        let list =
            ListExecutionsRequest { filter: Some(filter), page_size: 1_000, ..Default::default() };
        let listed = server.executions().list_executions(list).await.expect("read").into_inner();
        let states: Vec<_> = listed.executions.iter().map(Execution::state).collect();
        let live = [ExecutionState::Pending, ExecutionState::Running];
        if !states.iter().any(|state| live.contains(state)) {
            break states;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let succeeded = states.iter().filter(|state| **state == ExecutionState::Succeeded).count();
    Recovery { took, calls, succeeded }
}

/// A server that is none, until it is back.
struct Dead {
    port: u16,
    accepts: Option<JoinHandle<()>>,
    /// Calls that came before the first answer was given.
    calls_until_answered: Arc<AtomicU32>,
}

impl Dead {
    async fn start(how: Fourth) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let silent = async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
            }
        };
        // Where nobody listens, a connection is refused.
        let accepts = (how == Fourth::Silent).then(|| tokio::spawn(silent));
        Self { port, accepts, calls_until_answered: Arc::default() }
    }

    /// Listens where it did before, and answers: the first time only after a while, so that others
    /// that are sent meanwhile are counted.
    async fn come_back(&mut self) {
        if let Some(accepts) = self.accepts.take() {
            accepts.abort();
            // Its end closes the port.
            let _ = accepts.await;
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its own port");
        let calls = Arc::clone(&self.calls_until_answered);
        let answered = Arc::new(AtomicBool::new(false));
        self.accepts = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&calls), Arc::clone(&answered)));
            }
        }));
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        if let Some(accepts) = &self.accepts {
            accepts.abort();
        }
    }
}

async fn answer(mut stream: TcpStream, calls: Arc<AtomicU32>, answered: Arc<AtomicBool>) {
    let mut head = [0; 4_096];
    if stream.read(&mut head).await.is_err() {
        return;
    }
    if !answered.load(Ordering::Relaxed) {
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        answered.store(true, Ordering::Relaxed);
    }
    let said = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
                Connection: close\r\n\r\n{}";
    // Whoever has gone does not hear it.
    let _ = stream.write_all(said.as_bytes()).await;
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("it is known of what has ended");
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

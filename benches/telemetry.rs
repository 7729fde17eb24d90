//! What it costs to be seen, as ratios within one run: `cargo bench --bench telemetry`.
//!
//! Three servers on stores of their own: one with everything off (`FLOWGATE_METRICS=off`, no collector), one with
//! metrics alone, and one as it would be left on: metrics, and a tenth of all traces sent to a collector. Metrics are
//! scraped every second. One after the other works for half a second, in the order off, metrics, on, on, metrics, off,
//! again and again, and a round is compared with itself, so that what else the machine does meanwhile counts for all
//! alike. Every round has servers and stores anew. Measured over gRPC with 64 callers:
//!
//! - executions of no time, from their submission to their end;
//! - durable submits to a provider that is paused, and so nothing else.
//!
//! The collector is rotel where `tests/tools` installed it, else one in this process that takes everything. It, the load
//! and the server share the cores of this machine; the server's own CPU time, told beside each, leaves the others
//! out and is the steadier figure on a machine that is busy.
//!
//! `-- --rounds 9` for more of them; `-- --postgres` on a PostgreSQL of its own instead of SQLite.
//! Nothing here passes or fails: machines differ, and the reader compares.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a benchmark, as in a test")]

#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod support;

#[path = "support/collector.rs"]
mod collector;
/// The test suite's own throw-away PostgreSQL.
#[path = "../tests/it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
mod postgres;
#[path = "../tests/it/support/tools.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod tools;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowgate::pb::PauseProviderRequest;
use flowgate::pb::provider_service_client::ProviderServiceClient;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use collector::Collector;
use postgres::{Cluster, Database};
use support::{Server, request};

const ROUNDS: usize = 5;
const CALLERS: usize = 64;
/// Times that all take their turns in a round.
const CYCLES: usize = 4;
/// Executions in a turn.
const LIVES: usize = 2_560;
/// Of each turn before submits are counted, and for how long they are.
const LEAD: Duration = Duration::from_millis(100);
const MEASURED: Duration = Duration::from_millis(500);
const SCRAPE: Duration = Duration::from_secs(1);

const CONFIG: &str = "[providers.held]\nkind = 'simulated'\n\n\
                      [providers.quick]\nkind = 'simulated'\nmax_concurrent = 100\n";

/// What is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Off,
    Metrics,
    On,
}

const ALL: [Seen; 3] = [Seen::Off, Seen::Metrics, Seen::On];
const TURNS: [Seen; 6] = [Seen::Off, Seen::Metrics, Seen::On, Seen::On, Seen::Metrics, Seen::Off];

/// So many, in this time, for this much of the server's CPU time.
#[derive(Clone, Copy, Default)]
struct Figure {
    count: f64,
    seconds: f64,
    cpu: f64,
}

/// What a turn came to, or both of a round together.
#[derive(Clone, Copy, Default)]
struct Figures {
    lives: Figure,
    submits: Figure,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|it| *it != name).nth(1);
    let rounds = after("--rounds").map_or(ROUNDS, |it| it.parse().expect("a number of rounds"));
    let on_disk = || Cluster::durable_in(&std::env::temp_dir());
    let cluster = match arguments.iter().any(|it| it == "--postgres") {
        true => Some(tokio::task::spawn_blocking(on_disk).await.expect("a cluster")),
        false => None,
    };
    let collector = Collector::start().await;
    let store = if cluster.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("{store}, {rounds} rounds of {TURNS:?}, collector: {}; medians", collector.name);

    let mut seen: [Vec<Figures>; ALL.len()] = Default::default();
    for _ in 0..rounds {
        let figures = round(&collector, cluster.as_ref()).await;
        for (all, figures) in seen.iter_mut().zip(figures) {
            all.push(figures);
        }
    }
    println!("durable submits with {CALLERS} callers");
    print(&seen, |figures| figures.submits);
    println!("executions of no time, from their submission to their end");
    print(&seen, |figures| figures.lives);
}

impl Figure {
    fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            seconds: self.seconds + other.seconds,
            cpu: self.cpu + other.cpu,
        }
    }

    fn rate(self) -> f64 {
        self.count / self.seconds
    }

    fn cpu_micros(self) -> f64 {
        self.cpu * 1e6 / self.count
    }
}

/// A line for each of what was on; ratios are those of each round.
fn print(seen: &[Vec<Figures>; ALL.len()], of: fn(&Figures) -> Figure) {
    for (what, rounds) in ALL.iter().zip(seen) {
        let median_of = |value: fn(Figure) -> f64| {
            median(rounds.iter().map(|figures| value(of(figures))).collect())
        };
        let ratios = |value: fn(Figure) -> f64| -> Vec<f64> {
            let both = rounds.iter().zip(&seen[Seen::Off as usize]);
            both.map(|(here, off)| value(of(here)) / value(of(off))).collect()
        };
        let (rate, cpu) = (ratios(Figure::rate), ratios(Figure::cpu_micros));
        let all: Vec<String> = rate.iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!(
            "  {:<8} {:>8.0} /s  ({:.3} of off; {})  CPU {:>6.1} us each ({:.3} of off)",
            format!("{what:?}"),
            median_of(Figure::rate),
            median(rate),
            all.join(" "),
            median_of(Figure::cpu_micros),
            median(cpu),
        );
    }
}

/// What each came to in all of its turns.
async fn round(collector: &Collector, cluster: Option<&Arc<Cluster>>) -> [Figures; ALL.len()] {
    let mut subjects = Vec::new();
    for what in ALL {
        subjects.push(Subject::start(what, collector, cluster).await);
    }
    let mut figures = [Figures::default(); ALL.len()];
    for _ in 0..CYCLES {
        for what in TURNS {
            let (subject, sum) = (&mut subjects[what as usize], &mut figures[what as usize]);
            sum.lives = sum.lives.and(subject.lives().await);
        }
    }
    for _ in 0..CYCLES {
        for what in TURNS {
            let (subject, sum) = (&mut subjects[what as usize], &mut figures[what as usize]);
            sum.submits = sum.submits.and(subject.submits().await);
        }
    }
    figures
}

/// A server that is measured.
struct Subject {
    server: Server,
    scraping: Option<JoinHandle<()>>,
    /// Executions that have succeeded.
    ended: i64,
    _folder: tempfile::TempDir,
    _database: Option<Database>,
}

impl Subject {
    async fn start(what: Seen, collector: &Collector, cluster: Option<&Arc<Cluster>>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = match cluster {
            Some(cluster) => Some(cluster.database().await),
            None => None,
        };
        let file = || format!("sqlite://{}", folder.path().join("flowgate.db").display());
        let store = database.as_ref().map_or_else(file, Database::url);
        let server = start(what, collector, folder.path(), &store);
        let pause = PauseProviderRequest { provider: "held".to_owned(), ..Default::default() };
        let mut providers = ProviderServiceClient::new(server.channel.clone());
        providers.pause_provider(pause).await.expect("it is paused");
        let scraping = (what != Seen::Off).then(|| tokio::spawn(scrape(server.http.clone())));
        Self { server, scraping, ended: 0, _folder: folder, _database: database }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(scraping) = &self.scraping {
            assert!(!scraping.is_finished(), "metrics were scraped to the end");
            scraping.abort();
        }
    }
}

fn start(what: Seen, collector: &Collector, folder: &Path, store: &str) -> Server {
    let off = [("FLOWGATE_METRICS", "off")];
    let on = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let variables: &[_] = match what {
        Seen::Off => &off,
        Seen::Metrics => &[],
        Seen::On => &on,
    };
    Server::start_with(folder, store, CONFIG, &[], variables)
}

impl Subject {
    /// Executions that end as soon as they begin.
    async fn lives(&mut self) -> Figure {
        let server = &self.server;
        let (began, cpu) = (Instant::now(), server.cpu_seconds());
        let callers = (0..CALLERS).map(|_| {
            let mut client = server.executions();
            async move {
                for _ in 0..LIVES / CALLERS {
                    client.submit_execution(request("quick", 0)).await.expect("stored");
                }
            }
        });
        join_all(callers).await;
        let count = LIVES / CALLERS * CALLERS;
        self.ended += i64::try_from(count).expect("a small number");
        while server.status().await.succeeded_count < self.ended {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), server.cpu_seconds() - cpu);
        Figure { count: count as f64, seconds, cpu }
    }

    /// Submissions that nothing comes of.
    async fn submits(&self) -> Figure {
        let (stop, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let mut client = self.server.executions();
                let (stop, stored) = (Arc::clone(&stop), Arc::clone(&stored));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        client.submit_execution(request("held", 0)).await.expect("stored");
                        stored.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let look = || (Instant::now(), stored.load(Ordering::Relaxed), self.server.cpu_seconds());
        tokio::time::sleep(LEAD).await;
        let (began, before, cpu_before) = look();
        tokio::time::sleep(MEASURED).await;
        let (ended, after, cpu_after) = look();
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.expect("a caller goes on to the end");
        }
        let seconds = (ended - began).as_secs_f64();
        Figure { count: (after - before) as f64, seconds, cpu: cpu_after - cpu_before }
    }
}

/// Reads metrics as Prometheus does, for ever.
async fn scrape(address: String) {
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Accept: application/openmetrics-text;version=1.0.0\r\n\r\n"
    );
    let mut turns = tokio::time::interval(SCRAPE);
    loop {
        turns.tick().await;
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

//! A real Prometheus looks at real servers: it finds every metric that the docs name and no other, counts
//! what was done, knows examples with their traces, answers every query of the dashboard and the docs, and
//! its alerts fire when what they are for comes about.
//!
//! Rules and queries by themselves are checked by `tests/prometheus/check`, which says how. Whether a store
//! is a file or a database shows in nothing but the lanes of its writers; so each test has the store that
//! suits it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flowgate::pb::{
    CancelExecutionRequest, GetExecutionRequest, PauseProviderRequest, RetryPolicy,
    SubmitExecutionRequest,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request};

use crate::support::providers::{Port, http};
use crate::support::{Config, Db, TestServer, eventually, submit, tools};

/// The trace that a client brings along.
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
/// Above all a Prometheus needs to see something: some scrapes, and some evaluations of the rules.
const SEEN_DEADLINE: Duration = Duration::from_secs(60);
/// What [`all_sorts`] leaves behind: executions that succeeded, failed and were cancelled.
const ENDED: [(&str, f64); 3] = [("succeeded", 5.0), ("failed", 1.0), ("cancelled", 1.0)];

#[test]
fn alerts_and_dashboard_name_what_there_is() {
    said_nothing_wrong(&check().output().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_shows_is_well_formed_and_what_the_docs_say() {
    let mut shown = Vec::new();
    let dir = TempDir::new().unwrap();
    for db in [Db::Sqlite, Db::Postgres] {
        let server = TestServer::start(config(db)).await;
        all_sorts(&server).await;
        eventually("the pause is shown", async || {
            let shown = metrics(&server, "text/plain").await;
            let paused = "flowgate_provider_gate{provider=\"still\",state=\"paused\"} 1\n";
            shown.contains(paused).then_some(())
        })
        .await;
        let text = metrics(&server, "text/plain; version=0.0.4").await;
        assert!(!text.contains("# EOF"), "this is OpenMetrics");
        lint(&dir, &text);
        let open_metrics = metrics(&server, "application/openmetrics-text; version=1.0.0").await;
        assert!(open_metrics.ends_with("# EOF\n"), "this is not OpenMetrics");
        assert!(open_metrics.contains(&format!("trace_id=\"{TRACE_ID}\"")), "{open_metrics}");
        for (format, text) in [("text", text), ("open", open_metrics)] {
            let file = dir.path().join(format!("{db:?}.{format}"));
            std::fs::write(&file, text).unwrap();
            shown.push(file);
        }
    }
    said_nothing_wrong(&check().args(shown).output().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_sees_what_was_done_and_raises_alerts() {
    let mut replicas = TestServer::replicas(config(Db::Postgres), 2).await;
    // The gate of one provider is closed before anybody looks, and work waits for it.
    let rate_limit = json!({ "fail": "rate_limited", "retry_after_ms": 600_000 });
    for _ in 0..2 {
        replicas[0].submit(submit("shut", rate_limit.clone())).await;
    }
    let prometheus = Prometheus::of(&replicas);
    prometheus.sees("both replicas", "sum(up) == 2").await;
    prometheus.sees("both are ready", "sum(flowgate_ready) == 2").await;

    for replica in &replicas {
        all_sorts(replica).await;
    }
    for (state, count) in ENDED {
        let count = 2.0 * count;
        let ended = format!("sum(flowgate_executions_total{{state=\"{state}\"}}) == {count}");
        prometheus.sees("what ended, on both together", &ended).await;
    }
    // Each replica tells of what waits for the provider that is paused, whoever took it.
    let waits = "flowgate_executions_pending{provider=\"still\"}";
    prometheus
        .sees("the same from both", &format!("min({waits}) == 2 and max({waits}) == 2"))
        .await;
    let quantile =
        "histogram_quantile(0.9, sum by (le) (rate(flowgate_attempt_duration_seconds_bucket[1m])))";
    prometheus.sees("a quantile", &format!("{quantile} > 0")).await;
    let exemplars = "/api/v1/query_exemplars?query=flowgate_attempt_duration_seconds_bucket";
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let exemplars = format!("{exemplars}&start={}&end={}", now - 600, now + 600);
    prometheus
        .eventually("an example", &exemplars, |data| data.to_string().contains(TRACE_ID))
        .await;

    prometheus.fires("FlowgateProviderPaused", &[("provider", "still")]).await;
    prometheus.fires("FlowgateGateClosed", &[("provider", "shut")]).await;
    let url = prometheus.url.clone();
    let asked = tokio::task::spawn_blocking(move || check().args(["--ask", &url]).output());
    said_nothing_wrong(&asked.await.unwrap().unwrap());

    // A replica dies under its work, and the other takes it over.
    let long = replicas[0].submit(submit("sim", json!({ "duration_ms": 60_000 }))).await;
    let gone = replicas.remove(who_runs(&replicas, &long.id).await);
    let address = gone.http_addr().to_owned();
    drop(gone);
    prometheus.fires("FlowgateReplicaDown", &[("instance", &address)]).await;
    prometheus.fires("FlowgateLeaseLosses", &[("provider", "sim"), ("loss", "reclaimed")]).await;
    replicas.clear();
    prometheus.fires("FlowgateDown", &[("job", "flowgate")]).await;
}

fn config(db: Db) -> Config {
    let config = Config::on(db).simulated("sim", 3).simulated("still", 1).simulated("shut", 1);
    config.lease("2s")
}

/// Has a server do a little of everything, and waits until it has: what succeeds, fails, is tried again, is
/// turned away, is cancelled, is refused, and waits for a provider that is paused.
async fn all_sorts(server: &TestServer) {
    let pause = PauseProviderRequest { provider: "still".to_owned(), ..Default::default() };
    server.provider().pause_provider(pause).await.unwrap();
    server.submit(submit("still", json!({}))).await;
    let soon = RetryPolicy {
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        ..Default::default()
    };
    let mut sorts = Vec::new();
    for input in [
        json!({ "duration_ms": 5, "chunks": 3 }),
        json!({ "duration_ms": 20 }),
        json!({ "fail": "permanent" }),
        json!({ "fail": "transient", "fail_attempts": 1 }),
        json!({ "fail": "rate_limited", "fail_attempts": 1, "retry_after_ms": 10 }),
    ] {
        let request =
            SubmitExecutionRequest { retry_policy: Some(soon.clone()), ..submit("sim", input) };
        sorts.push(server.submit(request).await.id);
    }
    let mut traced = Request::new(submit("sim", json!({ "duration_ms": 300 })));
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    traced.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let traced = server.execution().submit_execution(traced).await.unwrap().into_inner();
    sorts.push(traced.execution.unwrap().id);
    let long = server.submit(submit("sim", json!({ "duration_ms": 60_000 }))).await.id;
    let cancel = CancelExecutionRequest { id: long.clone(), reason: String::new() };
    server.execution().cancel_execution(cancel).await.unwrap();
    sorts.push(long);
    for id in &sorts {
        server.ended(id).await;
    }
    let unknown = "01890000-0000-7000-8000-000000000000".to_owned();
    let unknown = GetExecutionRequest { id: unknown, ..Default::default() };
    let refused = server.execution().get_execution(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

/// Which of the replicas runs what is the only work there is.
async fn who_runs(replicas: &[TestServer], id: &str) -> usize {
    let running = async || {
        for (index, replica) in replicas.iter().enumerate() {
            let shown = metrics(replica, "text/plain").await;
            if shown.contains("\nflowgate_pool_active 1\n") {
                return Some(index);
            }
        }
        None
    };
    eventually(&format!("a replica runs {id}"), running).await
}

/// What a server shows to somebody who takes this format.
async fn metrics(server: &TestServer, accept: &str) -> String {
    let url = format!("http://{}/metrics", server.http_addr());
    let reply = http().get(url).header("accept", accept).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let told = reply.headers()["content-type"].to_str().unwrap().to_owned();
    let format = accept.split(';').next().unwrap();
    assert!(told.starts_with(format), "{accept} was asked for, and {told} answered");
    reply.text().await.unwrap()
}

/// `promtool check metrics`, which must have nothing to say.
fn lint(dir: &TempDir, text: &str) {
    let file = dir.path().join("metrics");
    std::fs::write(&file, text).unwrap();
    let mut promtool = Command::new(tools::promtool());
    promtool.args(["check", "metrics"]).stdin(File::open(file).unwrap());
    let output = promtool.output().unwrap();
    said_nothing_wrong(&output);
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

/// `tests/prometheus/check`, which says what it checks.
fn check() -> Command {
    tools::promtool();
    let mut check = Command::new(tools::repository("tests/prometheus/check"));
    check.stdin(Stdio::null());
    check
}

fn said_nothing_wrong(output: &Output) {
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let all = said(&output.stdout) + &said(&output.stderr);
    assert!(output.status.success(), "{}:\n{all}", output.status);
}

/// A Prometheus of one's own; gone when it is dropped.
struct Prometheus {
    process: Child,
    url: String,
    _port: Port,
    dir: TempDir,
}

impl Prometheus {
    /// Looks at these servers every second, and has the alerts, which wait for nothing here.
    fn of(servers: &[TestServer]) -> Self {
        let dir = TempDir::new().unwrap();
        let targets: Vec<&str> = servers.iter().map(TestServer::http_addr).collect();
        let rules = dir.path().join("alerts.yaml");
        std::fs::write(&rules, impatient(&tools::repository("helm/flowgate/files/alerts.yaml")))
            .unwrap();
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [
                { "job_name": "flowgate", "static_configs": [{ "targets": targets }] },
            ],
        });
        // JSON is YAML, too.
        let file = dir.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let port = Port::take();
        let process = Command::new(tools::prometheus())
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number))
            .args(["--enable-feature=exemplar-storage", "--log.level=warn"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("prometheus can be run");
        Self { process, url: port.url(), _port: port, dir }
    }

    /// Waits until a query has an answer.
    async fn sees(&self, what: &str, query: &str) {
        let path = format!("/api/v1/query?{}", encoded("query", query));
        let found = |data: &Value| data["result"].as_array().is_some_and(|found| !found.is_empty());
        self.eventually(&format!("{what}: {query}"), &path, found).await;
    }

    /// Waits until an alert with these labels fires.
    async fn fires(&self, alert: &str, labels: &[(&str, &str)]) {
        let fires = |data: &Value| {
            let alerts = data["alerts"].as_array().into_iter().flatten();
            let mut firing =
                alerts.filter(|one| one["state"] == "firing").map(|one| &one["labels"]);
            firing.any(|found| {
                found["alertname"] == alert
                    && labels.iter().all(|(name, value)| found[name] == *value)
            })
        };
        self.eventually(&format!("{alert} of {labels:?}"), "/api/v1/alerts", fires).await;
    }

    /// Asks again until the answer is as it should be.
    async fn eventually(&self, what: &str, path: &str, is_so: impl Fn(&Value) -> bool) {
        let until = Instant::now() + SEEN_DEADLINE;
        let client = http();
        loop {
            let said = match client.get(format!("{}{path}", self.url)).send().await {
                Ok(reply) => reply.json().await.unwrap_or(Value::Null),
                Err(_not_up_yet) => Value::Null,
            };
            if is_so(&said["data"]) {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(Instant::now() < until, "not seen: {what}\n{said}\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A rule file in which no alert waits.
fn impatient(rules: &Path) -> String {
    let rules = std::fs::read_to_string(rules).unwrap();
    let lines = rules.lines().map(|line| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn encoded(name: &str, value: &str) -> String {
    let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
    format!("{name}={value}")
}

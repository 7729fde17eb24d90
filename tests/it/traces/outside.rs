//! All of it with programs by others: a Python client with the OpenTelemetry SDK, rotel as the
//! collector, llama.cpp as the provider, and two replicas.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{attempt, child, traceparent};
use crate::support::collector::{Collector, Span};
use crate::support::rotel::Rotel;
use crate::support::{Config, Db, TestServer, eventually, providers, submit, tools};

const SUBMIT: &str = "flowgate.v1.ExecutionService/SubmitExecution";

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_holds_what_a_client_two_replicas_and_a_model_did_for_an_execution() {
    let llama = providers::llama().await;
    let collector = Collector::start().await;
    let rotel = Rotel::before(&collector).await;
    let front = Front::of(&llama.url).await;
    let config = |name: &str| {
        let model = format!(
            "[providers.llama]\nkind = 'openai'\nbase_url = '{}/v1'\napi_key_env = 'LLAMA_KEY'\n\
             gate_failures = 0\n[providers.llama.retry]\ninitial_backoff = '200ms'\n",
            front.url
        );
        Config::on(Db::Postgres)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &rotel.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .env("OTEL_SERVICE_NAME", name)
            .env("NO_PROXY", "localhost,127.0.0.1")
            .env("LLAMA_KEY", llama.key)
            .toml(&model)
    };
    // The only slot of the first is taken for as long as the test lasts.
    let first = TestServer::start(config("replica A").simulated("long", 1).toml("").pool(1, 1));
    let first = first.await;
    let long = first.submit(submit("long", json!({ "duration_ms": 600_000 }))).await;
    eventually("the slot is taken", async || first.get(&long.id).await.start_time).await;

    let told = client(&first, &rotel).await;
    let (id, trace) = (told["id"].as_str().unwrap(), told["trace_id"].as_str().unwrap());
    assert_eq!(first.get(id).await.attempts, [], "there is nobody to run it yet");
    let second = first.start_beside(config("replica B")).await;
    let ended = second.ended(id).await;
    assert_eq!(ended.trace_id, trace);
    assert_eq!(ended.attempts.len(), 2, "{ended:?}");
    let usage = ended.attempts[1].usage.expect("llama.cpp counts tokens");

    // The client's own.
    let job = collector.span("nightly job", |span| span.trace == trace).await;
    assert_eq!((job.service.as_str(), job.parent.as_str()), ("outside client", ""));
    let called = collector.span(&format!("/{SUBMIT}"), |span| span.parent == job.id).await;
    assert_eq!((called.service.as_str(), called.kind), ("outside client", "client"));

    // What the first replica did.
    let rpc = child(&collector, SUBMIT, &called).await;
    assert_eq!((rpc.service.as_str(), rpc.kind, rpc.is_error), ("replica A", "server", false));
    assert!(rpc.is("rpc.system.name", "grpc") && rpc.is("rpc.response.status_code", "OK"));
    let submitted = child(&collector, "submit", &rpc).await;
    assert_eq!((submitted.service.as_str(), submitted.kind), ("replica A", "producer"));
    assert!(submitted.is("execution.id", id) && submitted.is("provider", "llama"));
    assert_eq!(told["traceparent"], traceparent(&submitted).as_str());

    // What the second did.
    let mut attempts = Vec::new();
    for number in [1, 2] {
        let is_its = |span: &Span| span.is("attempt", number) && span.is("execution.id", id);
        let waited = collector.span("queue wait", is_its).await;
        assert_eq!((&waited.parent, &waited.trace), (&submitted.id, &submitted.trace));
        let attempt = attempt(&collector, id, number).await;
        assert_eq!((&attempt.parent, attempt.kind), (&submitted.id, "consumer"));
        let link = attempt.link("claim").expect("it links to its claim");
        let claim = collector.span("claim", |span| span.id == link.id).await;
        assert!(claim.trace != trace && claim.trace == link.trace);
        let call = child(&collector, "chat tiny", &attempt).await;
        assert!(call.is("gen_ai.operation.name", "chat") && call.is("provider", "llama"));
        assert!(call.is("gen_ai.provider.name", "openai"));
        let http = child(&collector, "POST", &call).await;
        assert!(http.is("http.response.status_code", if number == 1 { 500 } else { 200 }));
        let settled = child(&collector, "settle", &attempt).await;
        for span in [&waited, &attempt, &claim, &call, &http, &settled] {
            assert_eq!(span.service, "replica B", "{span:?}");
        }
        for span in [&attempt, &call, &http] {
            assert_eq!(span.is_error, number == 1, "{span:?}");
        }
        assert!(waited.end <= settled.start && call.start >= attempt.start);
        attempts.push((waited, attempt, call));
    }
    let [(first_wait, failed, _), (second_wait, succeeded, call)] = &attempts[..] else {
        unreachable!("two were looked at")
    };
    // Waits are on the store's clock, all else is on that of the replica.
    let a_second = 1_000_000_000;
    assert!(first_wait.start.abs_diff(submitted.start) < a_second, "{first_wait:?} {submitted:?}");
    assert!(first_wait.end < second_wait.start, "{first_wait:?} {second_wait:?}");
    assert!(second_wait.end - second_wait.start < a_second, "from when the backoff was over");
    assert!(failed.is("outcome", "retried") && succeeded.is("outcome", "succeeded"));
    let link = succeeded.link("attempt before").expect("it links to the first");
    assert_eq!((&link.trace, &link.id), (&failed.trace, &failed.id));
    assert_eq!(call.get("gen_ai.usage.output_tokens"), json!(8));
    assert!(call.is("gen_ai.usage.input_tokens", usage.input_tokens) && usage.input_tokens > 0);
    assert!(call.is("gen_ai.response.finish_reasons", json!(["length"])), "{call:?}");

    // Nothing else is in the trace, and what the spans of it are is known.
    let whole = collector.wait(|spans| {
        let of_it: Vec<_> = spans.iter().filter(|span| span.trace == trace).collect();
        (of_it.len() >= 14).then(|| of_it.iter().map(|span| span.name.clone()).collect::<Vec<_>>())
    });
    let mut names = whole.await.unwrap_or_else(|| panic!("some are lost: {}", rotel.log()));
    names.sort_unstable();
    let twice = ["POST", "attempt", "chat tiny", "queue wait", "settle"];
    let once = [format!("/{SUBMIT}"), SUBMIT.to_owned(), "nightly job".into(), "submit".into()];
    let mut expected: Vec<_> = once.into_iter().collect();
    expected.extend(twice.iter().chain(&twice).map(|&name| name.to_owned()));
    expected.sort_unstable();
    assert_eq!(names, expected);
}

/// Has the outside client submit; returns what it was told.
async fn client(server: &TestServer, rotel: &Rotel) -> Value {
    let python = tools::python();
    let program = tools::repository("tests/clients/python/traced_client.py");
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let input = json!({ "model": "tiny", "max_tokens": 8, "temperature": 0, "messages": messages });
    let submission = json!({ "provider": "llama", "input": input });
    let mut command = tokio::process::Command::new(python);
    // -B: no compiled copy beside the source.
    command.arg("-B").arg(program).arg(server.grpc_addr()).arg(rotel.url());
    command.arg(submission.to_string()).env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output());
    let output = output.await.expect("the client ends").expect("python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// What stands before a server: turns the first connection away, and leads all others to it.
struct Front {
    url: String,
    serves: JoinHandle<()>,
}

impl Front {
    async fn of(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let server = url.trim_start_matches("http://").to_owned();
        let serves = tokio::spawn(async move {
            turn_away(&mut listener.accept().await.unwrap().0).await;
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    // Either may hang up at any time.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { url: own, serves }
    }
}

async fn turn_away(client: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(client.read_buf(&mut head).await.unwrap(), 0, "a request comes whole");
    }
    let no =
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(no).await.unwrap();
    client.shutdown().await.unwrap();
    // Closed with something unread, the connection would be reset, and the answer with it.
    let _ = client.read_to_end(&mut head).await;
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

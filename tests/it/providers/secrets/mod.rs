//! No key is seen in anything that Flowgate writes, stores or says, whatever a server does with it.

mod echoes;

use std::path::Path;
use std::sync::{Arc, Mutex};

use flowgate::pb::output_chunk::Content;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    CancelExecutionRequest, ExecutionView, GetProviderRequest, ListExecutionsRequest,
    ListProvidersRequest, ListWorkersRequest, RetryPolicy, WatchExecutionResponse,
    WatchExecutionsRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::providers::{Replay, Reply};
use crate::support::{Config, TestServer, eventually, submit};
use echoes::{ECHOES, Echo};

/// Half of it would be too much to see; so this is looked for.
const TELLTALE: &str = "canary-7f3a9c1";
/// The same in a name of the environment, where no dash may stand.
const TELLTALE_NAME: &str = "CANARY_7F3A9C1";

/// A provider to try.
struct Kind {
    kind: &'static str,
    /// By what way it gets its key.
    credential: &'static str,
    /// What makes it ask.
    input: fn() -> Value,
    content_type: &'static str,
    /// What it asks for, below its base URL; a `*` stands for any one segment.
    routes: &'static [&'static str],
    /// What is answered properly, so that it goes on to ask for the rest.
    begins: &'static [(&'static str, &'static str)],
}

const OPENAI: Kind = Kind {
    kind: "openai",
    credential: "api_key_env = 'THE_KEY'",
    input: chat,
    content_type: "text/event-stream",
    routes: &[
        "POST /v1/chat/completions",
        "POST /v1/responses",
        "GET /v1/responses/*",
        "POST /v1/responses/*/cancel",
    ],
    begins: &[],
};

const CLAUDE: Kind = Kind { kind: "claude", routes: &["POST /v1/messages"], ..OPENAI };

const OLLAMA: Kind = Kind {
    kind: "ollama",
    credential: "api_key_file = 'key'",
    content_type: "application/x-ndjson",
    routes: &["POST /api/chat", "POST /api/generate"],
    ..OPENAI
};

const HTTP: Kind = Kind {
    kind: "http",
    input: || json!({ "path": "/x", "body": {} }),
    content_type: "text/plain",
    routes: &["POST /x"],
    ..OPENAI
};

const LANGFLOW: Kind = Kind {
    kind: "langflow",
    input: || json!({ "flow_id": "0b1c2d3e-0000-4000-8000-000000000001", "input_value": "hi" }),
    routes: &[
        "POST /api/v2/workflows",
        "GET /api/v2/workflows",
        "GET /api/v2/workflows/*/events",
        "POST /api/v2/workflows/stop",
    ],
    ..OPENAI
};

const N8N: Kind = Kind {
    kind: "n8n",
    input: || json!({ "webhook": "x", "body": {} }),
    content_type: "application/json",
    routes: &["POST /webhook/x", "GET /api/v1/executions/*", "POST /api/v1/executions/*/stop"],
    ..OPENAI
};

const LANGGRAPH: Kind = Kind {
    kind: "langgraph",
    input: || json!({ "assistant_id": "echo", "input": {} }),
    routes: &[
        "POST /threads",
        "GET /threads/*/runs",
        "POST /threads/*/runs",
        "GET /threads/*/runs/*",
        "GET /threads/*/runs/*/stream",
        "GET /threads/*/runs/*/join",
        "GET /threads/*/state",
        "POST /threads/*/runs/*/cancel",
    ],
    ..OPENAI
};

/// Every way in which Flowgate reaches a server with a key. To try another kind, add it.
const KINDS: &[Kind] = &[
    OPENAI,
    Kind { credential: "api_key_file = 'key'", input: response, ..OPENAI },
    Kind { credential: "api_key_file = 'key'", input: background, ..OPENAI },
    Kind {
        input: background,
        begins: &[("POST /v1/responses", r#"{"id":"resp_1","status":"queued"}"#)],
        ..OPENAI
    },
    CLAUDE,
    Kind {
        credential: "headers = { Authorization = 'Bearer canary-7f3a9c1-of-a-header' }",
        ..CLAUDE
    },
    OLLAMA,
    Kind { credential: "headers = { x-proof = { env = 'THE_KEY' } }", input: generate, ..OLLAMA },
    HTTP,
    Kind {
        credential: "headers = { x-proof = { file = 'key' }, x-more = 'Bearer canary-7f3a9c1-bare' }",
        content_type: "application/octet-stream",
        ..HTTP
    },
    LANGFLOW,
    Kind {
        begins: &[("POST /api/v2/workflows", r#"{"job_id":"j","object":"job","status":"queued"}"#)],
        ..LANGFLOW
    },
    N8N,
    Kind { begins: &[("POST /webhook/x", r#"{"executionId":"4"}"#)], ..N8N },
    Kind { credential: "headers = { x-hook-key = { env = 'THE_KEY' } }", ..N8N },
    LANGGRAPH,
    Kind {
        begins: &[
            ("POST /threads", r#"{"thread_id":"t"}"#),
            ("GET /threads/*/runs", "[]"),
            ("POST /threads/*/runs", r#"{"run_id":"r","status":"pending"}"#),
        ],
        ..LANGGRAPH
    },
];

fn chat() -> Value {
    json!({ "model": "m", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] })
}

fn generate() -> Value {
    json!({ "model": "m", "prompt": "hi" })
}

fn response() -> Value {
    json!({ "model": "m", "input": "hi" })
}

fn background() -> Value {
    json!({ "model": "m", "input": "hi", "background": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_seen_nowhere() {
    let replay = Replay::start().await;
    let tried = || {
        let kinds =
            (0..KINDS.len()).flat_map(|kind| (0..ECHOES.len()).map(move |echo| (kind, echo)));
        kinds.map(|(kind, echo)| (format!("p{kind}-{echo}"), &KINDS[kind], echo))
    };
    let mut toml = String::new();
    for (name, Kind { kind, credential, .. }, _) in tried() {
        let path = if *kind == "openai" { "/v1" } else { "" };
        toml += &format!(
            "[providers.{name}]\nkind = '{kind}'\nbase_url = '{}/{name}{path}'\n\
             gate_failures = 0\n{credential}\n",
            replay.url()
        );
    }
    let (collector, traced) = collector().await;
    // Everything that any crate has to say.
    let config = Config::new()
        .toml(&toml)
        .env("FLOWGATE_LOG_LEVEL", "trace,flowgate=trace")
        .env("THE_KEY", "canary-7f3a9c1-of-the-environment")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let server = TestServer::start(config).await;
    // Read whenever it is needed: so it may come after the start, and change.
    let write_key = |key: &str| std::fs::write(server.dir().join("key"), key).unwrap();
    write_key("canary-7f3a9c1-of-the-file\n");

    let mut said = String::new();
    // Side by side, since work that is asked after goes on in spite of all this; but not all of it,
    // since some of it is large.
    let turns: Vec<usize> = (0..ECHOES.len()).collect();
    for turns in turns.chunks(6) {
        let mut ids = Vec::new();
        for (name, kind, echo) in tried().filter(|(.., echo)| turns.contains(echo)) {
            script(&replay, &name, kind, ECHOES[echo]);
            let mut request = submit(&name, (kind.input)());
            request.retry_policy =
                Some(RetryPolicy { max_attempts: Some(1), ..Default::default() });
            request.run_timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
            ids.push(server.submit(request).await.id);
        }
        // A key that is exchanged in the middle of an attempt is still one.
        write_key(&format!("canary-7f3a9c1-of-the-file-{}\n", turns[0]));
        for id in ids {
            // Limited, it would wait for hours.
            eventually("its first attempt is over", async || {
                server.get(&id).await.attempts.first()?.end_time
            })
            .await;
            let cancel = CancelExecutionRequest { id: id.clone(), ..Default::default() };
            server.execution().cancel_execution(cancel).await.unwrap();
            let messages = server.watch_to_end(&id).await;
            said += &format!("{messages:?}\n{}\n", texts(&messages));
            said += &format!("{:?}\n", server.get(&id).await);
        }
    }
    assert!(replay.requests().len() >= ECHOES.len() * KINDS.len());
    assert!(said.matches("[redacted]").count() > 500, "there is something to take out");
    said += &everything_that_is_told(&server, &replay).await;
    check("what is told", said.as_bytes());

    let log = server.stderr_log();
    assert!(log.contains("hyper"), "the log is one of everything");
    check("the log", log.as_bytes());
    eventually("a trace", async || {
        let traced = traced.lock().unwrap();
        traced.windows(7).any(|part| part == b"attempt").then_some(())
    })
    .await;
    check("the traces", &traced.lock().unwrap());
    let audit = std::process::Command::new(env!("CARGO_BIN_EXE_flowgate"))
        .args(["audit", "--store", &server.store_url()])
        .output()
        .unwrap();
    check("the audit", &[audit.stdout, audit.stderr].concat());
    let mut looked_at = 0;
    look_into(server.dir(), &mut looked_at);
    assert!(looked_at >= 3, "the database, what it wrote ahead, and the logs");
}

/// Says what is to be said to one provider: the same to all that it asks, but for how it begins.
fn script(replay: &Replay, name: &str, kind: &'static Kind, echo: Echo) {
    for route in kind.routes {
        let begins = kind.begins.iter().find(|(begins, _)| begins == route);
        let reply = match begins {
            Some((_, body)) => Reply::new(200, "application/json", *body),
            None => Reply::computed(move |request| echo(request, kind.content_type)),
        };
        let (method, path) = route.split_once(' ').unwrap();
        replay.always(&format!("{method} /{name}{path}"), reply);
    }
}

async fn everything_that_is_told(server: &TestServer, replay: &Replay) -> String {
    let list = ListExecutionsRequest {
        page_size: 1_000,
        view: ExecutionView::Full.into(),
        ..Default::default()
    };
    let mut said = format!("{:?}", server.execution().list_executions(list).await.unwrap());
    said +=
        &format!("{:?}", server.provider().list_providers(ListProvidersRequest {}).await.unwrap());
    let one = GetProviderRequest { provider: "p0-0".to_owned() };
    said += &format!("{:?}", server.provider().get_provider(one).await.unwrap());
    said += &format!("{:?}", server.status().await);
    said += &format!(
        "{:?}",
        server.system().list_workers(ListWorkersRequest::default()).await.unwrap()
    );
    let watch = WatchExecutionsRequest {
        after_revision: Some(0),
        view: ExecutionView::Full.into(),
        ..Default::default()
    };
    let mut watch = server.execution().watch_executions(watch).await.unwrap().into_inner();
    let head = server.status().await.store.unwrap().revision;
    while let Some(message) = watch.message().await.unwrap() {
        said += &format!("{message:?}");
        // Pieces of output are not told here, and the last changes may be such.
        if message.revision >= head - 200 {
            break;
        }
    }
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        said += &server.http_get(path).await.1;
    }
    // A bad submission is answered without it, too.
    let refused = server.execution().submit_execution(submit("p0-0", json!({}))).await.unwrap_err();
    said += &format!("{refused:?} {}", replay.url());
    said
}

/// A collector that writes down all that it is sent and answers nothing.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let into = Arc::clone(&into);
            tokio::spawn(async move {
                // An empty SETTINGS frame, so that the client goes on.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut buffer = vec![0; 65_536];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    into.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            });
        }
    });
    (url, received)
}

/// The pieces of output, put together as a client does.
fn texts(messages: &[WatchExecutionResponse]) -> String {
    let mut texts = String::new();
    for message in messages {
        if let Some(Event::Output(chunk)) = &message.event
            && let Some(Content::Text(text)) = &chunk.content
        {
            texts += text;
        }
    }
    texts
}

fn look_into(folder: &Path, looked_at: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            look_into(&path, looked_at);
        } else if name != "key" && name != "flowgate.toml" {
            check(&name, &std::fs::read(&path).unwrap());
            *looked_at += 1;
        }
    }
}

fn check(what: &str, text: &[u8]) {
    use base64::Engine as _;
    // The library's search is compiled for speed, and logs of everything are long.
    let text = String::from_utf8_lossy(text);
    for telltale in [TELLTALE, TELLTALE_NAME] {
        if let Some(at) = text.find(telltale) {
            let before: String = text[..at].chars().rev().take(300).collect();
            let before: String = before.chars().rev().collect();
            panic!("the key is in {what}, after {before}");
        }
    }
    for shift in 0..3 {
        // However it falls, the middle of the key looks the same in base64.
        let encoded = base64::engine::general_purpose::STANDARD.encode(&TELLTALE[shift..]);
        assert!(!text.contains(&encoded[..12]), "the key is in {what}, in base64");
    }
}

/// A key where its name should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_place_of_its_name_is_not_repeated() {
    for setting in [
        format!("api_key_env = '{TELLTALE_NAME}'"),
        format!("api_key_file = '{TELLTALE}'"),
        format!("headers = {{ x-a = {{ env = '{TELLTALE_NAME}' }} }}"),
        format!("headers = {{ x-a = {{ file = '{TELLTALE}' }} }}"),
    ] {
        let toml =
            format!("[providers.p]\nkind = 'ollama'\nbase_url = 'http://127.0.0.1:9'\n{setting}");
        let server = TestServer::start(Config::new().toml(&toml)).await;
        let id = server.submit(submit("p", generate())).await.id;
        let ended = server.ended(&id).await;
        assert_eq!(ended.error.as_ref().unwrap().code(), flowgate::pb::ErrorCode::Permanent);
        check("the execution", format!("{ended:?}").as_bytes());
        check("the log", server.stderr_log().as_bytes());
        look_into(server.dir(), &mut 0);
    }
}

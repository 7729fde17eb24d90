//! No key is seen in anything that Flowgate writes, stores or says, whatever a server does with it.
//!
//! To try another kind, add it to [`KINDS`].

use std::path::Path;
use std::sync::{Arc, Mutex};

use flowgate::pb::output_chunk::Content;
use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    ExecutionView, GetProviderRequest, ListExecutionsRequest, ListProvidersRequest,
    ListWorkersRequest, WatchExecutionResponse, WatchExecutionsRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::providers::{Replay, Reply, Request};
use crate::support::{Config, TestServer, submit};

/// Half of it would be too much to see; so this is looked for.
const TELLTALE: &str = "canary-7f3a9c1";
/// The same in a name of the environment, where no dash may stand.
const TELLTALE_NAME: &str = "CANARY_7F3A9C1";

/// Kinds, with the input that makes them ask, how their streams are cut, and by what way they get
/// their keys.
const KINDS: &[(&str, &str, fn() -> Value, &str)] = &[
    ("openai", "api_key_env = 'THE_KEY'", chat, "text/event-stream"),
    ("openai", "api_key_file = 'key'", response, "text/event-stream"),
    ("openai", "api_key_file = 'key'", background, "application/json"),
    ("claude", "api_key_env = 'THE_KEY'", messages, "text/event-stream"),
    (
        "claude",
        "headers = { Authorization = 'Bearer canary-7f3a9c1-of-a-header' }",
        messages,
        "text/event-stream",
    ),
    ("ollama", "api_key_file = 'key'", chat, "application/x-ndjson"),
    ("ollama", "headers = { x-proof = { env = 'THE_KEY' } }", generate, "application/x-ndjson"),
    ("http", "api_key_env = 'THE_KEY'", || json!({ "path": "/x", "body": {} }), "text/plain"),
    (
        "http",
        "headers = { x-proof = { file = 'key' }, x-more = 'Bearer canary-7f3a9c1-bare' }",
        || json!({ "path": "/x", "method": "POST" }),
        "application/octet-stream",
    ),
];

fn chat() -> Value {
    json!({ "model": "m", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] })
}

fn messages() -> Value {
    chat()
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

/// Every header that was sent, as a server that echoes has it.
fn keys(request: &Request) -> String {
    let mut keys = String::new();
    for (name, value) in &request.headers {
        if value.contains(TELLTALE) {
            keys += &format!("{name}: {value} ");
        }
    }
    assert!(!keys.is_empty(), "the key was sent: {request:?}");
    keys.trim_end().to_owned()
}

/// The value alone.
fn key(request: &Request) -> String {
    let keys = keys(request);
    keys.split(": ").nth(1).unwrap().split(" x-").next().unwrap().replace("Bearer ", "")
}

type Echo = fn(&Request, &str) -> Reply;

fn error(status: u16, request: &Request) -> Reply {
    let keys = keys(request);
    let error = json!({
        "type": keys, "message": format!("bad key {keys}"), "code": keys, "param": { keys.clone(): 1 },
    });
    let reply = Reply::json(status, &json!({ "error": error, "detail": keys }));
    reply.header("x-request-id", &keys).header("x-echo", &keys).header("www-authenticate", &keys)
}

/// Everything that a server may do with a key.
const ECHOES: &[Echo] = &[
    |request, _| error(400, request),
    |request, _| error(401, request),
    |request, _| error(429, request).header("retry-after", "9999"),
    |request, _| error(500, request),
    |request, _| error(503, request).header("retry-after", &key(request)),
    |request, _| error(200, request),
    |request, _| Reply::new(403, "text/plain", format!("no such key: {}", keys(request))),
    |request, _| {
        Reply::new(403, "text/plain", [b"\xff ", keys(request).as_bytes(), b"\xfe"].concat())
    },
    // Cut off by the length of a message, in the middle of the key.
    |request, _| {
        Reply::json(
            400,
            &json!({ "error": { "message": format!("{}{}", "x".repeat(980), key(request)) } }),
        )
    },
    |request, _| Reply::new(400, "text/plain", format!("{}{}", "x".repeat(980), key(request))),
    |request, _| {
        Reply::new(302, "text/plain", keys(request))
            .header("location", &format!("/{}", key(request)))
    },
    // What is said when it goes well.
    |request, kind| whole(request, kind),
    |request, kind| split(request, kind),
    |request, kind| split(request, kind).pieces_of(3),
    |request, kind| {
        let cut = split(request, kind);
        let half = cut_in_half(request, kind);
        cut.cut_after(half)
    },
    |request, kind| Reply::new(200, kind, keys(request)),
    |request, kind| Reply::new(200, kind, [b"\xff ", keys(request).as_bytes(), b"\xfe"].concat()),
    |request, kind| {
        Reply::new(
            200,
            kind,
            format!(
                ": {0}\nevent: {0}\nid: {0}\n{0}: {0}\ndata: {{\"error\":\"{0}\"}}\n\n",
                keys(request)
            ),
        )
    },
    |request, kind| {
        Reply::new(
            200,
            kind,
            format!("{{\"error\":{{\"message\":\"{0}\",\"type\":\"{0}\"}}}}\n", keys(request)),
        )
    },
    |request, kind| {
        Reply::new(
            200,
            kind,
            format!(
                "data: {{\"type\":\"error\",\"error\":{{\"message\":\"{}\"}}}}\n\n",
                keys(request)
            ),
        )
    },
    |request, _| Reply::new(200, "application/json", format!("{{\"{}\":", keys(request))),
    |request, kind| Reply::new(200, kind, keys(request)).endless(),
];

/// A stream that says the key, divided in the middle of it.
fn split(request: &Request, kind: &str) -> Reply {
    Reply::new(200, kind, stream(request, kind)).chunked()
}

fn cut_in_half(request: &Request, kind: &str) -> usize {
    stream(request, kind).rfind("7f3a").map_or(5, |at| at + 3)
}

fn stream(request: &Request, kind: &str) -> String {
    let key = key(request);
    let (one, two) = key.split_at(9);
    let pieces = [format!("it is {one}"), format!("{two} indeed"), one.to_owned(), two.to_owned()];
    let path = request.path();
    let event = |piece: &String| match (kind, path) {
        (_, "/v1/chat/completions") => {
            format!(
                "data: {}\n\n",
                json!({ "choices": [{ "index": 0, "delta": { "content": piece } }] })
            )
        }
        (_, "/v1/responses") => {
            format!("data: {}\n\n", json!({ "type": "response.output_text.delta", "delta": piece }))
        }
        (_, "/v1/messages") => {
            let delta = json!({ "type": "text_delta", "text": piece });
            format!(
                "data: {}\n\n",
                json!({ "type": "content_block_delta", "index": 0, "delta": delta })
            )
        }
        (_, "/api/chat") => {
            format!("{}\n", json!({ "message": { "content": piece }, "done": false }))
        }
        (_, "/api/generate") => format!("{}\n", json!({ "response": piece, "done": false })),
        _ => piece.clone(),
    };
    let start = match path {
        "/v1/messages" => format!(
            "data: {}\n\n",
            json!({ "type": "message_start", "message": { "id": key, "usage": {} } })
        ),
        _ => String::new(),
    };
    let end = match path {
        "/v1/chat/completions" => "data: [DONE]\n\n".to_owned(),
        "/v1/responses" => {
            let content = json!([{ "type": "output_text", "text": pieces.concat() }]);
            let response =
                json!({ "id": key, "status": "completed", "output": [{ "content": content }] });
            format!("data: {}\n\n", json!({ "type": "response.completed", "response": response }))
        }
        "/v1/messages" => "data: {\"type\":\"message_stop\"}\n\n".to_owned(),
        "/api/chat" | "/api/generate" => {
            format!("{}\n", json!({ "done": true, "done_reason": key }))
        }
        _ => String::new(),
    };
    start + &pieces.iter().map(event).collect::<String>() + &end
}

/// The same as one piece of JSON.
fn whole(request: &Request, _: &str) -> Reply {
    let keys = keys(request);
    let message = json!({ "role": "assistant", "content": keys });
    let text = json!([{ "type": "text", "text": keys }]);
    let answer = json!({
        "id": keys, "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "content": text, "output": [{ "content": text }], "status": "completed",
        "message": message, "response": keys, "done": true, keys.clone(): keys,
    });
    Reply::json(200, &answer).header("x-echo", &keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_seen_nowhere() {
    let replay = Replay::start().await;
    let mut toml = String::new();
    for (index, (kind, credential, ..)) in KINDS.iter().enumerate() {
        let path = if *kind == "openai" { "/v1" } else { "" };
        toml += &format!(
            "[providers.p{index}]\nkind = '{kind}'\nbase_url = '{}{path}'\nmax_concurrent = 4\n{credential}\n",
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
    for (turn, echo) in ECHOES.iter().enumerate() {
        for (index, (_, _, input, content_type)) in KINDS.iter().enumerate() {
            for route in ROUTES {
                let content_type = (*content_type).to_owned();
                let echo = *echo;
                replay.always(
                    route,
                    Reply::computed(move |request| {
                        // A key that is exchanged in the middle of an attempt is still one.
                        echo(request, &content_type)
                    }),
                );
            }
            if turn % 5 == 4 {
                write_key(&format!("canary-7f3a9c1-of-the-file-{turn}\n"));
            }
            let mut request = submit(&format!("p{index}"), input());
            request.retry_policy =
                Some(flowgate::pb::RetryPolicy { max_attempts: Some(1), ..Default::default() });
            request.run_timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
            let id = server.submit(request).await.id;
            if turn == 2 || turn == 4 {
                // Limited, it would wait for hours.
                crate::support::eventually("an attempt", async || {
                    (!server.get(&id).await.attempts.is_empty()).then_some(())
                })
                .await;
                crate::support::eventually("its end", async || {
                    server.get(&id).await.attempts[0].end_time.map(|_| ())
                })
                .await;
                let cancel =
                    flowgate::pb::CancelExecutionRequest { id: id.clone(), ..Default::default() };
                server.execution().cancel_execution(cancel).await.unwrap();
            }
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
    crate::support::eventually("a trace", async || {
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

const ROUTES: &[&str] = &[
    "POST /v1/chat/completions",
    "POST /v1/responses",
    "GET /v1/responses/*",
    "POST /v1/messages",
    "POST /v1/responses/*/cancel",
    "POST /api/chat",
    "POST /api/generate",
    "POST /x",
];

async fn everything_that_is_told(server: &TestServer, replay: &Replay) -> String {
    let list = ListExecutionsRequest {
        page_size: 1_000,
        view: ExecutionView::Full.into(),
        ..Default::default()
    };
    let mut said = format!("{:?}", server.execution().list_executions(list).await.unwrap());
    said +=
        &format!("{:?}", server.provider().list_providers(ListProvidersRequest {}).await.unwrap());
    let one = GetProviderRequest { provider: "p0".to_owned() };
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
    let refused = server.execution().submit_execution(submit("p0", json!({}))).await.unwrap_err();
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
    for telltale in [TELLTALE, TELLTALE_NAME] {
        let found = text.windows(telltale.len()).position(|part| part == telltale.as_bytes());
        if let Some(at) = found {
            let around = &text[at.saturating_sub(300)..text.len().min(at + 100)];
            panic!("the key is in {what}: {}", String::from_utf8_lossy(around));
        }
    }
    use base64::Engine as _;
    for shift in 0..3 {
        // However it falls, the middle of the key looks the same in base64.
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(&TELLTALE.as_bytes()[shift..]);
        let middle = &encoded.as_bytes()[..12];
        let found = text.windows(12).position(|part| part == middle);
        assert!(found.is_none(), "the key is in {what}, in base64");
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

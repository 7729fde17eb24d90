//! The page at `/` of the HTTP port: what is sent, when, and to whom (here), what that costs (`reading`), and
//! what people see of it (`browser`).

mod browser;
mod reading;

use std::time::Duration;

use flowgate::pb::{
    ExecutionState, PauseProviderRequest, ProviderLimits, ResumeProviderRequest, SetLimitsRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;

use crate::support::{Config, Db, TestServer, eventually, on_both, submit};

on_both! {
    #[tokio::test]
    the_first_event_comes_at_once_and_every_change_after_it;
    #[tokio::test]
    sigterm_ends_every_open_page_and_is_not_held_up_by_one;
}

/// How long one event may take to come; they come every second while something happens.
const EVENT_DEADLINE: Duration = Duration::from_secs(15);
/// As many streams as a server has open at a time.
const MOST_STREAMS: usize = 256;

/// Open events of one page.
struct Events {
    head: String,
    lines: Lines<BufReader<TcpStream>>,
}

impl Events {
    async fn open(addr: &str) -> Self {
        // HTTP/1.0, so that what comes is not chunked.
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").await.unwrap();
        let mut events = Self { head: String::new(), lines: BufReader::new(stream).lines() };
        while let Some(line) = events.line().await.filter(|line| !line.is_empty()) {
            events.head.push_str(&line.to_lowercase());
            events.head.push('\n');
        }
        events
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(EVENT_DEADLINE, self.lines.next_line()).await;
        // A connection may be reset instead of closed; either is an end.
        line.expect("something comes in time").unwrap_or_default()
    }

    /// The next picture as it was sent; none if the stream ended.
    async fn text(&mut self) -> Option<String> {
        loop {
            let line = self.line().await?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// Reads up to the next event of this name.
    async fn named(&mut self, name: &str) {
        let wanted = format!("event: {name}");
        while self.line().await.expect("the stream goes on") != wanted {}
    }

    async fn picture(&mut self) -> Value {
        let text = self.text().await.expect("the stream goes on");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The first picture that is as wanted.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let picture = self.picture().await;
            if wanted(&picture) {
                return picture;
            }
        }
    }
}

fn provider<'a>(picture: &'a Value, name: &str) -> &'a Value {
    let providers = picture["providers"].as_array().expect("a list");
    providers.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name}: {picture}"))
}

async fn the_first_event_comes_at_once_and_every_change_after_it(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 2)).await;
    let mut events = Events::open(server.http_addr()).await;
    assert_eq!(events.status(), 200);
    assert!(events.head.contains("content-type: text/event-stream"), "{}", events.head);
    let first = events.picture().await;
    let sim = provider(&first, "sim");
    assert_eq!(
        (&sim["limit"], &sim["running"], &sim["gate"]),
        (&json!(2), &json!(0), &json!("OPEN"))
    );
    assert_eq!(first["workers"].as_array().map(Vec::len), Some(1), "{first}");
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));

    for _ in 0..5 {
        server.submit(submit("sim", json!({ "duration_ms": 600_000 }))).await;
    }
    let busy = events.until(|it| provider(it, "sim")["pending"] == 3).await;
    assert_eq!(provider(&busy, "sim")["running"], 2);
    assert_eq!(provider(&busy, "sim")["why"], json!(["3 wait at the limit"]));
    assert_eq!((&busy["totals"]["running"], &busy["totals"]["pending"]), (&json!(2), &json!(3)));
    let scaling = busy["scaling"].as_str().unwrap();
    assert!(scaling.contains("provider sim is at its limit of 2"), "{scaling}");

    let limits = ProviderLimits {
        provider: "sim".to_owned(),
        max_concurrent: Some(4),
        ..Default::default()
    };
    let request = SetLimitsRequest { limits: vec![limits], ..Default::default() };
    server.provider().set_limits(request).await.unwrap();
    let raised = events.until(|it| provider(it, "sim")["running"] == 4).await;
    assert_eq!(provider(&raised, "sim")["limit"], 4);
    assert_eq!(provider(&raised, "sim")["limit_note"], "set; declared 2");

    pause(&server, "sim", "for tea").await;
    let paused = events.until(|it| provider(it, "sim")["gate"] == "PAUSED").await;
    assert_eq!(provider(&paused, "sim")["why"], json!(["Paused: for tea"]));
    let request = ResumeProviderRequest { provider: "sim".to_owned(), ..Default::default() };
    server.provider().resume_provider(request).await.unwrap();
    events.until(|it| provider(it, "sim")["gate"] == "OPEN").await;
}

async fn pause(server: &TestServer, provider: &str, reason: &str) {
    let request = PauseProviderRequest {
        provider: provider.to_owned(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    server.provider().pause_provider(request).await.unwrap();
}

async fn sigterm_ends_every_open_page_and_is_not_held_up_by_one(db: Db) {
    let config = Config::on(db).simulated("sim", 1).env("FLOWGATE_DRAIN_TIMEOUT", "5s");
    let mut server = TestServer::start(config).await;
    let id = server.submit(submit("sim", json!({ "duration_ms": 600_000 }))).await.id;
    eventually("it runs", async || {
        (server.get(&id).await.state() == ExecutionState::Running).then_some(())
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut events = Events::open(server.http_addr()).await;
        events.picture().await;
        open.push(events);
    }
    // One that was never read.
    let mut frozen = TcpStream::connect(server.http_addr()).await.unwrap();
    frozen.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();

    server.sigterm();
    for mut events in open {
        while events.text().await.is_some() {}
    }
    let state = server.get(&id).await.state();
    assert_eq!(state, ExecutionState::Running, "pages end first, work may go on");
    let status = server.wait_exit(Duration::from_secs(7)).await;
    assert!(status.success(), "{status}");
}

// What follows asks nothing of the store that the others do not, so SQLite is enough.

#[tokio::test]
async fn the_page_and_its_files_are_sent_with_a_policy_that_lets_nothing_else_run() {
    let server = TestServer::start(Config::new()).await;
    for (path, kind) in [("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")] {
        let (head, body) = ask(&server, "GET", path, "").await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(head.contains(&format!("content-type: text/{kind}; charset=utf-8")), "{head}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        assert!(!body.contains("innerHTML") && !body.contains("://") || path == "/", "{path}");

        let (only_head, none) = ask(&server, "HEAD", path, "").await;
        assert_eq!((only_head.lines().next(), none.as_str()), (head.lines().next(), ""));
        let (refused, _) = ask(&server, "POST", path, "content-length: 0\r\n").await;
        assert!(refused.starts_with("http/1.1 405 "), "{path}: {refused}");
    }
    for path in ["/index.html", "/page", "/favicon.ico", "/events/"] {
        assert!(ask(&server, "GET", path, "").await.0.starts_with("http/1.1 404 "), "{path}");
    }
}

#[tokio::test]
async fn pages_of_other_sites_get_no_events() {
    let server = TestServer::start(Config::new()).await;
    for site in ["cross-site", "same-site"] {
        let (head, _) =
            ask(&server, "GET", "/events", &format!("sec-fetch-site: {site}\r\n")).await;
        assert!(head.starts_with("http/1.1 403 "), "{site}: {head}");
    }
}

/// Head, in lower case, and body of an answer that ends.
async fn ask(server: &TestServer, method: &str, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.http_addr()).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: flowgate\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn everybody_is_shown_the_same_picture_that_was_read_once() {
    let server = TestServer::start(Config::new().simulated("sim", 1)).await;
    let mut one = Events::open(server.http_addr()).await;
    one.picture().await;
    let mut other = Events::open(server.http_addr()).await;
    other.picture().await;
    pause(&server, "sim", "look").await;
    let pictures = [&mut one, &mut other].map(async |events| {
        let picture = events.until(|it| provider(it, "sim")["gate"] == "PAUSED").await;
        picture["read"].as_i64().unwrap()
    });
    let [one, other] = pictures;
    // The time at which it was read tells one reading from another.
    let (one, other) = tokio::join!(one, other);
    assert_eq!(one, other);
}

#[tokio::test]
async fn the_stream_after_the_last_that_fits_is_refused_until_another_ends() {
    let server = TestServer::start(Config::new()).await;
    let mut open = Vec::new();
    for _ in 0..MOST_STREAMS {
        let events = Events::open(server.http_addr()).await;
        assert_eq!(events.status(), 200, "{} are open", open.len());
        open.push(events);
    }
    let refused = Events::open(server.http_addr()).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    for path in ["/", "/healthz"] {
        assert_eq!(server.http_get(path).await.0, 200, "{path}");
    }
    open.pop();
    eventually("there is room again", async || {
        let events = Events::open(server.http_addr()).await;
        (events.status() == 200).then_some(())
    })
    .await;
}

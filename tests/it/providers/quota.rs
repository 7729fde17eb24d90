//! How many more requests a provider takes, as its answers say: by hand from the vendors'
//! documentation, and as aimock says it.

use flowgate::domain::{FailureKind, Quota};
use flowgate::providers::{Claude, Http, OpenAi, Provider};
use serde_json::json;

use super::cells::Protocol;
use super::claude::MESSAGES;
use super::door::{at, attempt};
use super::openai::CHAT;
use crate::support::providers::{Replay, Reply};

const OPENAI: [&str; 2] = ["x-ratelimit-remaining-requests", "x-ratelimit-limit-requests"];
const ANTHROPIC: [&str; 2] =
    ["anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-limit"];

fn with(reply: Reply, [remaining, limit]: [&str; 2], told: [&str; 2]) -> Reply {
    reply.header(remaining, told[0]).header(limit, told[1])
}

/// What is told with an answer, with one that breaks off, with none that makes sense, and with a refusal.
async fn tells(
    provider: &dyn Provider,
    replay: &Replay,
    protocol: &Protocol,
    headers: [&str; 2],
    refusal: &str,
) {
    let told = Some(Quota { remaining: 59, limit: Some(60) });
    let answer = || Reply::sse(protocol.stream);

    replay.on(protocol.route, with(answer(), headers, ["59", "60"]));
    let success = attempt(provider, (protocol.input)()).await.unwrap();
    assert_eq!((success.output, success.quota), ((protocol.output)(), told));

    let broken = with(answer(), headers, ["59", "60"]).cut_after(protocol.stream.len() / 2);
    replay.on(protocol.route, broken);
    let failed = attempt(provider, (protocol.input)()).await.unwrap_err();
    assert_eq!((failed.kind, failed.quota), (FailureKind::Transient, told));

    replay.on(protocol.route, with(answer(), headers, ["plenty", "-1"]));
    assert_eq!(attempt(provider, (protocol.input)()).await.unwrap().quota, None);

    replay.on(protocol.route, Reply::transcript(refusal));
    let failed = attempt(provider, (protocol.input)()).await.unwrap_err();
    assert!(matches!(failed.kind, FailureKind::RateLimited));
    assert_eq!(failed.quota, Some(Quota { remaining: 0, limit: Some(60) }));
}

#[tokio::test]
async fn openai_tells_what_is_left() {
    let replay = Replay::start().await;
    let provider = OpenAi::new(at(&(replay.url() + "/v1")));
    tells(&provider, &replay, &CHAT, OPENAI, "aimock_openai_429").await;
}

#[tokio::test]
async fn claude_tells_what_is_left() {
    let replay = Replay::start().await;
    let provider = Claude::new(at(&replay.url()));
    tells(&provider, &replay, &MESSAGES, ANTHROPIC, "aimock_anthropic_429").await;
}

#[tokio::test]
async fn any_http_service_may_tell_what_is_left() {
    let replay = Replay::start().await;
    let provider = Http::new(at(&replay.url()));
    let told = Some(Quota { remaining: 3, limit: Some(9) });
    for (status, headers) in [(200, OPENAI), (200, ANTHROPIC), (429, OPENAI)] {
        replay.on("GET /a", with(Reply::json(status, &json!({})), headers, ["3", "9"]));
        let ended = attempt(&provider, json!({ "path": "a" })).await;
        let quota = ended.map_or_else(|failed| failed.quota, |success| success.quota);
        assert_eq!(quota, told, "{status}");
    }
}

//! The server that says what a test tells it to says exactly that.

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::providers::{self, Ending, Replay, Reply, Request, transcripts};

type Answer = reqwest::Result<(u16, Vec<u8>)>;

/// Asks in a task, so that the test can go on.
fn ask(replay: &Replay, path: &str) -> JoinHandle<Answer> {
    let request = providers::http().get(replay.url() + path);
    tokio::spawn(async move {
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
    })
}

async fn answer(replay: &Replay, path: &str) -> Answer {
    ask(replay, path).await.unwrap()
}

#[tokio::test]
async fn every_transcript_reaches_the_client_byte_for_byte() {
    let names = transcripts("");
    assert!(names.len() > 50, "{names:?}");
    let replay = Replay::start().await;
    for name in names {
        let file = std::fs::read(format!("tests/servers/transcripts/{name}.txt")).unwrap();
        for reply in [Reply::transcript(&name), Reply::transcript(&name).pieces_of(7)] {
            replay.on("GET /", reply);
            let (status, body) = answer(&replay, "/").await.unwrap();
            let said = format!("\nHTTP/1.1 {status}");
            assert!(String::from_utf8_lossy(&file).contains(&said), "{name}: {said}");
            let whole = [&body, b"\n[curl exit 0]\n".as_slice()].concat();
            assert!(file.ends_with(&whole) && !body.is_empty(), "{name}");
        }
    }
}

#[tokio::test]
async fn replies_go_out_in_order_by_method_and_path() {
    let replay = Replay::start().await;
    replay.on("GET /runs/*/state", Reply::json(202, &json!({})));
    let busy = Reply::new(529, "text/plain", "busy").header("Retry-After", "3");
    replay.on("GET /runs/*/state", busy.header("retry-after", "2"));
    replay.always("GET /runs/*/state", Reply::new(200, "text/plain", "done"));
    replay.always("POST /runs/1/state", Reply::new(418, "text/plain", ""));
    assert_eq!(answer(&replay, "/runs/1/state").await.unwrap(), (202, b"{}".to_vec()));
    let busy = providers::http().get(replay.url() + "/runs/2/state?full=1").send().await.unwrap();
    assert_eq!(busy.status(), 529);
    assert_eq!(busy.headers()["retry-after"], "2");
    assert_eq!(busy.text().await.unwrap(), "busy");
    for _ in 0..2 {
        assert_eq!(answer(&replay, "/runs/1/state").await.unwrap(), (200, b"done".to_vec()));
    }
    assert_eq!(answer(&replay, "/runs/1/state/more").await.unwrap().0, 501);
}

#[tokio::test]
async fn a_request_is_recorded_as_it_came() {
    let replay = Replay::start().await;
    replay.always("POST /echo", Reply::computed(|request| Reply::json(200, &request.json())));
    let client = providers::http();
    let request = client.post(replay.url() + "/echo?a=b").header("X-One", "1");
    let echoed: serde_json::Value =
        request.json(&json!({ "n": 1 })).send().await.unwrap().json().await.unwrap();
    assert_eq!(echoed, json!({ "n": 1 }));
    let parts = ["{\"n\"", ":2}"].map(|part| Ok::<_, std::io::Error>(part.to_owned()));
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    client.post(replay.url() + "/echo").body(stream).send().await.unwrap();

    let Request { method, target, .. } = replay.request(0).await;
    assert_eq!((method.as_str(), target.as_str()), ("POST", "/echo?a=b"));
    let requests = replay.requests();
    assert_eq!(requests[0].header("x-one"), Some("1"));
    assert_eq!(requests[0].path(), "/echo");
    assert_eq!(requests[1].json(), json!({ "n": 2 }));
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn a_body_is_cut_so_that_the_client_can_tell_or_cannot() {
    let replay = Replay::start().await;
    let events = "data: 1\n\ndata: 2\n\n";
    for reply in [Reply::sse(events), Reply::new(200, "text/plain", events)] {
        replay.on("GET /", reply.clone().cut_after(9));
        answer(&replay, "/").await.unwrap_err();
        replay.on("GET /", reply.truncated(9));
        assert_eq!(answer(&replay, "/").await.unwrap().1, b"data: 1\n\n");
    }
    replay.on("GET /", Reply::close());
    answer(&replay, "/").await.unwrap_err();
    assert_eq!(replay.ended(0).await, Ending::CutOff);
    assert_eq!(replay.ended(1).await, Ending::Answered);
    assert_eq!(replay.ended(4).await, Ending::CutOff);
}

#[tokio::test]
async fn a_stepped_body_comes_when_the_test_says_so() {
    let replay = Replay::start().await;
    let (reply, mut pieces) = Reply::transcript("ollama_chat_stream").stepped();
    replay.on("GET /", reply);
    let mut answer = providers::http().get(replay.url()).send().await.unwrap();
    let count = pieces.left();
    assert!(count > 3);
    for _ in 1..count {
        assert!(pieces.next().await);
        let line = answer.chunk().await.unwrap().unwrap();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
    }
    pieces.rest().await;
    assert!(answer.chunk().await.unwrap().is_some_and(|line| line.ends_with(b"}\n")));
    assert_eq!(answer.chunk().await.unwrap(), None);
    assert_eq!(replay.ended(0).await, Ending::Answered);
}

#[tokio::test]
async fn a_stepped_body_is_broken_off_by_either_side() {
    let replay = Replay::start().await;
    let (reply, mut pieces) = Reply::sse("data: 1\n\ndata: 2\n\n").stepped();
    replay.on("GET /", reply);
    let asked = ask(&replay, "/");
    assert!(pieces.next().await);
    drop(pieces);
    asked.await.unwrap().unwrap_err();
    assert_eq!(replay.ended(0).await, Ending::CutOff);

    let (reply, mut pieces) = Reply::sse("data: 1\n\ndata: 2\n\n").stepped();
    replay.on("GET /", reply);
    let asked = ask(&replay, "/");
    assert!(pieces.next().await);
    asked.abort();
    assert_eq!(replay.ended(1).await, Ending::ClientClosed);
    assert!(!pieces.next().await);
}

#[tokio::test]
async fn it_tells_when_a_client_that_got_no_whole_answer_goes() {
    let replay = Replay::start().await;
    replay.on("GET /", Reply::hang());
    replay.on("GET /", Reply::new(200, "text/plain", "more and ").endless());
    for index in 0..2 {
        let asked = ask(&replay, "/");
        replay.request(index).await;
        asked.abort();
        assert_eq!(replay.ended(index).await, Ending::ClientClosed);
    }
}

#[tokio::test]
async fn it_goes_away_and_comes_back_at_the_same_place() {
    let mut replay = Replay::start().await;
    replay.on("GET /", Reply::hang());
    replay.always("GET /", Reply::new(200, "text/plain", ""));
    let asked = ask(&replay, "/");
    replay.request(0).await;
    replay.go_away().await;
    assert!(!asked.await.unwrap().unwrap_err().is_connect());
    assert_eq!(replay.ended(0).await, Ending::CutOff);
    assert!(answer(&replay, "/").await.unwrap_err().is_connect());
    replay.come_back().await;
    assert_eq!(answer(&replay, "/").await.unwrap().0, 200);
}

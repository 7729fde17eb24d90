//! The servers of others do what the tests of providers count on.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::providers::{self, LANGGRAPH, RealServer};

async fn post(server: &RealServer, path: &str, body: &Value) -> reqwest::Response {
    let request = providers::http().post(format!("{}{path}", server.url)).json(body);
    let request = request.bearer_auth(server.key).header("x-api-key", server.key);
    request.send().await.unwrap()
}

fn chat(text: &str, stream: bool) -> Value {
    json!({
        "model": "tiny", "stream": stream, "max_tokens": 8, "temperature": 0,
        "messages": [{ "role": "user", "content": text }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_speaks_chat_responses_and_messages() {
    let server = providers::llama().await;
    let answer: Value =
        post(server, "/v1/chat/completions", &chat("hi", false)).await.json().await.unwrap();
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{answer}");

    let body = json!({ "model": "tiny", "input": "hi", "max_output_tokens": 8 });
    let answer: Value = post(server, "/v1/responses", &body).await.json().await.unwrap();
    assert_eq!(answer["object"], "response", "{answer}");

    let answer: Value =
        post(server, "/v1/messages", &chat("hi", false)).await.json().await.unwrap();
    assert_eq!(answer["type"], "message", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_refuses_a_wrong_key() {
    let server = providers::llama().await;
    let request = providers::http().post(format!("{}/v1/messages", server.url));
    let answer = request.bearer_auth("wrong").json(&chat("hi", false)).send().await.unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_llama_stops_when_its_client_goes() {
    let server = providers::llama_slow().await;
    let mut body = chat("hi", true);
    body["max_tokens"] = json!(1_900);
    let mut answer = post(server, "/v1/chat/completions", &body).await;
    assert!(answer.chunk().await.unwrap().is_some());
    assert!(busy_slots(server).await > 0, "it is at work after its first chunk");
    drop(answer);
    eventually("a free slot", async || (busy_slots(server).await == 0).then_some(())).await;
}

async fn busy_slots(server: &RealServer) -> usize {
    let request = providers::http().get(format!("{}/slots", server.url)).bearer_auth(server.key);
    let slots: Value = request.send().await.unwrap().json().await.unwrap();
    slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
}

/// The paths of the three protocols and what ends a stream of each.
const PROTOCOLS: [(&str, &str); 5] = [
    ("/v1/chat/completions", "[DONE]"),
    ("/v1/responses", "response.completed"),
    ("/v1/messages", "message_stop"),
    ("/api/chat", "\"done\":true"),
    ("/api/generate", "\"done\":true"),
];

fn asked(path: &str, text: &str, stream: bool) -> Value {
    let mut body = chat(text, stream);
    body["input"] = json!(text);
    body["prompt"] = json!(text);
    let unused: &[&str] = match path {
        "/v1/responses" => &["messages", "prompt"],
        "/api/generate" => &["messages", "input"],
        _ => &["input", "prompt"],
    };
    body.as_object_mut().unwrap().retain(|name, _| !unused.contains(&name.as_str()));
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn aimock_fails_as_told_on_every_protocol() {
    let server = providers::aimock().await;
    for (path, _) in PROTOCOLS {
        for stream in [false, true] {
            for (text, status) in
                [("fail-429", 429), ("fail-500", 500), ("fail-503", 503), ("fail-529", 529)]
            {
                let answer = post(server, path, &asked(path, text, stream)).await;
                assert_eq!(answer.status(), status, "{path} {text}");
                let wait = answer.headers().get("retry-after").map(|wait| wait.to_str().unwrap());
                assert_eq!(wait, (status == 429).then_some("2"), "{path} {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aimock_breaks_off_a_stream_that_is_to_be_cut() {
    let server = providers::aimock().await;
    for (path, terminator) in PROTOCOLS {
        for (text, is_whole) in [("hello", true), ("cut", false)] {
            let mut answer = post(server, path, &asked(path, text, true)).await;
            assert_eq!(answer.status(), 200, "{path} {text}");
            let mut said = Vec::new();
            let end = loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => said.extend_from_slice(&chunk),
                    end => break end,
                }
            };
            let said = String::from_utf8_lossy(&said);
            assert!(!said.is_empty(), "{path} {text}");
            assert_eq!(said.contains(terminator), is_whole, "{path} {text}: {said}");
            assert_eq!(end.is_ok(), is_whole, "{path} {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aimock_says_a_slow_answer_bit_by_bit() {
    let server = providers::aimock().await;
    for (path, terminator) in PROTOCOLS {
        let mut answer = post(server, path, &asked(path, "slow", true)).await;
        let first = answer.chunk().await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&first).contains(terminator), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn langgraph_notes_each_run_that_began() {
    let server = RealServer::start(&LANGGRAPH).await;
    let body = json!({ "assistant_id": "echo", "input": { "text": "first" } });
    let answer: Value = post(&server, "/runs/wait", &body).await.json().await.unwrap();
    assert_eq!(answer["result"], "echo:first", "{answer}");

    let thread = uuid::Uuid::new_v4().to_string();
    let path = format!("/threads/{thread}/runs/wait");
    let input = json!({ "text": "two words", "mode": "fail" });
    let body = json!({ "assistant_id": "echo", "input": input, "if_not_exists": "create" });
    let answer: Value = post(&server, &path, &body).await.json().await.unwrap();
    assert_eq!(answer["__error__"]["error"], "ValueError", "{answer}");

    let runs = server.runs();
    let texts: Vec<&str> = runs.iter().map(|run| run.splitn(3, ' ').nth(2).unwrap()).collect();
    assert_eq!(texts, ["first", "two words"]);
    assert!(runs[1].starts_with(&thread), "{}", runs[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn langgraph_streams_and_asks_for_its_key() {
    let server = providers::langgraph().await;
    let input = json!({ "text": "one two", "mode": "tokens", "seconds": 0 });
    let body = json!({ "assistant_id": "echo", "input": input, "stream_mode": ["custom"] });
    let said = post(server, "/runs/stream", &body).await.text().await.unwrap();
    let tokens: Vec<&str> = said.lines().filter(|line| line.contains("token")).collect();
    assert_eq!(tokens, [r#"data: {"token":"one"}"#, r#"data: {"token":"two"}"#]);

    let request = providers::http().post(format!("{}/runs/wait", server.url)).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_is_gone_when_it_is_dropped() {
    let server = RealServer::start(&LANGGRAPH).await;
    let (ready, state) = (format!("{}/ok", server.url), server.state().to_owned());
    assert!(providers::http().get(&ready).send().await.unwrap().status().is_success());
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
    assert!(providers::http().get(&ready).send().await.unwrap_err().is_connect());
    assert!(!state.exists());
}

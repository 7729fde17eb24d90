//! What servers do with a key that they were shown, by accident or not.

use serde_json::json;

use super::TELLTALE;
use crate::support::providers::{Reply, Request};

/// The path behind the provider's own prefix.
fn asked(request: &Request) -> &str {
    let path = request.path().trim_start_matches('/');
    path.find('/').map_or("", |at| &path[at..])
}

/// Every header that was sent, as a server that echoes has it.
fn keys(request: &Request) -> String {
    let mut keys = String::new();
    for (name, value) in &request.headers {
        if value.contains(TELLTALE) {
            keys += &format!("{name}: {value} ");
        }
    }
    if keys.is_empty() {
        // A part of the provider that is not asked with the key.
        return "nothing".to_owned();
    }
    keys.trim_end().to_owned()
}

/// The value alone.
fn key(request: &Request) -> String {
    let keys = keys(request);
    let one = keys.split(": ").nth(1).unwrap_or("nothing to tell");
    one.split(" x-").next().unwrap_or_default().replace("Bearer ", "")
}

pub(super) type Echo = fn(&Request, &str) -> Reply;

fn error(status: u16, request: &Request) -> Reply {
    let keys = keys(request);
    let error = json!({
        "type": keys, "message": format!("bad key {keys}"), "code": keys, "param": { keys.clone(): 1 },
    });
    let reply = Reply::json(status, &json!({ "error": error, "detail": keys }));
    reply.header("x-request-id", &keys).header("x-echo", &keys).header("www-authenticate", &keys)
}

/// Everything that a server may do with a key.
pub(super) const ECHOES: &[Echo] = &[
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
    let path = asked(request);
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

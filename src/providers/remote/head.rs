//! What a client may say about the head of a request: its method, its path and its headers.
//!
//! What must stay true: no path leads out of the base URL, to another host or above its path.

use std::str::FromStr;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::Request;
use crate::providers::Violation;

/// The methods that a request may have, in words.
pub(in crate::providers) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS";

/// Headers that belong to the connection and not to the request.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Request {
    /// Adds headers that were checked.
    pub(in crate::providers) fn headers(self, headers: Option<&Value>) -> Self {
        let headers = headers.and_then(Value::as_object).into_iter().flatten();
        headers.fold(self, |request, (name, value)| {
            request.header(name, value.as_str().unwrap_or_default())
        })
    }
}

pub(in crate::providers) fn is_method(value: &Value) -> bool {
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    value.as_str().is_some_and(|method| methods.contains(&method))
}

pub(in crate::providers) fn is_headers(value: &Value) -> bool {
    let valid = |(name, value): (&String, &Value)| {
        HeaderName::from_str(name).is_ok()
            && value.as_str().is_some_and(|value| HeaderValue::from_str(value).is_ok())
    };
    value.as_object().is_some_and(|headers| headers.iter().all(valid))
}

/// Complains of those among an input's `headers` that the connection itself sets.
pub(in crate::providers) fn connection_headers(
    input: &Map<String, Value>,
) -> impl Iterator<Item = Violation> {
    let names = input.get("headers").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    names
        .filter(|name| HOP_BY_HOP.contains(&name.to_ascii_lowercase().as_str()))
        .map(|name| Violation::new(format!("headers.{name}"), "is set by the connection itself"))
}

/// Whether a path stays below the base URL, however a URL's parser reads it.
pub(in crate::providers) fn is_path(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let (path, _query) = text.split_once('?').unwrap_or((text, ""));
    let odd = |char: char| char.is_control() || matches!(char, '\\' | '#' | ' ');
    // Some servers take an encoded slash for one that divides.
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let climbs = |segment: &str| segment == "." || segment == "..";
    !text.contains(odd)
        && !path.starts_with("//")
        && !decoded.contains(char::is_control)
        && !decoded.split(['/', '\\']).any(climbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_base_url() {
        for good in ["", "/", "a/b", "/a/b?c=../d", "/a..b/...", "/a%2Fb", "/ä"] {
            assert!(is_path(&good.into()), "{good}");
        }
        let bad = [
            "/..",
            "../a",
            "/a/%2E%2e/b",
            "/a/.%2e",
            "\\..",
            "//host/a",
            "/a#b",
            "/a b",
            "/\n",
            "./a",
            "/a/..%2fb",
            "/a/%2e%2E%5Cb",
            "/a%00",
        ];
        for bad in bad {
            assert!(!is_path(&bad.into()), "{bad}");
        }
        assert!(!is_path(&Value::Null));
    }
}

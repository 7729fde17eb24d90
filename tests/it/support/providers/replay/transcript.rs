//! What real servers said, in `tests/servers/transcripts`.
//!
//! Each file is what `curl -i` printed, below two lines that tell the request, and above one with
//! curl's exit code:
//!
//! ```text
//! > POST api/chat
//! > args: -H Content-Type: application/json -d {"model":"tiny"}
//!
//! HTTP/1.1 200 OK
//! Content-Type: application/x-ndjson
//! Transfer-Encoding: chunked
//!
//! {"model":"tiny","message":{"role":"assistant","content":" after"},"done":false}
//!
//! [curl exit 0]
//! ```
//!
//! Keys and folders in them were replaced, so some lines have no carriage return any more and some
//! lengths are not what the head says. Chunks were put together by curl.

use std::path::PathBuf;

use super::super::super::tools::repository;

pub(super) struct Transcript {
    pub(super) status: String,
    /// Without those that say how long the body is.
    pub(super) headers: Vec<(String, String)>,
    pub(super) is_chunked: bool,
    pub(super) body: Vec<u8>,
}

/// The names of those that begin with `prefix`, sorted.
pub(crate) fn transcripts(prefix: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("the transcripts are in the repository");
    let names = files.map(|file| file.expect("can be read").path());
    let names = names.map(|path| path.file_stem().expect("a file").to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

fn folder() -> PathBuf {
    repository("tests/servers/transcripts")
}

impl Transcript {
    pub(super) fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder().join(format!("{name}.txt")));
        let bytes = bytes.unwrap_or_else(|error| panic!("transcript {name}: {error}"));
        Self::parse(&bytes).unwrap_or_else(|| panic!("{name} is no transcript"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let status = loop {
            let line = next_line(&mut rest)?;
            if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
                break status.to_owned();
            }
        };
        let mut headers = Vec::new();
        let mut is_chunked = false;
        loop {
            let line = next_line(&mut rest)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            match name.to_ascii_lowercase().as_str() {
                "transfer-encoding" => is_chunked = true,
                "content-length" => {}
                _ => headers.push((name.to_owned(), value.trim().to_owned())),
            }
        }
        let mark = b"\n[curl exit ";
        let end = rest.windows(mark.len()).rposition(|window| window == mark)?;
        Some(Self { status, headers, is_chunked, body: rest[..end].to_vec() })
    }
}

/// Takes a line of the head, without its end.
fn next_line(rest: &mut &[u8]) -> Option<String> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
    *rest = &rest[end + 1..];
    Some(line)
}

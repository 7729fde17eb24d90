//! HTTP/1.1 as far as a provider's client speaks it.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::Reply;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path, and the query if there is one.
    pub(crate) target: String,
    /// In order, with the names as the client wrote them.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The client's, by which its connections are told apart.
    pub(crate) from_port: u16,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The first header of that name, in whatever case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(present, _)| present.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }

    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        let parsed = serde_json::from_slice(&self.body);
        parsed.unwrap_or_else(|error| {
            panic!("{error}: the body is {:?}", String::from_utf8_lossy(&self.body))
        })
    }
}

/// The next request, or none when the client has closed the connection.
pub(super) async fn read_request(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Request>> {
    let Some(first) = line(reader).await? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) =
        (words.next().unwrap_or_default(), words.next().ok_or(io::ErrorKind::InvalidData)?);
    let mut headers = Vec::new();
    while let Some(header) = line(reader).await?.filter(|line| !line.is_empty()) {
        let (name, value) = header.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new(), from_port: 0 };
    if request.header("transfer-encoding").is_some() {
        request.body = chunks(reader).await?;
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().map_err(|_| io::ErrorKind::InvalidData)?];
        reader.read_exact(&mut request.body).await?;
    }
    Ok(Some(request))
}

async fn chunks(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size];
        reader.read_exact(&mut chunk).await?;
        body.append(&mut chunk);
        line(reader).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A line without its end, or none at the end of everything.
async fn line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    let length = reader.read_line(&mut line).await?;
    Ok((length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The status line and the headers of a reply, with one that says where its body ends.
pub(super) fn head(reply: &Reply) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &if reply.is_chunked {
        "Transfer-Encoding: chunked\r\n\r\n".to_owned()
    } else {
        format!("Content-Length: {}\r\n\r\n", reply.bytes.len())
    };
    head.into_bytes()
}

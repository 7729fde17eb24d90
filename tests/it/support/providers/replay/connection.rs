//! One connection: reads a request, says what the script wants, and so on until either side
//! closes.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::body::{Body, Steps};
use super::{Ending, Reply, Request, Script, wire};

/// Of an endless body, so that it does not go out byte by byte.
const ENDLESS_CHUNK: usize = 64 * 1024;

pub(super) async fn serve(stream: TcpStream, script: Arc<Script>) {
    // A test wants to see every piece when it is sent.
    let _ = stream.set_nodelay(true);
    let from_port = stream.peer_addr().map_or(0, |addr| addr.port());
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Ok(Some(request)) = wire::read_request(&mut reader).await {
        let request = Request { from_port, ..request };
        let mut reply = script.reply_to(&request);
        while let Body::Computed(compute) = &reply.body {
            reply = compute(&request);
        }
        let index = script.record(request);
        let sent = tokio::select! {
            // What is in the socket was sent, whatever the client does next.
            biased;
            sent = send(&reply, &mut writer) => sent,
            () = closed(&mut reader) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let ending = sent.unwrap_or(Ending::ClientClosed);
        script.end(index, ending);
        let says_close = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        };
        if ending != Ending::Answered || reply.headers.iter().any(says_close) {
            break;
        }
    }
}

/// Waits until the client closes the connection.
async fn closed(reader: &mut BufReader<OwnedReadHalf>) {
    // The next request may be there already: then the client is, too.
    if matches!(reader.fill_buf().await, Ok(read) if !read.is_empty()) {
        std::future::pending::<()>().await;
    }
}

/// Says it all, or as much as is wanted; an error is a client that is gone.
async fn send(reply: &Reply, writer: &mut OwnedWriteHalf) -> io::Result<Ending> {
    match &reply.body {
        Body::Never => std::future::pending().await,
        Body::Closed => return Ok(Ending::CutOff),
        _ => writer.write_all(&wire::head(reply)).await?,
    }
    let mut body = Sink { writer, is_chunked: reply.is_chunked };
    match &reply.body {
        Body::Whole => body.write(&reply.bytes).await?,
        Body::InPieces(length) => {
            for piece in reply.bytes.chunks(*length) {
                body.write(piece).await?;
            }
        }
        Body::Cut(length) => {
            body.write(&reply.bytes[..*length]).await?;
            return Ok(Ending::CutOff);
        }
        Body::Endless => {
            let often = ENDLESS_CHUNK.div_ceil(reply.bytes.len().max(1));
            let chunk = reply.bytes.repeat(often);
            loop {
                body.write(&chunk).await?;
            }
        }
        Body::Stepped(steps) => return step(&mut *steps.lock().await, body).await,
        Body::Never | Body::Closed | Body::Computed(_) => {}
    }
    body.end().await?;
    Ok(Ending::Answered)
}

async fn step(steps: &mut Steps, mut body: Sink<'_>) -> io::Result<Ending> {
    while let Some(done) = steps.orders.recv().await {
        let piece = steps.pieces.pop_front().unwrap_or_default();
        body.write(&piece).await?;
        let is_last = steps.pieces.is_empty();
        if is_last {
            body.end().await?;
        }
        // A test that no longer waits needs no answer.
        let _ = done.send(());
        if is_last {
            return Ok(Ending::Answered);
        }
    }
    Ok(Ending::CutOff)
}

/// Where a body goes, in chunks or as it is.
struct Sink<'a> {
    writer: &'a mut OwnedWriteHalf,
    is_chunked: bool,
}

impl Sink<'_> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.is_chunked {
            return self.writer.write_all(bytes).await;
        }
        // A chunk of no length would be the end.
        if bytes.is_empty() {
            return Ok(());
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.writer.write_all(&chunk).await
    }

    async fn end(&mut self) -> io::Result<()> {
        if self.is_chunked { self.writer.write_all(b"0\r\n\r\n").await } else { Ok(()) }
    }
}

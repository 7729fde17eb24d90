//! Requests that are no message at all, or too large a one, to every rpc there is; and the client
//! that sends such things. An rpc that there is not never reaches the store, whichever that is.

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _, Bytes};
use prost_types::{Value, value::Kind};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::{Expected, Row, invalid};
use crate::support::TestServer;

const RPCS: [&str; 19] = [
    "ExecutionService/SubmitExecution",
    "ExecutionService/BatchSubmitExecutions",
    "ExecutionService/GetExecution",
    "ExecutionService/ListExecutions",
    "ExecutionService/CancelExecution",
    "ExecutionService/BatchCancelExecutions",
    "ExecutionService/RetryExecution",
    "ExecutionService/BatchRetryExecutions",
    "ExecutionService/WatchExecution",
    "ExecutionService/WatchExecutions",
    "ProviderService/ListProviders",
    "ProviderService/GetProvider",
    "ProviderService/SetLimits",
    "ProviderService/ListLimitChanges",
    "ProviderService/PauseProvider",
    "ProviderService/ResumeProvider",
    "ProviderService/WatchProviders",
    "SystemService/GetStatus",
    "SystemService/ListWorkers",
];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    // The message as a whole is at fault, so the path of the field is empty.
    let malformed = || Expected { reason: "MALFORMED_MESSAGE", ..invalid("") };
    let large = Bytes::from(unknown_field(21 * 1024 * 1024));
    for rpc in RPCS {
        let mut add = |what: &str, request: Bytes, expected| {
            rows.push(Row { rpc, what: what.to_owned(), request, expected });
        };
        add("garbage", Bytes::from_static(&[0xff; 64]), malformed());
        add("a field that ends too early", Bytes::from_static(&[0x0a, 0x7f, b'a']), malformed());
        let too_large = Expected::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        add("a message above 20 MiB", large.clone(), too_large);
    }
    for (what, request) in [
        ("a text that is not UTF-8", vec![0x0a, 0x02, 0xc3, 0x28]),
        ("a number where a text is expected", vec![0x08, 0x01]),
        ("values nested 1,000 deep", nested(1_000)),
    ] {
        let (rpc, what, request) = (RPCS[0], what.to_owned(), request.into());
        rows.push(Row { rpc, what, request, expected: malformed() });
    }
    rows
}

#[tokio::test]
async fn an_unknown_rpc_is_unimplemented() {
    let server = TestServer::start(crate::support::Config::new()).await;
    for rpc in ["ExecutionService/Explode", "NoService/Get"] {
        let status = send(&server, rpc, Bytes::new()).await.expect_err("there is no such rpc");
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
}

/// Sends bytes as a request and returns how the first answer came out.
pub(super) async fn send(server: &TestServer, rpc: &str, request: Bytes) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(server.channel());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::try_from(format!("/flowgate.v1.{rpc}")).unwrap();
    // A unary rpc is, on the wire, a stream of one message.
    let reply = client.server_streaming(Request::new(request), path, RawCodec).await?;
    reply.into_inner().message().await.map(drop)
}

/// A message that holds nothing but a field no rpc knows.
fn unknown_field(len: usize) -> Vec<u8> {
    let mut message = Vec::new();
    prost::encoding::bytes::encode(1_000, &vec![0_u8; len], &mut message);
    message
}

/// A submission whose input is an array in an array in an array.
fn nested(depth: usize) -> Vec<u8> {
    // Built from the inside as bytes: as values it would overflow the stack when dropped.
    let mut value = Value { kind: Some(Kind::NullValue(0)) }.encode_to_vec();
    for _ in 0..depth {
        let mut list = Vec::new();
        prost::encoding::bytes::encode(1, &value, &mut list);
        value.clear();
        prost::encoding::bytes::encode(6, &list, &mut value);
    }
    let (mut entry, mut input, mut request) = (Vec::new(), Vec::new(), Vec::new());
    prost::encoding::string::encode(1, &"output".to_owned(), &mut entry);
    prost::encoding::bytes::encode(2, &value, &mut entry);
    prost::encoding::bytes::encode(1, &entry, &mut input);
    prost::encoding::string::encode(1, &"sim".to_owned(), &mut request);
    prost::encoding::bytes::encode(2, &input, &mut request);
    request
}

/// Bytes out, bytes in.
#[derive(Debug, Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

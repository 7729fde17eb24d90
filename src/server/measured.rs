//! How long each call took, and how it ended, whoever ended it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use super::rpc;
use crate::engine::Engine;
use crate::metrics::{Example, Instruments};
use crate::telemetry;

/// Measures one call, from its head to the last byte of its answer.
pub(super) async fn measure(
    State(engine): State<Engine>,
    request: Request,
    next: Next,
) -> Response {
    let trace = telemetry::recorded(&Span::current()).map(|place| place.trace_id().to_string());
    let mut call = Call {
        instruments: Arc::clone(engine.instruments()),
        method: rpc::served(request.uri().path()),
        began: Instant::now(),
        example: trace.map(|trace_id| Example::in_trace(trace_id, engine.now())),
        // Until something else is said of it: the client went away.
        code: Code::Cancelled,
    };
    let response = next.run(request).await;
    if let Some(code) = said_by_head(&response) {
        call.code = code;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            // The whole of it goes along: it is dropped with the body.
            let call = &mut call;
            if let Some(code) = frame.trailers_ref().and_then(|it| it.get(Status::GRPC_STATUS)) {
                call.code = Code::from_bytes(code.as_bytes());
            }
            frame
        }))
    })
}

/// How the call ended, if its head says that. What is refused before it is a call has no status but that of HTTP,
/// and ended as clients of gRPC take it.
fn said_by_head<B>(response: &http::Response<B>) -> Option<Code> {
    if let Some(code) = response.headers().get(Status::GRPC_STATUS) {
        return Some(Code::from_bytes(code.as_bytes()));
    }
    match response.status() {
        // Its trailers will say.
        StatusCode::OK => None,
        StatusCode::BAD_REQUEST => Some(Code::Internal),
        StatusCode::UNAUTHORIZED => Some(Code::Unauthenticated),
        StatusCode::FORBIDDEN => Some(Code::PermissionDenied),
        StatusCode::NOT_FOUND => Some(Code::Unimplemented),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Some(Code::Unavailable),
        _ => Some(Code::Unknown),
    }
}

/// A call on its way; it is over when it is dropped.
struct Call {
    instruments: Arc<Instruments>,
    method: Option<&'static str>,
    began: Instant,
    example: Option<Example>,
    code: Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        let (code, _) = rpc::name(self.code);
        self.instruments.called(self.method, code, self.began.elapsed(), self.example.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, grpc: Option<&'static str>) -> Option<Code> {
        let mut head = http::Response::builder().status(status);
        if let Some(code) = grpc {
            head = head.header(Status::GRPC_STATUS, code);
        }
        said_by_head(&head.body(()).expect("a valid head"))
    }

    #[test]
    fn what_is_refused_before_it_is_a_call_did_not_end_because_its_client_went_away() {
        assert_eq!(said(415, None), Some(Code::Unknown), "plain HTTP");
        assert_eq!(said(404, None), Some(Code::Unimplemented));
        assert_eq!(said(503, None), Some(Code::Unavailable));
        assert_eq!(said(400, None), Some(Code::Internal));
    }

    #[test]
    fn what_grpc_says_counts_more_than_what_http_says() {
        assert_eq!(said(200, Some("5")), Some(Code::NotFound));
        assert_eq!(said(503, Some("8")), Some(Code::ResourceExhausted));
        assert_eq!(said(200, None), None, "the trailers are still to come");
    }
}

//! How long each call took, and how it ended, whoever ended it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
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
    if let Some(code) = response.headers().get(Status::GRPC_STATUS) {
        call.code = Code::from_bytes(code.as_bytes());
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

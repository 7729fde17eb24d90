//! What surrounds every rpc, so that whatever happens ends in an error the contract knows.
//!
//! tonic answers some requests before or after a handler sees them: a message it cannot decode, one
//! that is too large. Those answers have no details and another code than the contract says; they
//! are recognised by tonic's own words (0.14.9, `codec::{decode, encode}`) and told anew.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use tonic::{Code, Status};

use super::error::Refusal;

/// tonic drops the handler and says CANCELLED when `grpc-timeout` is over. Its timer was started
/// just before this layer is reached, so this one must be a little shorter to be first.
const TIMEOUT_LEAD: Duration = Duration::from_millis(2);

/// How tonic begins what it says of a message it cannot make sense of.
const MALFORMED: [&str; 6] = [
    "failed to decode Protobuf message",
    "protocol error: received message with compressed-flag",
    "protocol error: received message with invalid compression flag",
    "Error decompressing: ",
    "Missing request message.",
    "Unexpected EOF decoding stream.",
];

/// Runs one rpc. Its panic ends it and nothing else; its deadline is kept.
pub(crate) async fn keep_contract(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let deadline = timeout(request.headers());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let answer = match deadline {
        Some(deadline) => tokio::time::timeout(deadline.saturating_sub(TIMEOUT_LEAD), answer).await,
        None => Ok(answer.await),
    };
    match answer {
        Ok(Ok(mut response)) => {
            retell(response.headers_mut());
            response.map(|body| {
                axum::body::Body::new(body.map_frame(|mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        retell(trailers);
                    }
                    frame
                }))
            })
        }
        Ok(Err(_)) => {
            tracing::error!(rpc.path = path, "The handler of {path} panicked");
            Status::from(Refusal::Fault).into_http::<tonic::body::Body>().into_response()
        }
        Err(_) => {
            Status::from(Refusal::DeadlineExceeded).into_http::<tonic::body::Body>().into_response()
        }
    }
}

/// Replaces an error that tonic made by itself.
fn retell(headers: &mut HeaderMap) {
    let is_own = headers.contains_key(Status::GRPC_STATUS_DETAILS);
    let ended_well = headers.get(Status::GRPC_STATUS).is_none_or(|code| code == "0");
    if is_own || ended_well {
        return;
    }
    let refusal = Status::from_header_map(headers)
        .and_then(|status| refusal(status.code(), status.message()));
    if let Some(refusal) = refusal {
        // It cannot fail: the message is percent-encoded, the details are base64.
        let _ = Status::from(refusal).add_header(headers);
    }
}

fn refusal(code: Code, message: &str) -> Option<Refusal> {
    match code {
        Code::OutOfRange if message.starts_with("Error, decoded message length too large") => {
            let sizes = message.trim_start_matches("Error, decoded message length too large: ");
            Some(Refusal::TooLarge(format!("the request is too large: {sizes}")))
        }
        Code::OutOfRange if message.starts_with("Error, encoded message length too large") => {
            let sizes = message.trim_start_matches("Error, encoded message length too large: ");
            let advice = "ask for view BASIC or a smaller page";
            Some(Refusal::TooLarge(format!("the answer is too large: {sizes}; {advice}")))
        }
        Code::ResourceExhausted if message.starts_with("Error decompressing: size limit") => {
            Some(Refusal::TooLarge("the request is too large once decompressed".to_owned()))
        }
        Code::Internal if MALFORMED.iter().any(|known| message.starts_with(known)) => {
            Some(Refusal::Malformed(format!("the request is not a valid message: {message}")))
        }
        Code::Cancelled if message == "Timeout expired" => Some(Refusal::DeadlineExceeded),
        Code::Internal | Code::Unknown => {
            tracing::error!(message, "An rpc ended with an error of unknown origin");
            Some(Refusal::Fault)
        }
        // Of services that are not ours, such as reflection, or what tonic says on its own and
        // the contract leaves to it, such as UNIMPLEMENTED.
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

/// The `grpc-timeout` of a request: up to eight digits and a unit. A malformed one is no limit.
fn timeout(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 60 * 60)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::pb::system_service_server::{SystemService, SystemServiceServer};
    use crate::pb::{
        GetStatusRequest, GetStatusResponse, ListWorkersRequest, ListWorkersResponse,
        SetLogLevelRequest, SetLogLevelResponse,
    };
    use prost::Message;
    use tonic_types::StatusExt;
    use tower::ServiceExt;

    /// Panics, hangs or answers too much.
    struct Unwell(fn() -> String);

    #[tonic::async_trait]
    impl SystemService for Unwell {
        async fn get_status(
            &self,
            _: tonic::Request<GetStatusRequest>,
        ) -> Result<tonic::Response<GetStatusResponse>, Status> {
            let answer = GetStatusResponse { version: (self.0)(), ..Default::default() };
            Ok(tonic::Response::new(answer))
        }

        async fn list_workers(
            &self,
            _: tonic::Request<ListWorkersRequest>,
        ) -> Result<tonic::Response<ListWorkersResponse>, Status> {
            pending().await
        }

        async fn set_log_level(
            &self,
            _: tonic::Request<SetLogLevelRequest>,
        ) -> Result<tonic::Response<SetLogLevelResponse>, Status> {
            pending().await
        }
    }

    async fn call(answer: fn() -> String, method: &str, body: Vec<u8>, timeout: &str) -> Status {
        let service = SystemServiceServer::new(Unwell(answer))
            .max_decoding_message_size(100)
            .max_encoding_message_size(100);
        let router = tonic::service::Routes::new(service).into_axum_router();
        let router = router.layer(axum::middleware::from_fn(keep_contract));
        let request = Request::builder()
            .method("POST")
            .uri(format!("/flowgate.v1.SystemService/{method}"))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout)
            .body(axum::body::Body::from(body))
            .expect("the request is valid");
        let response = router.oneshot(request).await.expect("a router does not fail");
        assert_eq!(response.status(), http::StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let body = response.into_body().collect().await.expect("the body is complete");
        Status::from_header_map(body.trailers().expect("the body ends with trailers"))
            .expect("the trailers have a status")
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("tests send little");
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    fn request() -> Vec<u8> {
        frame(&GetStatusRequest::default().encode_to_vec())
    }

    fn reason(status: &Status) -> String {
        let details = status.get_error_details();
        details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
    }

    fn fine() -> String {
        "fine".to_owned()
    }

    #[tokio::test]
    async fn a_call_that_goes_well_is_left_alone() {
        let status = call(fine, "GetStatus", request(), "5S").await;
        assert_eq!((status.code(), status.details()), (Code::Ok, &[][..]));
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_with_a_reason() {
        let status = call(|| panic!("on purpose"), "GetStatus", request(), "5S").await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "INTERNAL"));
        assert!(!status.message().contains("on purpose"));
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_resource_exhausted() {
        let status = call(fine, "GetStatus", frame(&[0; 101]), "5S").await;
        let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!((status.code(), reason(&status).as_str()), expected);
        assert!(status.message().contains("101 bytes"), "{}", status.message());
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_resource_exhausted() {
        let status = call(|| "x".repeat(101), "GetStatus", request(), "5S").await;
        let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!((status.code(), reason(&status).as_str()), expected);
    }

    #[tokio::test]
    async fn garbage_is_an_invalid_argument() {
        let truncated = vec![0, 0, 0, 0, 9, 1];
        for body in [frame(&[0xff; 9]), truncated, vec![], vec![7, 0, 0, 0, 0], vec![1, 0, 0, 0, 0]]
        {
            let status = call(fine, "GetStatus", body.clone(), "5S").await;
            let expected = (Code::InvalidArgument, "MALFORMED_MESSAGE");
            assert_eq!((status.code(), reason(&status).as_str()), expected, "{body:?}");
            assert!(status.get_error_details().bad_request().is_some());
        }
    }

    #[tokio::test]
    async fn a_deadline_that_passes_is_told_as_such() {
        let status = call(fine, "ListWorkers", frame(&[]), "20m").await;
        let expected = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert_eq!((status.code(), reason(&status).as_str()), expected);
    }

    #[tokio::test]
    async fn an_unknown_method_stays_unimplemented() {
        let status = call(fine, "GetWeather", request(), "5S").await;
        assert_eq!(status.code(), Code::Unimplemented);
    }

    #[test]
    fn nothing_ends_as_unknown() {
        assert!(matches!(refusal(Code::Unknown, "h2 protocol error"), Some(Refusal::Fault)));
        assert!(matches!(refusal(Code::Internal, "whatever"), Some(Refusal::Fault)));
        assert!(matches!(
            refusal(Code::Cancelled, "Timeout expired"),
            Some(Refusal::DeadlineExceeded)
        ));
    }

    #[test]
    fn a_grpc_timeout_is_read_as_its_specification_says() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]))
        };
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("1n"), Some(Duration::from_nanos(1)));
        for malformed in ["", "m", "1", "-1m", "1.5S", "123456789S", "1x"] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }
}

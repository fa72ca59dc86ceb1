//! Errors as RFC 9457 says: `application/problem+json`. One table has the status of each code.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;
use wire::json::SessionRenewed;
use wire::v1::{Error, ErrorCode};

/// The media type of a problem.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// Why a request failed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Problem {
    /// Always `about:blank`: `code` says what kind of problem this is.
    #[serde(rename = "type")]
    kind: Kind,
    /// The words of HTTP for the status.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What happened and what to do next, for people.
    detail: String,
    /// The kind of problem, for programs.
    code: &'static str,
    /// The token that holds the name now, if the error says.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_token: Option<u64>,
    /// The owner that holds the name now, if the error says.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// The time to let pass before the next try, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
    /// What a heartbeat did, if it did not keep the session on all shards.
    #[serde(flatten)]
    heartbeat: Option<Box<SessionRenewed>>,
}

/// The type of a problem, by RFC 9457.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
enum Kind {
    #[serde(rename = "about:blank")]
    Blank,
}

/// The status for an error of the service. The class of the code decides: fix the input, try later,
/// stop, retry, find out.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorCode::VersionMoved
        | ErrorCode::Held
        | ErrorCode::WaitTimeout
        | ErrorCode::WaitCancelled => StatusCode::CONFLICT,
        ErrorCode::NotOwner | ErrorCode::Expired | ErrorCode::SessionLost => {
            StatusCode::PRECONDITION_FAILED
        }
        ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::NoLeader | ErrorCode::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::Internal | ErrorCode::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The requests that this door refuses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No route has this path.
    NoRoute,
    /// The route of this path has another method.
    OtherMethod,
    /// The body did not come in time.
    SlowBody,
    /// The body is too large.
    BodyTooLarge,
    /// The body is not said to be JSON.
    NotJson,
    /// The page of another site sent the request.
    OtherOrigin,
    /// The request is for another host.
    OtherHost,
    /// The headers are too large.
    HeadTooLarge,
    /// A method of gRPC, not called by gRPC over HTTP/2.
    GrpcOnly,
    /// A state of Terraform.
    NoState,
    /// The document of a lock of Terraform is too large to be kept.
    LockInfoTooLarge,
}

impl Refused {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Refused; 11] = [
        Refused::NoRoute,
        Refused::OtherMethod,
        Refused::SlowBody,
        Refused::BodyTooLarge,
        Refused::NotJson,
        Refused::OtherOrigin,
        Refused::OtherHost,
        Refused::HeadTooLarge,
        Refused::GrpcOnly,
        Refused::NoState,
        Refused::LockInfoTooLarge,
    ];

    /// Status, code and words.
    pub(crate) fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Refused::NoRoute => (
                StatusCode::NOT_FOUND,
                "NOT_FOUND",
                "there is no such path: GET /openapi.json lists all of them",
            ),
            Refused::OtherMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this path has another method: see the header allow",
            ),
            Refused::SlowBody => (
                StatusCode::REQUEST_TIMEOUT,
                "BODY_TOO_SLOW",
                "the body of the request did not come within 10 s: send it again",
            ),
            Refused::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "BODY_TOO_LARGE",
                "the body of the request is larger than 1 MiB: make it smaller",
            ),
            Refused::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "NOT_JSON",
                "the request does not say that its body is JSON: send the header content-type: \
                 application/json",
            ),
            Refused::OtherOrigin => (
                StatusCode::FORBIDDEN,
                "OTHER_ORIGIN",
                "a page of another site sent this request, and no page may use a gateway: send it \
                 from a program, without the headers origin and sec-fetch-site",
            ),
            Refused::OtherHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "OTHER_HOST",
                "this gateway serves its own machine only, and the request names another host: \
                 use localhost or an IP address in the URL",
            ),
            Refused::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "HEADERS_TOO_LARGE",
                "the headers of the request are larger than 16 KiB: make them smaller",
            ),
            Refused::GrpcOnly => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "GRPC_ONLY",
                "this path is one of gRPC, over HTTP/2 and with content-type: application/grpc: \
                 GET /openapi.json lists the others",
            ),
            Refused::NoState => (
                StatusCode::METHOD_NOT_ALLOWED,
                "NO_STATE",
                "this path has the methods LOCK and UNLOCK, and a gateway keeps no state of \
                 Terraform: give it as lock_address and unlock_address, and a store of states as \
                 address",
            ),
            Refused::LockInfoTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "LOCK_INFO_TOO_LARGE",
                "the document of the lock is larger than 1,024 bytes, and a part of it would be \
                 of no use: shorten the path of the state or the name of the user",
            ),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let (status, code, detail) = refused.row();
        Problem::new(status, code, detail.to_owned())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let code = error.code();
        Problem {
            current_token: (error.current_token != 0).then_some(error.current_token),
            holder: (!error.holder.is_empty()).then_some(error.holder),
            retry_after_ms: (error.retry_after_ms != 0).then_some(error.retry_after_ms),
            ..Problem::new(status(code), code.name(), error.message)
        }
    }
}

impl From<Box<Error>> for Problem {
    fn from(error: Box<Error>) -> Problem {
        Problem::from(*error)
    }
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: String) -> Problem {
        Problem {
            kind: Kind::Blank,
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
            code,
            current_token: None,
            holder: None,
            retry_after_ms: None,
            heartbeat: None,
        }
    }

    /// The problem of a heartbeat, with the fields of its answer.
    pub(crate) fn of_heartbeat(error: Error, beat: SessionRenewed) -> Problem {
        Problem { heartbeat: Some(Box::new(beat)), ..Problem::from(error) }
    }

    /// The answer, as the layer before all services gives it.
    pub(crate) fn into_http(self) -> Response<tonic::body::Body> {
        self.into_response().map(tonic::body::Body::new)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            // The header counts in whole seconds.
            let seconds = self.retry_after_ms.unwrap_or(0).div_ceil(1_000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ErrorClass;

    /// The codes of the protocol.
    fn codes() -> impl Iterator<Item = ErrorCode> {
        (0..=100).filter_map(|code| ErrorCode::try_from(code).ok())
    }

    #[test]
    fn the_status_says_what_the_class_says() {
        assert!(codes().count() > 10);
        for code in codes() {
            let expected: &[u16] = match code.class() {
                ErrorClass::FixInput => &[400, 409],
                ErrorClass::TryLater => &[409],
                ErrorClass::Fenced => &[412],
                ErrorClass::Retry => &[429, 503],
                ErrorClass::Unknown => &[504],
                ErrorClass::Denied => &[401, 403],
                ErrorClass::Internal => &[500],
            };
            assert!(expected.contains(&status(code).as_u16()), "{code:?}");
        }
    }

    #[test]
    fn the_headers_say_when_to_try_again_and_how_to_sign_in() {
        for code in codes() {
            for (retry_after_ms, seconds) in [(0, "1"), (1, "1"), (1_001, "2")] {
                let error = Error { retry_after_ms, ..Error::new(code, "why") };
                let response = Problem::from(error).into_response();
                let header = |name| response.headers().get(name).map(|value| value.as_bytes());
                let is_retry = code.class() == ErrorClass::Retry;
                assert_eq!(header(RETRY_AFTER), is_retry.then_some(seconds.as_bytes()), "{code:?}");
                let signs_in = code == ErrorCode::Unauthenticated;
                assert_eq!(header(WWW_AUTHENTICATE), signs_in.then_some(&b"Bearer"[..]));
                assert_eq!(header(CACHE_CONTROL), Some(&b"no-store"[..]));
            }
        }
    }
}

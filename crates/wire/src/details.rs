//! The details of a status: an encoded `google.rpc.Status` in `grpc-status-details-bin`, as gRPC's
//! libraries expect it.
//!
//! They are a `google.rpc.ErrorInfo` with the code's name as reason, a `google.rpc.RetryInfo` if
//! the error says when to try again, and the `palisade.v1.Error` itself.

use crate::v1::Error;
use prost::Message;
use prost_types::{Any, Duration};
use std::collections::HashMap;
use tonic_types::pb::{ErrorInfo, RetryInfo, Status};

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "palisade";

const TYPE_URLS: &str = "type.googleapis.com/";
const ERROR_TYPE: &str = "palisade.v1.Error";

pub(crate) fn encode(error: &Error) -> Vec<u8> {
    let reason = error.code().name().to_owned();
    let info = ErrorInfo { reason, domain: ERROR_DOMAIN.to_owned(), metadata: metadata(error) };
    let mut details = vec![any("google.rpc.ErrorInfo", &info)];
    if error.retry_after_ms > 0 {
        let (seconds, millis) = (error.retry_after_ms / 1_000, error.retry_after_ms % 1_000);
        let retry_delay =
            Some(Duration { seconds: seconds.into(), nanos: millis as i32 * 1_000_000 });
        details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay }));
    }
    details.push(any(ERROR_TYPE, error));
    let code = error.code().status_code() as i32;
    Status { code, message: error.message.clone(), details }.encode_to_vec()
}

/// The typed error in encoded details. `None` if they hold none of ours.
pub(crate) fn decode(details: &[u8]) -> Option<Error> {
    let status = Status::decode(details).ok()?;
    let ours = status
        .details
        .iter()
        .find(|any| any.type_url.strip_prefix(TYPE_URLS) == Some(ERROR_TYPE))?;
    Error::decode(ours.value.as_slice()).ok()
}

/// The error's fields as metadata, for clients that read only the `ErrorInfo`.
fn metadata(error: &Error) -> HashMap<String, String> {
    let token = (error.current_token != 0)
        .then(|| ("current_token".to_owned(), error.current_token.to_string()));
    let holder = (!error.holder.is_empty()).then(|| ("holder".to_owned(), error.holder.clone()));
    token.into_iter().chain(holder).collect()
}

fn any(type_name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("{TYPE_URLS}{type_name}"), value: message.encode_to_vec() }
}

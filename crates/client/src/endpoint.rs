//! Endpoints as people write them, and reasons why one could not be connected to.
//!
//! It promises that no part of an endpoint is ignored ([`routing::Address`]), and that a reason is never empty.

use crate::Error;
use routing::{Address, AddressError};
use tonic::Status;
use tonic::transport::Endpoint;

/// The gateway at `text`: `host:port`, or `http://host:port`. The connection tries every address that the host resolves to.
///
/// # Errors
/// [`Error::is_invalid`], with what to write.
pub fn parse(text: &str) -> Result<Endpoint, Error> {
    let address = Address::of_endpoint(text).map_err(|why| refused(text, why))?;
    Endpoint::from_shared(format!("http://{address}")).map_err(|_| refused(text, AddressError::HostName))
}

fn refused(text: &str, why: AddressError) -> Error {
    let text = text.trim();
    // It may have a password, which belongs in no log.
    let shown = match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    Error::invalid(format!("{shown:?} is no endpoint: {why}"))
}

/// Texts of the transport that say only that there was an error.
const SAYING_NOTHING: [&str; 4] =
    ["transport error", "h2 protocol error: http2 error", "operation was canceled", "connection error"];

fn says_something(words: &str) -> bool {
    let words = words.trim();
    !words.is_empty() && !SAYING_NOTHING.contains(&words)
}

/// The innermost cause that says something: tonic's own outermost text is "transport error", and others are empty at times.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut told = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if says_something(&words) {
            told = Some(words);
        }
        cause = error.source();
    }
    told.unwrap_or_else(|| "the connection ended without a word: does another program listen there?".to_owned())
}

/// What a status says, or what its causes do, or its code.
pub fn reason(status: &Status) -> String {
    if says_something(status.message()) {
        return status.message().to_owned();
    }
    match std::error::Error::source(status) {
        Some(cause) => root_cause(cause),
        None if status.message().trim().is_empty() => format!("it answered {:?} and no words", status.code()),
        None => "the connection ended without a word: does another program listen there?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_whole_or_refused_with_what_to_write_and_without_its_password() {
        for good in ["127.0.0.1:7400", "http://localhost:1", " [::1]:7400 ", "HTTP://a.example:1/"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "localhost", "host:port", "a b:1", "https://a:1", "grpcs://a:1", "::1:1", "a:99999", "http://a:1/v3"]
        {
            let error = parse(bad).expect_err(bad);
            assert!(error.is_invalid() && error.message.contains("write"), "{bad}: {error}");
        }
        let error = parse("http://me:secret@host:1").expect_err("a user");
        assert!(!error.message.contains("secret") && error.message.contains("@host:1"), "{error}");
        assert_eq!(parse("[0::1]:7400").expect("IPv6").uri().to_string(), "http://[::1]:7400/");
    }

    #[test]
    fn no_reason_is_empty() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        assert_eq!(root_cause(&layer("transport error", Some(layer("refused", None)))), "refused");
        assert_eq!(root_cause(&layer("why", Some(layer("transport error", None)))), "why");
        for nothing in ["", " ", "transport error", "h2 protocol error: http2 error"] {
            assert!(root_cause(&layer(nothing, Some(layer(nothing, None)))).contains("another program"), "{nothing:?}");
            assert!(says_something(&reason(&Status::unknown(nothing))), "{nothing:?}");
        }
        assert!(!root_cause(&layer("", Some(layer("", None)))).is_empty());
        assert_eq!(reason(&Status::unknown("why")), "why");
        assert!(reason(&Status::unavailable("")).contains("Unavailable"));
    }
}

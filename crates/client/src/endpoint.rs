//! Endpoints as people write them. No part of an endpoint is ignored ([`routing::Address`]).

use crate::Error;
use routing::{Address, AddressError};
use tonic::transport::Endpoint;

/// Parses the endpoint of a gateway: `host:port`, or `http://host:port`. The connection tries every
/// address that the host resolves to.
///
/// # Errors
/// [`Error::is_invalid`] with a message that shows the right form.
pub fn parse(text: &str) -> Result<Endpoint, Error> {
    let address = Address::of_endpoint(text).map_err(|why| refused(text, why))?;
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| refused(text, AddressError::HostName))
}

fn refused(text: &str, why: AddressError) -> Error {
    let text = text.trim();
    // The text may have a password, which must not reach a log.
    let shown = match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    Error::invalid(format!("{shown:?} is no endpoint: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_whole_or_refused_with_what_to_write_and_without_its_password() {
        for good in ["127.0.0.1:7400", "http://localhost:1", " [::1]:7400 ", "HTTP://a.example:1/"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "host:port",
            "a b:1",
            "https://a:1",
            "grpcs://a:1",
            "::1:1",
            "a:99999",
            "http://a:1/v3",
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.is_invalid() && error.message.contains("write"), "{bad}: {error}");
        }
        let error = parse("http://me:secret@host:1").expect_err("a user");
        assert!(!error.message.contains("secret") && error.message.contains("@host:1"), "{error}");
        assert_eq!(parse("[0::1]:7400").expect("IPv6").uri().to_string(), "http://[::1]:7400/");
    }
}

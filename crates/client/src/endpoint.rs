//! Endpoints as people write them. No part of an endpoint is ignored ([`routing::Address`]).

use crate::Error;
use net::dial::{ClientSide, Target};
use net::token::Token;
use routing::{Address, AddressError, Scheme};
use std::sync::Arc;

/// How a client checks which service it talks to, and proves its identity.
///
/// ```
/// use palisade_client::{ClientSide, Pem, Security, Token};
///
/// let security = Security {
///     tls: Some(ClientSide { ca: Pem::File("ca.crt".into()), own: None }.into()),
///     token: Some(Token::file("/run/secrets/palisade-token")),
///     ..Security::default()
/// };
/// ```
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// TLS: the authorities of the gateways' certificates, and the client's own certificate if it
    /// has one. The files are read again for each connection.
    pub tls: Option<Arc<ClientSide>>,
    /// The name in the gateways' certificates, if it is not the host of the endpoint.
    pub server_name: Option<String>,
    /// The bearer token that goes with each call and stream.
    pub token: Option<Token>,
}

/// A gateway as it is dialled: `host:port`, `https://host:port`, or `http://host:port`. Without a
/// scheme TLS is spoken if `security` has it. The connection tries every address that the host
/// resolves to.
///
/// # Errors
/// [`Error::is_invalid`] with a message that shows the right form.
pub fn target(text: &str, security: &Security) -> Result<Target, Error> {
    let (scheme, address) = Address::of_endpoint(text).map_err(|why| refused(text, why))?;
    let shown = address.to_string();
    let tls = match (scheme, &security.tls) {
        (Some(Scheme::Http), _) | (None, None) => None,
        (Some(Scheme::Https), None) => {
            return Err(Error::invalid(format!(
                "https://{shown} speaks TLS: give the authority of its certificate (--ca FILE)"
            )));
        }
        (_, Some(tls)) => Some(tls.clone()),
    };
    if tls.is_none() && security.token.is_some() && !address.is_loopback() {
        return Err(Error::invalid(format!(
            "a token is not sent to {shown} without TLS, because others could read it: give the \
             authority of the gateway's certificate (--ca FILE)"
        )));
    }
    let target = match tls {
        None => Target::plain(&shown),
        Some(tls) => Target::named(&shown, tls, security.server_name.as_deref()),
    };
    target.map_err(|_| refused(text, AddressError::HostName))
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
    use net::dial::Pem;

    fn parse(text: &str) -> Result<Target, Error> {
        target(text, &Security::default())
    }

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
        assert_eq!(parse("[0::1]:7400").expect("IPv6").address(), "[::1]:7400");
    }

    #[test]
    fn a_token_goes_over_tls_or_stays_on_this_machine() {
        let side = Arc::new(ClientSide { ca: Pem::Text(String::new()), own: None });
        let with = |tls: bool, text| {
            let (tls, token) = (tls.then(|| side.clone()), Some(Token::text("t")));
            target(text, &Security { tls, token, server_name: None })
        };
        for (tls, text, is_sent) in [
            (false, "gw.example:1", false),
            (true, "http://gw.example:1", false),
            (true, "gw.example:1", true),
            (true, "https://gw.example:1", true),
            (false, "127.0.0.1:1", true),
            (false, "http://localhost:1", true),
            (false, "https://127.0.0.1:1", false), // no authority is given
        ] {
            let sent = with(tls, text);
            assert_eq!(sent.is_ok(), is_sent, "{text}: {sent:?}");
            assert!(sent.err().is_none_or(|error| error.message.contains("--ca")), "{text}");
        }
    }
}

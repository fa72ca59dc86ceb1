//! Addresses as people write them: `host:port`. Any other form is refused, with the form to write
//! instead.
//!
//! One parser serves the cluster file, `--listen` and the endpoints of clients, so that all of them
//! accept the same addresses. It ignores no part of a text: an unknown scheme, a user, a path or a
//! query is refused. It resolves no names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host and a port.
///
/// * The port is not 0.
/// * A name has only letters, digits, `.`, `-` and `_`, and is not empty.
///
/// ```
/// use palisade_routing::Address;
///
/// let address: Address = "[0:0:0:0:0:0:0:1]:7400".parse()?;
/// assert_eq!(address.to_string(), "[::1]:7400");
/// assert!("::1:7400".parse::<Address>().is_err(), "an IPv6 address goes in [ ]");
/// # Ok::<(), palisade_routing::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: Host,
    port: u16,
}

/// How an endpoint asks to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    /// The name as it was written.
    Name(String),
}

/// The reason why a text is no address, and the form to write. It does not hold the text itself,
/// which may have a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is empty.
    #[error("it is empty: write host:port, as in 127.0.0.1:7400")]
    Empty,
    /// The text has spaces or semicolons, as between the items of a list.
    #[error("it looks like more than one address: write host:port, and separate several by commas")]
    Several,
    /// The text has a scheme where none is accepted.
    #[error("it has a scheme: write host:port alone, as in 127.0.0.1:7400")]
    Scheme,
    /// The scheme is neither `http` nor `https`.
    #[error("its scheme is unknown: write host:port, https://host:port, or http://host:port")]
    UnknownScheme,
    /// The text has `user@` or `user:password@`.
    #[error("it names a user, but there is no login: write host:port alone")]
    User,
    /// There is more text after the port.
    #[error(
        "there is text after the port, which would be ignored: write host:port alone, without path or query"
    )]
    Trailing,
    /// There is no `:port`.
    #[error("it has no port: write host:port, as in 127.0.0.1:7400")]
    NoPort,
    /// The port is not 1 to 65535.
    #[error("its port is not a number from 1 to 65535: write host:port, as in 127.0.0.1:7400")]
    Port,
    /// The host has colons, but no brackets.
    #[error("write an IPv6 address in [ ], and its port behind them, as in [::1]:7400")]
    BareIpv6,
    /// The text has `[` without `]`, or no IPv6 address between them.
    #[error("write an IPv6 address without a zone in [ ], as in [::1]:7400")]
    Ipv6,
    /// The host is four numbers that form no IPv4 address.
    #[error(
        "its host is not an IPv4 address: write four numbers from 0 to 255, without leading zeros"
    )]
    Ipv4,
    /// The host has characters that no host name has.
    #[error(
        "its host is not a valid name: write letters, digits, `.` and `-`, or an IP address, before the port"
    )]
    HostName,
}

impl Address {
    /// Parses an endpoint of a client: an address, or a URL of scheme `http` or `https` with nothing
    /// after the port but `/`. The scheme is `None` if none is written.
    ///
    /// ```
    /// use palisade_routing::{Address, Scheme};
    ///
    /// let (scheme, address) = Address::of_endpoint("https://gw.example:7400/")?;
    /// assert_eq!((scheme, address.host().as_str()), (Some(Scheme::Https), "gw.example"));
    /// # Ok::<(), palisade_routing::AddressError>(())
    /// ```
    ///
    /// # Errors
    /// The form to write instead. Only spaces around the text are ignored.
    pub fn of_endpoint(text: &str) -> Result<(Option<Scheme>, Address), AddressError> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else { return Ok((None, text.parse()?)) };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(AddressError::UnknownScheme),
        };
        Ok((Some(scheme), rest.strip_suffix('/').unwrap_or(rest).parse()?))
    }

    /// The host: a name as it was written, or an IP address without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it stands for every address of a machine, so that no client can dial it: `0.0.0.0`,
    /// `[::]`.
    pub fn is_unspecified(&self) -> bool {
        matches!(self.one_spelling(), Host::Ip(ip) if ip.is_unspecified())
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self.one_spelling() {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name == LOCALHOST,
        }
    }

    /// Whether both name one socket, in any spelling.
    ///
    /// `localhost` is the same as 127.0.0.1 and as ::1. Two names are compared by their spelling,
    /// because names are not resolved.
    pub fn is_same_as(&self, other: &Address) -> bool {
        if self.port != other.port {
            return false;
        }
        match (self.one_spelling(), other.one_spelling()) {
            (Host::Name(name), Host::Ip(ip)) | (Host::Ip(ip), Host::Name(name)) => {
                name == LOCALHOST && (ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST)
            }
            (one, another) => one == another,
        }
    }

    /// A text that is equal for the hosts of any two addresses that are the
    /// [same](Address::is_same_as). Hosts that differ may share it: 127.0.0.1 and ::1 do.
    pub(crate) fn host_key(&self) -> String {
        match self.one_spelling() {
            Host::Ip(ip) if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => {
                LOCALHOST.to_owned()
            }
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name,
        }
    }

    fn one_spelling(&self) -> Host {
        match &self.host {
            Host::Ip(ip) => Host::Ip(ip.to_canonical()), // ::ffff:127.0.0.1 is 127.0.0.1
            Host::Name(name) => Host::Name(name.trim_end_matches('.').to_ascii_lowercase()),
        }
    }
}

const LOCALHOST: &str = "localhost";

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text.trim().is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains(|c: char| c.is_whitespace() || c == ';') {
            return Err(AddressError::Several);
        }
        if text.contains("://") {
            return Err(AddressError::Scheme);
        }
        if text.contains('@') {
            return Err(AddressError::User);
        }
        if text.contains(['/', '?', '#']) {
            return Err(AddressError::Trailing);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, rest) = rest.split_once(']').ok_or(AddressError::Ipv6)?;
                let ip: Ipv6Addr = inner.parse().map_err(|_| AddressError::Ipv6)?;
                (Host::Ip(ip.into()), rest.strip_prefix(':').ok_or(AddressError::NoPort)?)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
                (host_of(host)?, port)
            }
        };
        // The parser of `u16` would accept a sign.
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(if port.is_empty() { AddressError::NoPort } else { AddressError::Port });
        }
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Port)?;
        Ok(Address { host, port })
    }
}

fn host_of(host: &str) -> Result<Host, AddressError> {
    if host.contains(':') {
        return Err(AddressError::BareIpv6);
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let looks_like_ipv4 =
        host.split('.').count() == 4 && host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_ipv4 {
        return Err(AddressError::Ipv4);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(allowed) || host.starts_with('.') || host.contains("..")
    {
        return Err(AddressError::HostName);
    }
    Ok(Host::Name(host.to_owned()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, AddressError> {
        Address::of_endpoint(text).map(|(_, address)| address.to_string())
    }

    #[test]
    fn every_form_of_an_endpoint_is_accepted_whole_or_refused() {
        for (text, address) in [
            ("127.0.0.1:7400", "127.0.0.1:7400"),
            (" localhost:1\n", "localhost:1"),
            ("[::1]:7400", "[::1]:7400"),
            ("[0:0:0:0:0:0:0:1]:7400", "[::1]:7400"),
            ("Https://a:1/", "a:1"),
            ("http://a.b-c_d.:7400", "a.b-c_d.:7400"),
            ("HTTP://[::ffff:127.0.0.1]:7400/", "[::ffff:127.0.0.1]:7400"),
        ] {
            assert_eq!(of(text), Ok(address.to_owned()), "{text}");
        }
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            ("  ", Empty),
            ("http://", Empty),
            ("grpcs://a:1", UnknownScheme),
            ("tls://a:1", UnknownScheme),
            ("ftp://a:1", UnknownScheme),
            ("etcd://a:1", UnknownScheme),
            ("unix:///run/x", UnknownScheme),
            ("://a:1", UnknownScheme),
            ("http://http://a:1", Scheme),
            ("http://a:1/v3", Trailing),
            ("http://a:1//", Trailing),
            ("a:1/", Trailing),
            ("http://a:1?tls=true", Trailing),
            ("http://a:1#x", Trailing),
            ("http://me@a:1", User),
            ("me:secret@a:1", User),
            ("a", NoPort),
            ("a:", NoPort),
            ("[::1]", NoPort),
            ("[::1]7400", NoPort),
            ("a:0", Port),
            ("a:+1", Port),
            ("a:-1", Port),
            ("a:65536", Port),
            ("a:99999", Port),
            ("a: 1", Several),
            ("a:1 b:2", Several),
            ("a:1;b:2", Several),
            ("host:port", Port),
            ("::1:7400", BareIpv6),
            ("::1", BareIpv6),
            ("https:a:1", BareIpv6),
            ("[::x]:1", Ipv6),
            ("[::1:1", Ipv6),
            ("[fe80::1%eth0]:1", Ipv6),
            ("[127.0.0.1]:1", Ipv6),
            ("127.0.0.256:1", Ipv4),
            ("127.0.0.01:1", Ipv4),
            (":7400", HostName),
            ("a b:1", Several),
            ("ä:1", HostName),
            ("a..b:1", HostName),
            ("a*b:1", HostName),
        ] {
            assert_eq!(of(text), Err(error), "{text}");
        }
    }

    #[test]
    fn spellings_of_one_socket_are_the_same() {
        let address = |text: &str| text.parse::<Address>().expect(text);
        let same = |one: &str, other: &str| address(one).is_same_as(&address(other));
        for (one, other) in [
            ("localhost:1", "LocalHost.:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:1", "localhost:1"),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1"),
            ("127.0.0.1:1", "[::ffff:7f00:1]:1"),
            ("[::1]:1", "[0:0::1]:1"),
            ("A.example:1", "a.example.:1"),
            ("a:1", "a:0001"),
        ] {
            assert!(same(one, other) && same(other, one), "{one} and {other}");
            assert_eq!(address(one).host_key(), address(other).host_key(), "{one} and {other}");
        }
        for (one, other) in [
            ("localhost:1", "localhost:2"),
            ("127.0.0.1:1", "[::1]:1"),
            ("127.0.0.2:1", "localhost:1"),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} and {other}");
        }
        for any in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"] {
            assert!(address(any).is_unspecified() && !address(any).is_loopback(), "{any}");
        }
        for own in ["127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
            assert!(address(own).is_loopback() && !address(own).is_unspecified(), "{own}");
        }
    }
}

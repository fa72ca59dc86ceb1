//! Making connections: to a server at an address, with the proof that it owes.
//!
//! - A [`Target`] takes the certificates that are in use when it connects, also when its channel
//!   connects again.
//! - Errors tell the change to make, because many mistakes look alike from outside: no TLS where it
//!   is spoken, the wrong authority, the wrong address.
//!
//! The module knows nothing of calls and retries.

mod client_side;
mod connector;
mod security;
mod words;

#[cfg(test)]
mod tests;

use crate::frames::Frames;
use crate::tls::Inside;
use connector::Connector;
pub use connector::Dialled;
use rustls::pki_types::ServerName;
use security::Security;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service as _;
use words::Refusal;

pub use crate::verify::{Expected, NotExpected};
pub use client_side::{ClientSide, Pem};
pub use words::DialError;

/// An address that nothing can be dialled with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address {0:?} is not host:port")]
pub struct NotAnAddress(pub String);

/// A server: its address, and how the connection is secured.
#[derive(Clone, Debug)]
pub struct Target {
    endpoint: Endpoint,
    security: Security,
    refusal: Arc<Refusal>,
}

impl Target {
    /// A server without TLS at `host:port`.
    ///
    /// # Errors
    /// If the address is anything else.
    pub fn plain(address: &str) -> Result<Target, NotAnAddress> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| NotAnAddress(address.to_owned()))?;
        Ok(Target { endpoint, security: Security::Plain, refusal: Arc::default() })
    }

    /// A server that proves its name: `name`, or the host of the address.
    ///
    /// # Errors
    /// If the address is not `host:port`, or the name is none.
    pub fn named(
        address: &str,
        tls: Arc<ClientSide>,
        name: Option<&str>,
    ) -> Result<Target, NotAnAddress> {
        let wrong = || NotAnAddress(address.to_owned());
        let endpoint = Target::plain(address)?.secure(address)?;
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        let name = name.unwrap_or(host.trim_start_matches('[').trim_end_matches(']'));
        let name = ServerName::try_from(name.to_owned()).map_err(|_| wrong())?;
        Ok(Target { endpoint, security: Security::Named { tls, name }, refusal: Arc::default() })
    }

    /// The node with this id, or any node of the cluster for 0. Without TLS inside the cluster it
    /// proves nothing.
    ///
    /// # Errors
    /// If the address is not `host:port`.
    pub fn inside(
        address: &str,
        tls: Option<&Arc<Inside>>,
        node: u64,
    ) -> Result<Target, NotAnAddress> {
        let target = Target::plain(address)?;
        let Some(tls) = tls.cloned() else { return Ok(target) };
        let node = (node != 0).then_some(node);
        let endpoint = target.secure(address)?;
        Ok(Target { endpoint, security: Security::Inside { tls, node }, refusal: Arc::default() })
    }

    /// The endpoint of the same address, with calls that say that they came over TLS. The
    /// endpoint's own scheme stays `http`, because the TLS is not tonic's.
    fn secure(self, address: &str) -> Result<Endpoint, NotAnAddress> {
        let origin = format!("https://{address}").parse();
        Ok(self.endpoint.origin(origin.map_err(|_| NotAnAddress(address.to_owned()))?))
    }

    /// The `host:port`.
    pub fn address(&self) -> &str {
        self.endpoint.uri().authority().map(|authority| authority.as_str()).unwrap_or_default()
    }

    /// Why the server ended the latest connection, if it said so and this was not asked before. A
    /// call that failed may not know, because the reason reaches the connection and not the call.
    pub fn take_refusal(&self) -> Option<DialError> {
        self.refusal.take()
    }

    /// Connects, with TLS if it is spoken. `configure` makes the settings of the protocol on the
    /// connection. The time covers all addresses of the host together, so that one that swallows
    /// packets leaves time for the others.
    ///
    /// # Errors
    /// [`DialError`] if there is no connection in time. With a certificate that the server refuses
    /// the connection may succeed, and its first call fails: TLS 1.3 has no answer in between.
    pub async fn connect(
        &self,
        timeout: Duration,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, DialError> {
        let connector = Connector::new(self.security.clone(), self.refusal.clone(), timeout);
        let endpoint = configure(self.endpoint.clone());
        let connecting = endpoint.connect_with_connector(connector);
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| DialError::of(&error)),
            Err(_) => Err(DialError::TimedOut { ms: timeout.as_millis() as u64 }),
        }
    }

    /// Like [`connect`](Self::connect), for a connection that does not speak HTTP.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_frames(
        &self,
        timeout: Duration,
        frame_bytes_max: usize,
        silence: Duration,
    ) -> Result<Frames<Dialled>, DialError> {
        let mut connector = Connector::new(self.security.clone(), self.refusal.clone(), timeout);
        let connecting = connector.call(self.endpoint.uri().clone());
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => Ok(Frames::begin(connected?.into_inner(), frame_bytes_max, silence)),
            Err(_) => Err(DialError::TimedOut { ms: timeout.as_millis() as u64 }),
        }
    }
}

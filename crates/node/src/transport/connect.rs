//! Connections to other nodes.

use net::dial::{DialError, NotAnAddress, Target};
use net::tls::Inside;
use routing::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use wire::root_cause;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between pings, and the time for their answer. A connection that was cut must be given
/// up sooner than TCP would.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

/// There is no connection to a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotConnected {
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    #[error("{}", root_cause(.0))]
    Dial(#[from] DialError),
}

/// How long a peer may be silent on a stream of frames: as with the pings.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// A fresh connection to a node. With TLS the node has proven its id.
pub(crate) async fn connect(
    tls: Option<&Arc<Inside>>,
    node: NodeId,
    address: &str,
) -> Result<Channel, NotConnected> {
    let configure = |endpoint: Endpoint| {
        endpoint
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true)
    };
    Ok(Target::inside(address, tls, node.0)?.connect(CONNECT_TIMEOUT, configure).await?)
}

//! The settings of a link.

use net::token::Token;
use std::time::Duration;
use wire::internal::v1::ClusterIdentity;

/// The settings of a link.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Whether to connect at once, retry the connection, and refuse operations while there is none.
    /// Otherwise the first operation connects, and later ones wait for the connection.
    pub eager: bool,
    /// Most operations that wait to be sent. The excess is refused.
    pub queue_ops_max: usize,
    /// The time to connect and to open the stream.
    pub connect_timeout: Duration,
    /// How often a silent connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered before the connection is given up.
    pub keepalive_timeout: Duration,
    /// A frame of operations is closed once it holds this many bytes.
    pub frame_bytes: usize,
    /// Set towards nodes: the cluster of this side, and the node at the other end. A node of
    /// another cluster, or another node, gets no operations.
    pub identity: Option<ClusterIdentity>,
    /// Set towards gateways: the bearer token of this client.
    pub token: Option<Token>,
}

impl Default for LinkOptions {
    fn default() -> LinkOptions {
        LinkOptions {
            eager: false,
            queue_ops_max: 16_384,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            frame_bytes: 256 << 10,
            identity: None,
            token: None,
        }
    }
}

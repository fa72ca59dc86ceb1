//! The reasons why a gateway does not start, or stops.

use net::dial::NotAnAddress;
use routing::NodeId;

/// A gateway that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The cluster file cannot be used.
    #[error("{0}")]
    Config(String),
    /// A node of the cluster file has an address that nothing can be dialled with.
    #[error("node {node} of the cluster file: {source}")]
    NodeAddress {
        /// The node.
        node: NodeId,
        /// The reason.
        source: NotAnAddress,
    },
    /// The cluster file names certificates, and none were given to the gateway.
    #[error("the cluster file has `tls.{0}`, and this gateway was started without: load its files")]
    NoTls(&'static str),
    /// A socket could not be used.
    #[error("cannot serve on the given socket: {0}")]
    Listen(#[from] std::io::Error),
    /// A server ended by itself.
    #[error("the {what} server ended: {why}")]
    Failed {
        /// Name of the server.
        what: &'static str,
        /// The server's own error.
        why: String,
    },
}

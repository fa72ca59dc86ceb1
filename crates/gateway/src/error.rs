//! The reasons why a gateway does not start, or stops.

/// A gateway that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The cluster file cannot be used.
    #[error("{0}")]
    Config(String),
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

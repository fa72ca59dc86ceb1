//! Errors of a run.

/// A run of the load generator that failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The list of endpoints is empty.
    #[error("no endpoint is named")]
    NoEndpoint,
    /// The service does not answer, or refused to open a session.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A lock that the mix holds from the start could not be acquired.
    #[error("what the mix holds from the start could not be acquired: {message}")]
    NotPrepared {
        /// A name of [`ErrorCode`](wire::v1::ErrorCode), or one of this generator's own.
        code: String,
        /// The last answer, for people.
        message: String,
    },
    /// The run was told to stop.
    #[error("interrupted before the end of the measurement")]
    Interrupted,
}

//! Why a node does not start, or stopped.

/// A node that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The cluster file does not describe this node.
    #[error("{0}")]
    Config(String),
    /// A socket could not be bound or served.
    #[error("cannot listen on {address}: {reason}; stop what uses this address, or change it in the cluster file")]
    Listen {
        /// `host:port`.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// What the store holds cannot be a replica's.
    #[error(transparent)]
    Shard(#[from] shard::Fatal),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(String),
    /// The disk hangs: a write does not end. The process should end without waiting for anything.
    #[error("{0}")]
    DiskHangs(String),
    /// Something fatal happened while running. The whole node has stopped and answers nothing.
    #[error("{0}")]
    Failed(String),
}

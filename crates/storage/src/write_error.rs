//! Why a write failed. The engine takes no writes after it, and reports the text to its caller.

use crate::StorageError;
use std::io;

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The disk refused.
    #[error("{what}: {cause}")]
    Disk {
        /// The step of the write, or its file.
        what: String,
        #[source]
        cause: io::Error,
    },
    /// RocksDB refused.
    #[error("{0}")]
    Database(#[from] rocksdb::Error),
    /// What the write builds on cannot be read: entries that were to be moved to the database, or the
    /// rows and the index of history.
    #[error("{0}")]
    Unreadable(#[source] StorageError),
}

impl WriteError {
    /// The error of a step of a write, or of its file, once the disk's error is known.
    pub(crate) fn disk(what: impl Into<String>) -> impl FnOnce(io::Error) -> WriteError {
        |cause| WriteError::Disk { what: what.into(), cause }
    }
}

impl From<WriteError> for StorageError {
    fn from(error: WriteError) -> StorageError {
        StorageError::Io(error.to_string())
    }
}

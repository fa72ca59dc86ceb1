//! Errors of child processes and their files.

use crate::Member;
use std::io;
use std::path::{Path, PathBuf};

/// A part of a cluster of processes that could not be started, hurt or asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file of the cluster.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// `write`, `create`, `open`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Loopback has no port left.
    #[error("no port is free on loopback: {0}")]
    Ports(#[source] io::Error),
    /// A process could not be started.
    #[error("cannot start {member}: {source}")]
    Start {
        /// The process.
        member: Member,
        /// The reason.
        source: io::Error,
    },
    /// A process was told to stop, and ended with a failure.
    #[error("{member} was told to stop and ended with {status}")]
    StoppedBadly {
        /// The process.
        member: Member,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A process was told to stop, did not, and was killed.
    #[error("{member} was told to stop and did not within {limit:?}: killed")]
    NotStopped {
        /// The process.
        member: Member,
        /// The time that it was given.
        limit: std::time::Duration,
    },
    /// A page of a process could not be read.
    #[error("no answer from http://{address}{page}: {source}")]
    Page {
        /// `host:port`.
        address: String,
        /// The path.
        page: String,
        /// The reason.
        source: io::Error,
    },
}

impl ClusterError {
    /// For `map_err` on an operation with a file.
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
        move |source| ClusterError::File { verb, path: path.to_owned(), source }
    }
}

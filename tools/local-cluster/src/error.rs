//! Errors of child processes and their files.

use crate::Member;
use std::io;
use std::path::{Path, PathBuf};

/// A failed attempt to start, hurt or ask a part of a cluster of processes.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// An operation on a file of the cluster failed.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// The operation: `write`, `create` or `open`.
        verb: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The reason from the system.
        source: io::Error,
    },
    /// No port is left on loopback.
    #[error("no port is free on loopback: {0}")]
    Ports(#[source] io::Error),
    /// A process could not be started.
    #[error("cannot start {member}: {source}")]
    Start {
        /// The process that did not start.
        member: Member,
        /// The reason from the system.
        source: io::Error,
    },
    /// A process was told to stop, and ended with a failure.
    #[error("{member} was told to stop and ended with {status}")]
    StoppedBadly {
        /// The process that was told to stop.
        member: Member,
        /// The exit status of the process.
        status: std::process::ExitStatus,
    },
    /// A process was told to stop, did not stop in time, and was killed.
    #[error("{member} was told to stop and did not within {limit:?}: killed")]
    NotStopped {
        /// The process that was told to stop.
        member: Member,
        /// The time limit for the stop.
        limit: std::time::Duration,
    },
    /// A page of a process could not be read.
    #[error("no answer from http://{address}{page}: {source}")]
    Page {
        /// The address of the process, as `host:port`.
        address: String,
        /// The path of the page.
        page: String,
        /// The reason from the system.
        source: io::Error,
    },
}

impl ClusterError {
    /// Builds an error from an operation on a file, for `map_err`.
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
        move |source| ClusterError::File { verb, path: path.to_owned(), source }
    }
}

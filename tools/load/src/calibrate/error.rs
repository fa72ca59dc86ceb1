//! Errors of a calibration, each with a way on.

use local_cluster::{ClusterError, Member};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// A calibration that came to no end.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A file or directory.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// `write`, `create`, `use`, `read`, `sync in`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A process of the cluster could not be started, stopped or asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A process of the cluster ended by itself.
    #[error("{member} of the cluster ended: {status}: {last_words}")]
    Ended {
        /// The process.
        member: Member,
        /// How it ended.
        status: ExitStatus,
        /// The last line of its log.
        last_words: String,
    },
    /// The load generator could not be started.
    #[error("cannot start the load: {0}")]
    LoadNotStarted(#[source] io::Error),
    /// The load generator's result could not be read.
    #[error("the load was lost: {0}")]
    LoadLost(#[source] io::Error),
    /// The load generator failed.
    #[error("the load failed: {0}")]
    LoadFailed(String),
    /// Something took longer than it does on a machine with time to spare.
    #[error("{0}")]
    Overloaded(&'static str),
    /// `/proc` lacks a figure.
    #[error("cannot read {what} from /proc: {source}")]
    Proc {
        /// For example `the processor time of process 12`.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// History on disk could not be read.
    #[error("history cannot be read: {0}")]
    History(#[from] storage::StorageError),
    /// The calibration was told to stop.
    #[error("stopped before it was done; nothing was written")]
    Stopped,
}

impl CalibrateError {
    /// Advice for the next step; empty where there is none.
    pub fn next(&self) -> &'static str {
        match self {
            CalibrateError::File { .. } => "name a directory that exists, is yours and has room, with --data-dir",
            CalibrateError::Cluster(_) => "see whether the machine is overloaded",
            CalibrateError::LoadFailed(_) | CalibrateError::Overloaded(_) => "try on a machine that has less to do",
            CalibrateError::Proc { .. } => "calibrate on Linux, with /proc mounted and thread statistics compiled in",
            CalibrateError::Stopped => "run it again, to its end",
            CalibrateError::Ended { .. }
            | CalibrateError::LoadNotStarted(_)
            | CalibrateError::LoadLost(_)
            | CalibrateError::History(_) => "",
        }
    }

    /// For `map_err` on an operation with a file.
    pub(super) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CalibrateError {
        move |source| CalibrateError::File { verb, path: path.to_owned(), source }
    }
}

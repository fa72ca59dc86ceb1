//! Errors of a calibration, each with advice for the next step.

use local_cluster::{ClusterError, Member};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// A calibration that ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// An operation on a file or directory failed.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// `write`, `create`, `use`, `read`, `sync in`.
        verb: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The reason from the system.
        source: io::Error,
    },
    /// A process of the cluster could not be started, stopped or asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A process of the cluster ended by itself.
    #[error("{member} of the cluster ended: {status}: {last_words}")]
    Ended {
        /// The process that ended.
        member: Member,
        /// The exit status of the process.
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
    /// A step took longer than it does on a machine with time to spare.
    #[error("{0}")]
    Overloaded(&'static str),
    /// `/proc` lacks a figure.
    #[error("cannot read {what} from /proc: {source}")]
    Proc {
        /// For example `the processor time of process 12`.
        what: String,
        /// The reason from the system.
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
            CalibrateError::File { .. } => {
                "name a directory that exists, is yours and has room, with --data-dir"
            }
            CalibrateError::Cluster(_) => "see whether the machine is overloaded",
            CalibrateError::LoadFailed(_) | CalibrateError::Overloaded(_) => {
                "try on a machine that has less to do"
            }
            CalibrateError::Proc { .. } => {
                "calibrate on Linux, with /proc mounted and thread statistics compiled in"
            }
            CalibrateError::Stopped => "run it again, to its end",
            CalibrateError::Ended { .. }
            | CalibrateError::LoadNotStarted(_)
            | CalibrateError::LoadLost(_)
            | CalibrateError::History(_) => "",
        }
    }

    /// Builds an error from an operation on a file, for `map_err`.
    pub(super) fn file(
        verb: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> CalibrateError {
        move |source| CalibrateError::File { verb, path: path.to_owned(), source }
    }
}

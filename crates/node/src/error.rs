//! The reasons why a node does not start, or stopped.

use crate::limits::JOIN_MAX;
use storage::StorageError;

/// The reason why a node cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The cluster file does not describe this node.
    #[error("{0}")]
    Config(String),
    /// The cluster file names certificates, and none were given to the node.
    #[error("the cluster file has `tls.inside`, and this node was started without: load its files")]
    NoTls,
    /// A socket could not be bound or served.
    #[error(
        "cannot listen on {address}: {reason}; stop what uses this address, or change it in the cluster file"
    )]
    Listen {
        /// The address, as `host:port`.
        address: String,
        /// The message of the operating system.
        reason: String,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The contents of the store cannot be a replica's.
    #[error(transparent)]
    Shard(#[from] shard::Fatal),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(String),
    /// The disk hangs: a write does not end. The process should end without waiting for anything.
    #[error("{0}")]
    DiskHangs(String),
    /// A fault of this program: a part of it panicked.
    #[error(
        "{part} ended by a fault of this program ({reason}); what it said of it stands above: report it with these lines, and \
         start the node again"
    )]
    Panicked {
        /// The part that panicked.
        part: &'static str,
        /// The message of the runtime.
        reason: String,
    },
    /// The cluster is of a level that this build does not know.
    #[error(transparent)]
    Level(#[from] topology::LevelNotKnown),
    /// The topology says that this node is out of the cluster.
    #[error(
        "node {node} was removed from this cluster, as version {version} of the topology says: wipe this \
         directory and join under a new id"
    )]
    Removed {
        /// This node.
        node: routing::NodeId,
        /// The version that is known here.
        version: topology::Version,
    },
    /// The cluster does not take this node in.
    #[error("{} does not join the cluster: {reason}", node_in_words(.node))]
    NotJoined {
        /// This node, if it has an id.
        node: Option<routing::NodeId>,
        /// The reason.
        reason: JoinError,
    },
    /// A fatal failure happened while the node ran. The whole node has stopped and answers nothing.
    #[error("{0}")]
    Failed(String),
}

/// The reason why a node does not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The topology does not take it.
    #[error("{0}")]
    Refused(topology::Refusal),
    /// No node took it for a while.
    #[error(
        "no leader of the topology's group took it within {} s ({why}): see `palisade cluster status` for \
         that group, and start the node again once it has a leader",
        JOIN_MAX.as_secs()
    )]
    NoLeader {
        /// What the last node answered.
        why: String,
    },
}

fn node_in_words(node: &Option<routing::NodeId>) -> String {
    node.map_or_else(|| "this node".to_owned(), |node| format!("node {node}"))
}

impl NodeError {
    /// Whether the bytes of one replica are unusable, and its node is not touched.
    pub(crate) fn is_of_a_replica(&self) -> bool {
        matches!(self, NodeError::Shard(_) | NodeError::Storage(StorageError::Damaged(_)))
    }

    /// The error for a task that did not come to its end.
    pub(crate) fn of_task(part: &'static str, error: &tokio::task::JoinError) -> NodeError {
        match error.is_panic() {
            true => NodeError::Panicked { part, reason: error.to_string() },
            false => {
                NodeError::Failed(format!("{part} was stopped with the runtime before its end"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicked_task_is_a_fault_of_the_program_and_no_limit_on_processes() {
        let panicked =
            tokio::spawn(async { panic!("the table has no row 7") }).await.expect_err("a panic");
        let told = NodeError::of_task("the recovery of the replicas", &panicked).to_string();
        assert!(
            told.contains("the recovery of the replicas") && told.contains("fault of this program"),
            "{told}"
        );
        assert!(!told.contains("ulimit"), "{told}");
        let endless = tokio::spawn(std::future::pending::<()>());
        endless.abort();
        let stopped = endless.await.expect_err("stopped");
        let told = NodeError::of_task("the recovery of the replicas", &stopped).to_string();
        assert!(!told.contains("ulimit") && !told.contains("fault"), "{told}");
        assert!(NodeError::Thread("EAGAIN".into()).to_string().contains("ulimit -u"));
    }
}

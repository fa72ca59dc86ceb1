//! How a try over a link fails.

use crate::retry;
use routing::NodeId;
use std::sync::Arc;
use wire::v1::Error;

/// How a try failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The server answered with an error.
    Refused(Box<Error>),
    /// The node does not lead the shard. Nothing was done.
    NotLeader {
        /// The leader as far as the node knows.
        leader: Option<NodeId>,
        /// The term of that leader, or the latest without one.
        term: u64,
        /// The reason, for people.
        why: Arc<str>,
    },
    /// By the node's map the shard is not served there. Nothing was done.
    StaleRoute {
        /// The version of the node's map.
        map_version: u64,
        /// The reason, for people.
        why: Arc<str>,
    },
    /// The operation was not sent: there was no connection, the queue was full, or its time ran
    /// out.
    NotSent(Arc<str>),
    /// The operation was sent, and the connection was lost or the time ran out. It may or may not
    /// have been done.
    Lost(Arc<str>),
}

impl Failure {
    /// The failure as the retry machine takes it.
    pub fn for_retry(&self) -> retry::TryFailure<'_> {
        match self {
            Failure::Refused(error) => retry::TryFailure::Refused(error),
            Failure::NotLeader { leader, why, .. } => {
                retry::TryFailure::NotLeader { leader: leader.map(|node| node.0), why }
            }
            Failure::StaleRoute { why, .. } => retry::TryFailure::StaleRoute(why),
            Failure::NotSent(why) => retry::TryFailure::NotSent(why),
            Failure::Lost(why) => retry::TryFailure::Lost(why),
        }
    }

    /// The failure of a link after its task or runtime has ended.
    pub(super) fn closed() -> Failure {
        Failure::Lost("the connection's task has ended".into())
    }
}

//! How a node starts with its data directory, and the events that it awaits before it takes part.

use routing::ShardId;
use std::collections::BTreeSet;

/// How a node starts with a data directory that may have forgotten something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstStart {
    /// A node with an empty directory takes part only once its peers have confirmed that they know
    /// no other directory of it. Every other node that shares a shard with it must confirm. A node
    /// with a copy takes part only once enough nodes that have no copies have accepted it.
    #[default]
    AskPeers,
    /// The whole cluster has never run, so no data can have been lost. The node takes part at once.
    NewCluster,
    /// The node continues with a copy, even if the guard file knows of a newer state. It gives up
    /// everything that was acknowledged since the copy was made, and tokens may be issued again.
    /// Peers that know of a newer state still refuse it.
    AcceptCopy {
        /// The directories of all nodes are copies of one moment. Otherwise some directories know
        /// of newer states of the other nodes than the other nodes have. In that case this node
        /// gives up its knowledge of its peers' progress, and its replicas continue in new terms.
        at_one_moment: bool,
    },
    /// The directory of this node is lost, so the node comes back as a new member of its shards.
    /// The start is refused if the present directory is not empty.
    Reseed {
        /// Also re-seeds if peers have just heard of the node with its former directory.
        force: bool,
    },
}

impl FirstStart {
    /// The same for a node that joins: the topology takes one directory for an id, so an empty one
    /// waits for no peer.
    pub(crate) fn of_joiner(self) -> FirstStart {
        if self == FirstStart::AskPeers { FirstStart::NewCluster } else { self }
    }

    /// Whether the directory of this node, or of a peer, may be older than the state that other
    /// nodes' directories know of it.
    pub(crate) fn puts_back(self) -> bool {
        self == FirstStart::AcceptCopy { at_one_moment: false }
    }
}

/// What a data directory begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) incarnation: u32,
    /// The shards of its first replicas.
    pub(crate) shards: BTreeSet<ShardId>,
}

/// Selects the greetings that a node awaits before it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The directory is new. The node awaits all peers that share a shard with it, because each could
    /// know of an earlier directory. If no peer does, it awaits all: a shard with its only replica
    /// here by the cluster file may have moved since.
    New,
    /// The directory was copied here. In each shard the node awaits as many peers as make a quorum,
    /// and these must have no copies. If all directories were put back together, their nodes know
    /// only the state in the copies.
    Copied,
    /// The directory is the usual one. The node awaits all peers, but not for long: see
    /// [`greeted_by_all`](super::PeerIdentities::greeted_by_all).
    Usual,
}

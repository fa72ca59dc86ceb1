//! The seed: the first topology of a cluster, from its cluster file.
//!
//! It has the nodes, the shards with their members, the shard of the topology itself, and the
//! owners of the slots. It knows nothing of what the nodes have told since.

use crate::codec::record;
use routing::{ClusterConfig, META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The first topology of a cluster.
///
/// ```
/// use palisade_topology::Seed;
/// use routing::{ClusterConfig, META, ShardId};
///
/// let seed = Seed::of(&ClusterConfig::dev(4, 3, 7400).unwrap());
/// assert_eq!(seed.shards[&META].members, seed.shards[&ShardId(0)].members);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The id of the cluster: the fingerprint of its cluster file.
    pub cluster_id: [u8; 16],
    /// The nodes.
    pub nodes: BTreeMap<NodeId, SeedNode>,
    /// The shards, with [`META`].
    pub shards: BTreeMap<ShardId, SeedShard>,
    /// The owners of all slots in order, each with the number of neighbouring slots it owns.
    pub slots: Vec<(u32, ShardId)>,
}

/// A node of the cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedNode {
    /// `host:port` at which other processes dial the node.
    pub address: String,
    /// Failure zone.
    pub zone: Option<String>,
}

/// A shard of the cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedShard {
    /// Its members.
    pub members: BTreeSet<NodeId>,
    /// The one of `members` that should lead.
    pub preferred_leader: NodeId,
}

record!(Seed { cluster_id, nodes, shards, slots });
record!(SeedNode { address, zone });
record!(SeedShard { members, preferred_leader });

impl Seed {
    /// The seed that a cluster file describes. The configuration must have been validated.
    ///
    /// META is where shard 0 is. Its members are part of the fingerprint, and zones alone are not,
    /// so two files with one fingerprint say the same.
    pub fn of(config: &ClusterConfig) -> Seed {
        let map = config.shard_map();
        let node = |node: &routing::NodeConfig| SeedNode {
            address: node.address.clone(),
            zone: node.zone.clone(),
        };
        let shard = |replicas: &routing::Replicas| SeedShard {
            members: replicas.nodes.iter().copied().collect(),
            preferred_leader: replicas.preferred_leader,
        };
        let mut shards: BTreeMap<ShardId, SeedShard> =
            map.shards().map(|(id, replicas)| (id, shard(replicas))).collect();
        if let Some(founders) = shards.get(&ShardId(0)).cloned() {
            shards.insert(META, founders);
        }
        Seed {
            cluster_id: config.fingerprint().0,
            nodes: config.nodes.iter().map(|listed| (listed.id, node(listed))).collect(),
            shards,
            slots: map.runs(),
        }
    }

    /// The same seed with META on these nodes. The cluster file says where META is as long as shard
    /// 0 has the members of the file.
    #[must_use]
    pub fn with_meta_on(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Seed {
        let Some(meta) = self.shards.get_mut(&META) else { return self };
        meta.members = nodes.into_iter().collect();
        if !meta.members.contains(&meta.preferred_leader)
            && let Some(first) = meta.members.first()
        {
            meta.preferred_leader = *first;
        }
        self
    }
}

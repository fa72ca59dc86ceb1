//! How many replicas nodes have and get.
//!
//! It knows nothing of why.

use crate::state::Topology;
use routing::{META, NodeId, ShardId};
use std::collections::BTreeMap;

/// How many replicas nodes have and get. Counted once for many shards.
#[derive(Default)]
pub(super) struct Counts {
    /// How many replicas each node should have, without those of META.
    pub(super) replicas: BTreeMap<NodeId, usize>,
    /// The shards with a replica that is on its way to the node.
    pub(super) incoming: BTreeMap<NodeId, Vec<ShardId>>,
}

impl Counts {
    pub(super) fn of(topology: &Topology) -> Counts {
        let mut counts = Counts::default();
        for (id, shard) in topology.shards() {
            for life in shard.wanted.lives() {
                if *id != META {
                    *counts.replicas.entry(life.node).or_default() += 1;
                }
                if !shard.is.voters.contains(&life) {
                    counts.incoming.entry(life.node).or_default().push(*id);
                }
            }
        }
        counts
    }
}

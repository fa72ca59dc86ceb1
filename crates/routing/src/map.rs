//! The versioned map from slot to shard to replicas.
//!
//! It has an owner for every slot. This module knows nothing of the origin of a map.

use crate::ids::*;
use std::collections::BTreeMap;

/// Most shards that a cluster may have.
pub const SHARDS_MAX: u32 = 4_096;

/// The nodes of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Nodes with a replica, in the order of the cluster file, without duplicates.
    pub nodes: Vec<NodeId>,
    /// The one of `nodes` that should lead, if all else is equal.
    pub preferred_leader: NodeId,
}

/// A version of the map from slot to shard to replicas. The crate's page has an example.
///
/// - Every slot is owned by exactly one shard, and that shard is in the map.
/// - A router that holds version v accepts only maps of a version above v.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    version: MapVersion,
    owners: Vec<ShardId>,
    shards: BTreeMap<ShardId, Replicas>,
}

/// The way of a name, by one version of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The slot of the name.
    pub slot: Slot,
    /// The shard that owns the slot.
    pub shard: ShardId,
    /// The version of the map.
    pub version: MapVersion,
}

impl ShardMap {
    /// A map that spreads the slots evenly over `shards`, in contiguous ranges.
    ///
    /// # Panics
    /// If `shards` is empty or has more than [`SHARDS_MAX`]. A validated configuration has neither.
    pub fn even(version: MapVersion, shards: BTreeMap<ShardId, Replicas>) -> ShardMap {
        assert!(!shards.is_empty(), "a map needs at least one shard");
        assert!(
            shards.len() <= SHARDS_MAX as usize,
            "{} shards are more than {SHARDS_MAX}",
            shards.len()
        );
        let ids: Vec<ShardId> = shards.keys().copied().collect();
        let owners = (0..usize::from(SLOTS))
            .map(|slot| ids[slot * ids.len() / usize::from(SLOTS)])
            .collect();
        ShardMap { version, owners, shards }
    }

    /// The version of this map.
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// The slot and shard of `name`.
    pub fn route(&self, name: &str) -> Route {
        let slot = Slot::of(name);
        Route { slot, shard: self.owner(slot), version: self.version }
    }

    /// The shard that owns a slot.
    pub fn owner(&self, slot: Slot) -> ShardId {
        self.owners[usize::from(slot.index())]
    }

    /// The nodes of a shard; `None` if there is no such shard.
    pub fn replicas(&self, shard: ShardId) -> Option<&Replicas> {
        self.shards.get(&shard)
    }

    /// All shards with their replicas, by id.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Replicas)> {
        self.shards.iter().map(|(id, replicas)| (*id, replicas))
    }

    /// The shards that have a replica on `node`.
    pub fn hosted_by(&self, node: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.shards().filter(move |(_, r)| r.nodes.contains(&node)).map(|(id, _)| id)
    }
}

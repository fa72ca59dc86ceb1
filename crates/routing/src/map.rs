//! The versioned map: slot -> shard -> replicas.
//!
//! It promises an owner for every slot, and knows nothing of where the map came from.

use crate::ids::*;
use std::collections::BTreeMap;

/// How many shards a cluster may have.
pub const SHARDS_MAX: u32 = 4_096;

/// Where a shard lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// In the order of the cluster file; no duplicates.
    pub nodes: Vec<NodeId>,
    /// One of `nodes`: who should lead, all else equal.
    pub preferred_leader: NodeId,
}

/// Slot -> shard -> replicas, with a version.
///
/// * Every slot is owned by exactly one shard, and that shard is in the map.
/// * A router that holds version v accepts only maps of a version above v.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    version: MapVersion,
    owners: Vec<ShardId>,
    shards: BTreeMap<ShardId, Replicas>,
}

/// Where a name goes, by one version of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Of the name.
    pub slot: Slot,
    /// Owner of the slot.
    pub shard: ShardId,
    /// Of the map that says so.
    pub version: MapVersion,
}

impl ShardMap {
    /// Slots spread evenly, in contiguous ranges, over `shards`. Panics if `shards` is empty: configs are validated first.
    pub fn even(version: MapVersion, shards: BTreeMap<ShardId, Replicas>) -> ShardMap {
        assert!(!shards.is_empty(), "a map needs at least one shard");
        assert!(shards.len() <= SHARDS_MAX as usize, "{} shards are more than {SHARDS_MAX}", shards.len());
        let ids: Vec<ShardId> = shards.keys().copied().collect();
        let owners = (0..usize::from(SLOTS)).map(|slot| ids[slot * ids.len() / usize::from(SLOTS)]).collect();
        ShardMap { version, owners, shards }
    }

    /// The version.
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// Where `name` goes.
    pub fn route(&self, name: &str) -> Route {
        let slot = Slot::of(name);
        Route { slot, shard: self.owner(slot), version: self.version }
    }

    /// The shard that owns a slot.
    pub fn owner(&self, slot: Slot) -> ShardId {
        self.owners[usize::from(slot.index())]
    }

    /// Where a shard lives; `None` if there is no such shard.
    pub fn replicas(&self, shard: ShardId) -> Option<&Replicas> {
        self.shards.get(&shard)
    }

    /// All shards, by id.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Replicas)> {
        self.shards.iter().map(|(id, replicas)| (*id, replicas))
    }

    /// The shards that have a replica on `node`.
    pub fn hosted_by(&self, node: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.shards().filter(move |(_, r)| r.nodes.contains(&node)).map(|(id, _)| id)
    }
}

//! The versioned map from slot to shard to replicas.
//!
//! It has an owner for every slot. This module knows nothing of the origin of a map.

use crate::ids::*;
use std::collections::{BTreeMap, BTreeSet};

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
/// - A router that holds an edition accepts only maps of a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// The version of the topology that the replicas are of.
    topology: u64,
    version: MapVersion,
    owners: Vec<ShardId>,
    shards: BTreeMap<ShardId, Replicas>,
}

/// The reason why slots and shards from outside make no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// There are no shards, or too many.
    #[error("there are {0} shards: a map has 1 to {SHARDS_MAX}")]
    Shards(usize),
    /// Slots without an owner, or more owners than slots.
    #[error("{0} slots have an owner: a map has {SLOTS} slots")]
    Slots(u64),
    /// A slot is owned by a shard that is not in the map.
    #[error("slots are owned by shard {0}, which is not in the map")]
    UnknownShard(ShardId),
    /// A shard has no nodes, has one twice, or prefers a leader that has no replica.
    #[error(
        "the replicas of shard {0} are none, or not on distinct nodes, or lack the preferred leader"
    )]
    Replicas(ShardId),
    /// Two entries are of one shard.
    #[error("shard {0} is in the map twice")]
    TwoShards(ShardId),
}

/// What tells which of two maps is the later one: the topology counts first.
///
/// Replicas move while slots stay. So a route says the version of the slots only, and stays good
/// when a replica moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edition {
    /// The version of the topology that nodes and replicas are of. 0 is a cluster file.
    pub topology: u64,
    /// The version of the slots.
    pub map: MapVersion,
}

impl std::fmt::Display for Edition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (topology {})", self.map, self.topology)
    }
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
        ShardMap { topology: 0, version, owners, shards }
    }

    /// A map from parts that came from outside. `runs` are the owners of all slots in order, each
    /// with the number of neighbouring slots that it owns.
    ///
    /// ```
    /// use palisade_routing::{ClusterConfig, MapVersion, ShardId, ShardMap};
    ///
    /// let map = ClusterConfig::dev(2, 1, 7400).unwrap().shard_map();
    /// assert_eq!(map.runs(), [(8_192, ShardId(0)), (8_192, ShardId(1))]);
    ///
    /// let swapped = [(8_192, ShardId(1)), (8_192, ShardId(0))];
    /// let shards = map.shards().map(|(shard, replicas)| (shard, replicas.clone()));
    /// let next = ShardMap::of_runs(MapVersion(2), swapped, shards).unwrap();
    /// assert_ne!(next.route("a").shard, map.route("a").shard);
    /// ```
    ///
    /// # Errors
    /// [`MapError`] if the parts do not fit each other.
    pub fn of_runs(
        version: MapVersion,
        runs: impl IntoIterator<Item = (u32, ShardId)>,
        listed: impl IntoIterator<Item = (ShardId, Replicas)>,
    ) -> Result<ShardMap, MapError> {
        let shards = checked(listed)?;
        let mut owners = Vec::with_capacity(usize::from(SLOTS));
        let mut owned: u64 = 0;
        for (slots, shard) in runs {
            owned += u64::from(slots);
            // Checked before the owners grow, because a number from outside may be huge.
            if owned > u64::from(SLOTS) {
                return Err(MapError::Slots(owned));
            }
            if !shards.contains_key(&shard) {
                return Err(MapError::UnknownShard(shard));
            }
            owners.resize(owned as usize, shard);
        }
        if owned != u64::from(SLOTS) {
            return Err(MapError::Slots(owned));
        }
        Ok(ShardMap { topology: 0, version, owners, shards })
    }

    /// This map with the replicas of a version of the topology. The slots stay as they are.
    ///
    /// # Errors
    /// [`MapError`] if the parts do not fit each other.
    pub fn placed(
        self,
        topology: u64,
        listed: impl IntoIterator<Item = (ShardId, Replicas)>,
    ) -> Result<ShardMap, MapError> {
        let shards = checked(listed)?;
        if let Some(owner) = self.owners.iter().find(|owner| !shards.contains_key(owner)) {
            return Err(MapError::UnknownShard(*owner));
        }
        Ok(ShardMap { topology, shards, ..self })
    }

    /// Which map this is, to tell the later one of two.
    pub fn edition(&self) -> Edition {
        Edition { topology: self.topology, map: self.version }
    }

    /// The owners of all slots in order, each with the number of neighbouring slots that it owns.
    pub fn runs(&self) -> Vec<(u32, ShardId)> {
        let run = |slots: &[ShardId]| (slots.len() as u32, slots[0]);
        self.owners.chunk_by(|one, next| one == next).map(run).collect()
    }

    /// The version of the slots.
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

/// The replicas of all shards, if they make a map.
fn checked(
    listed: impl IntoIterator<Item = (ShardId, Replicas)>,
) -> Result<BTreeMap<ShardId, Replicas>, MapError> {
    let mut shards = BTreeMap::new();
    for (shard, replicas) in listed {
        let distinct: BTreeSet<&NodeId> = replicas.nodes.iter().collect();
        let is_whole =
            distinct.len() == replicas.nodes.len() && distinct.contains(&replicas.preferred_leader);
        if !is_whole {
            return Err(MapError::Replicas(shard));
        }
        if shards.insert(shard, replicas).is_some() {
            return Err(MapError::TwoShards(shard));
        }
    }
    if shards.is_empty() || shards.len() > SHARDS_MAX as usize {
        return Err(MapError::Shards(shards.len()));
    }
    Ok(shards)
}

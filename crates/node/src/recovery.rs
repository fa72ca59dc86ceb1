//! Opening the replicas of a node from its store. Everything here blocks on the disk.

use crate::clock::Clock;
use crate::error::NodeError;
use crate::meta;
use routing::{META, NodeId, Settings, ShardId, ShardMap};
use shard::{Replica, ReplicaConfig};
use std::collections::BTreeMap;
use storage::Engine;
use topology::Seed;

/// Moves each replica to a new term, because the copies may be of different moments. Blocks on the
/// disk.
pub(crate) fn begin_new_terms(engine: &dyn Engine, hosted: &[ShardId]) -> Result<(), NodeError> {
    let mut writes = Vec::new();
    for shard in hosted {
        if let Some(hard_state) = engine.recover(*shard)?.hard_state {
            writes.push(shard::in_a_new_term(*shard, &hard_state, rand::random())?);
        }
    }
    if !writes.is_empty() {
        engine.write(&writes)?;
    }
    Ok(())
}

/// Opens the replica of each hosted shard, as its last run left it. META has `seed` if it was never
/// founded.
pub(crate) fn open_replicas(
    engine: &dyn Engine,
    (map, seed): (&ShardMap, &Seed),
    hosted: &[ShardId],
    (node, incarnation): (NodeId, u32),
    boot: u64,
    settings: &Settings,
    clock: Clock,
) -> Result<BTreeMap<ShardId, Replica>, NodeError> {
    let mut replicas = BTreeMap::new();
    for shard in hosted {
        let placed = meta::replicas(map, *shard).expect("a hosted shard is in the map");
        let config = ReplicaConfig {
            shard: *shard,
            node,
            incarnation,
            voters: placed.nodes.clone(),
            preferred_leader: placed.preferred_leader,
            boot,
            raft: settings.into(),
            election_seed: None,
        };
        let replica = Replica::open(config, engine.recover(*shard)?, clock.now())?;
        let replica = replica.with_host_built_snapshots();
        let replica = if *shard == META { replica.with_seed(seed.clone()) } else { replica };
        replicas.insert(*shard, replica);
    }
    Ok(replicas)
}

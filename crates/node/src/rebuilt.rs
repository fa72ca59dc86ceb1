//! The records of a META that was founded again: up to which generation this node has given META up,
//! of which generation its replica of META is, and the topology that was built again.
//!
//! * A replica of META opens only if its generation has not been given up. So one that survived the
//!   loss of its group never speaks again, wherever the node was meanwhile.
//! * Each record is on disk before anything follows from it.
//!
//! All functions block on the disk. The module knows nothing of how a topology is built
//! (`refounding.rs`).

use routing::{META, NodeId};
use shard::Founders;
use storage::{Engine, StorageError};
use topology::{Birth, Topology};

/// Key of the first generation that was not given up, `u64 LE`.
const GIVEN_UP: &[u8] = b"meta given up for";
/// Key of the birth of META's replica, `u32 LE`, and its generation, `u64 LE`.
const LIFE: &[u8] = b"meta generation";
/// Key of the topology that this node founded META with.
const REBUILT: &[u8] = b"meta rebuilt";

/// The generation of a cluster's first META.
pub(crate) const FIRST: u64 = 1;

fn number(engine: &dyn Engine, name: &[u8]) -> Result<Option<u64>, StorageError> {
    let Some(bytes) = engine.node_record(name)? else { return Ok(None) };
    let bytes = bytes.try_into().map_err(|_| {
        StorageError::Damaged(format!("the record {:?}", String::from_utf8_lossy(name)))
    })?;
    Ok(Some(u64::from_le_bytes(bytes)))
}

/// The generation for which all earlier ones are given up here. 0: none is.
pub(crate) fn given_up_for(engine: &dyn Engine) -> Result<u64, StorageError> {
    Ok(number(engine, GIVEN_UP)?.unwrap_or(0))
}

/// The record that all generations before this one are given up.
pub(crate) fn given_up(generation: u64) -> (Vec<u8>, Vec<u8>) {
    (GIVEN_UP.to_vec(), generation.to_le_bytes().to_vec())
}

/// Notes the generation of META's replica with this birth.
pub(crate) fn put_life(
    engine: &dyn Engine,
    birth: u32,
    generation: u64,
) -> Result<(), StorageError> {
    let life = [&birth.to_le_bytes()[..], &generation.to_le_bytes()[..]].concat();
    engine.put_node_records(&[(LIFE.to_vec(), life)])
}

/// Whether META's replica with this birth is of a generation that was given up.
pub(crate) fn is_given_up(engine: &dyn Engine, birth: u32) -> Result<bool, StorageError> {
    let life = engine.node_record(LIFE)?;
    let is_its = |life: &[u8]| life.starts_with(&birth.to_le_bytes());
    let generation = life.filter(|life| is_its(life)).and_then(|life| {
        let (_, generation) = life.split_at_checked(4)?;
        Some(u64::from_le_bytes(generation.try_into().ok()?))
    });
    Ok(generation.unwrap_or(FIRST) < given_up_for(engine)?)
}

/// The record of the topology that this node founds META with.
pub(crate) fn founding(topology: &Topology) -> (Vec<u8>, Vec<u8>) {
    (REBUILT.to_vec(), topology.encode())
}

/// The topology with which META's replica of this birth founds its group again. `None`: it is no
/// founder of such a group.
pub(crate) fn founds(
    engine: &dyn Engine,
    node: NodeId,
    birth: u32,
) -> Result<Option<Topology>, StorageError> {
    let Some(bytes) = engine.node_record(REBUILT)? else { return Ok(None) };
    let topology = Topology::decode(&bytes).map_err(|error| {
        StorageError::Damaged(format!("the record of the topology that was built again: {error}"))
    })?;
    let founder = topology.shard(META).and_then(|meta| meta.founders.get(&node));
    Ok((founder == Some(&Birth(birth))).then_some(topology))
}

/// The founders of META that a topology names.
pub(crate) fn founders_of(topology: &Topology) -> Option<Founders> {
    let founders = &topology.shard(META)?.founders;
    // No entry of shard 0 has chosen them.
    Founders::new(0, founders.iter().map(|(node, birth)| (*node, birth.0))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::founded_from;
    use routing::ClusterConfig;
    use storage::{Identity, MemoryEngine};

    fn directory() -> MemoryEngine {
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        engine
    }

    #[test]
    fn a_replica_of_a_generation_that_was_given_up_does_not_open() {
        let engine = directory();
        assert!(!is_given_up(&engine, 0).unwrap());
        engine.put_node_records(&[given_up(2)]).unwrap();
        engine.crash();
        assert!(is_given_up(&engine, 0).unwrap(), "of the time without a record");
        put_life(&engine, 900, 2).unwrap();
        assert!(!is_given_up(&engine, 900).unwrap());
        assert!(is_given_up(&engine, 0).unwrap(), "another life");
        engine.put_node_records(&[given_up(3)]).unwrap();
        assert!(is_given_up(&engine, 900).unwrap(), "it was lost once more");
    }

    #[test]
    fn only_a_founder_founds() {
        let engine = directory();
        assert_eq!(founds(&engine, NodeId(1), 0).unwrap(), None);
        let topology = founded_from(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        engine.put_node_records(&[founding(&topology)]).unwrap();
        assert_eq!(founds(&engine, NodeId(1), 0).unwrap().as_ref(), Some(&topology));
        assert_eq!(founds(&engine, NodeId(1), 7).unwrap(), None, "a later life");
        assert_eq!(founds(&engine, NodeId(9), 0).unwrap(), None);
        assert_eq!(founders_of(&topology).unwrap().lives().len(), 3);
    }
}

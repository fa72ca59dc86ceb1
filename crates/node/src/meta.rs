//! META on this node: the shard whose state machine is the topology of the cluster.
//!
//! Its founders are the members of shard 0 of the cluster file, so that two files of one cluster
//! never found two METAs. It is no shard of the map: no operation of a client reaches it, it has no
//! slot, and readiness does not ask for it, because locks are served without it.
//!
//! This module knows where META is at first, and how it is created in a data directory. How the node
//! follows what its replica tells, `following.rs` knows.

use routing::{META, Replicas, ShardId, ShardMap};
use storage::{Engine, ShardWrite, StorageError};

/// The shard whose members found META.
const FOUNDERS: ShardId = ShardId(0);
/// Key of the record that META was created in this data directory.
const CREATED: &[u8] = b"meta created";

/// The replicas of a shard of the map, or of META.
pub(crate) fn replicas(map: &ShardMap, shard: ShardId) -> Option<&Replicas> {
    map.replicas(if shard == META { FOUNDERS } else { shard })
}

/// Creates META in a data directory where it never was. Call it at each start, before the replica
/// opens. `birth` is that of the replica here. Blocks on the disk.
///
/// A directory of an earlier build has no META, and must not be taken for one that lost it: the
/// replica that was lost may have voted. So the directory keeps a record of the creation, with the birth
/// of the replica. It comes after META's first write, so that a directory with the record has data. A
/// replica of a later birth came by a wish, and has no data at first.
///
/// # Errors
/// [`StorageError`], also if META was created here and its data is gone.
pub(crate) fn create(engine: &dyn Engine, birth: u32) -> Result<(), StorageError> {
    let created = birth.to_le_bytes();
    let record = engine.node_record(CREATED)?;
    if record.as_ref().is_some_and(|record| record[..] != created) {
        return Ok(());
    }
    let is_there = engine.recover(META)?.hard_state.is_some();
    match (record.is_some(), is_there) {
        (true, true) => return Ok(()),
        (true, false) => {
            return Err(StorageError::Damaged(
                "the group of the topology had a replica here, and its votes and its log are gone"
                    .into(),
            ));
        }
        (false, true) => {} // the process ended between the two writes below
        (false, false) => {
            tracing::info!("creates the group of the topology in this data directory");
            let hard_state = Some(shard::first_hard_state());
            engine.write(&[ShardWrite { shard: META, hard_state, ..ShardWrite::default() }])?;
        }
    }
    engine.put_node_records(&[(CREATED.to_vec(), created.to_vec())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;
    use routing::ClusterConfig;
    use routing::NodeId;
    use storage::{Identity, MemoryEngine};

    #[test]
    fn meta_is_where_shard_0_is() {
        let cluster = ClusterConfig::dev(4, 7, 20_000).unwrap();
        let (map, view) = (cluster.shard_map(), View::of(&cluster));
        let founders = &map.replicas(ShardId(0)).unwrap().nodes;
        for node in (1..=7).map(NodeId) {
            let is_founder = founders.contains(&node);
            let hosted: Vec<ShardId> = view.shards_of(node).collect();
            let of_locks = map.hosted_by(node);
            assert_eq!(hosted, of_locks.chain(is_founder.then_some(META)).collect::<Vec<_>>());
        }
        assert_eq!(&replicas(&map, META).unwrap().nodes, founders);
        assert!(map.replicas(META).is_none());
    }

    /// A data directory of an earlier build is this one without META.
    fn directory() -> MemoryEngine {
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        engine
    }

    #[test]
    fn meta_is_created_once() {
        let engine = directory();
        create(&engine, 0).unwrap();
        let voted = ShardWrite {
            shard: META,
            hard_state: Some(vec![8, 3]),
            entries: vec![(1, vec![1])],
            ..ShardWrite::default()
        };
        engine.write(&[voted]).unwrap();
        let before = engine.recover(META).unwrap();
        create(&engine, 0).unwrap();
        assert_eq!(engine.recover(META).unwrap(), before);
    }

    #[test]
    fn a_creation_that_was_cut_short_goes_on() {
        let engine = directory();
        let first = Some(shard::first_hard_state());
        let write = ShardWrite { shard: META, hard_state: first, ..ShardWrite::default() };
        engine.write(&[write]).unwrap();
        create(&engine, 0).unwrap();
        assert!(engine.node_record(CREATED).unwrap().is_some());
    }

    #[test]
    fn meta_that_was_lost_is_not_created_anew() {
        let engine = directory();
        create(&engine, 0).unwrap();
        let reset = ShardWrite { shard: META, reset: true, ..ShardWrite::default() };
        engine.write(&[reset]).unwrap();
        let refused = create(&engine, 0).unwrap_err().to_string();
        assert!(refused.contains("re-seed this replica"), "{refused}");
        create(&engine, 7).expect("a later life, which came by a wish");
        assert!(engine.recover(META).unwrap().hard_state.is_none());
    }
}

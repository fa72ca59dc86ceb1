//! META on this node: the shard whose state machine is the topology of the cluster.
//!
//! META is no shard of the map: no operation of a client reaches it, it has no slot, and readiness
//! does not ask for it, because locks are served without it. For the same reason a failure of its
//! replica stops nothing else (`host/failed.rs`).
//!
//! This module knows where META is at first, and what it begins with in a data directory. When it
//! begins, `founding.rs` knows, and how the node follows what its replica tells, `following.rs`.

use routing::{META, Replicas, ShardId, ShardMap};
use shard::Founders;
use storage::{Engine, StorageError};

/// The shard whose log founds META.
pub(crate) const FOUNDED_BY: ShardId = ShardId(0);
/// Key of the record that a founder began in this data directory: its birth, `u32 LE`.
const CREATED: &[u8] = b"meta created";
/// Key of the record that META's replica begins in a new term here: a random number, `u32 LE`.
const NEW_TERM: &[u8] = b"meta begins in a new term";

/// The replicas of a shard of the map, or of META.
pub(crate) fn replicas(map: &ShardMap, shard: ShardId) -> Option<&Replicas> {
    map.replicas(if shard == META { FOUNDED_BY } else { shard })
}

/// Writes what a founder begins with, once in the life of a data directory. Call it before the
/// replica of a cluster's first META is hosted, and after that of a later one: a life of META was
/// destroyed here, and nothing is written before the next one. Blocks on the disk.
///
/// The record comes after the data, so a directory with the record has data, or has lost them.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn found(
    engine: &dyn Engine,
    founders: &Founders,
    birth: u32,
) -> Result<(), StorageError> {
    let created = birth.to_le_bytes();
    if engine.node_record(CREATED)?.is_some_and(|record| record[..] == created) {
        return Ok(()); // the process ended before the replica was hosted
    }
    tracing::info!("founds the group of the topology, as one of its first replicas");
    let mut write = shard::first_write(founders);
    if let Some(random) = engine.node_record(NEW_TERM)? {
        let random = random.as_slice().try_into().map(u32::from_le_bytes).map_err(|_| {
            StorageError::Damaged("the record of the term in which META begins".into())
        })?;
        let first = write.hard_state.as_deref().unwrap_or_default();
        let later = shard::in_a_new_term(META, first, random)
            .map_err(|fatal| StorageError::Damaged(fatal.to_string()))?;
        write.hard_state = later.hard_state;
    }
    engine.write(&[write])?;
    engine.put_node_records(&[(CREATED.to_vec(), created.to_vec())])
}

/// Lets META's replica begin in a new term, if it begins in this data directory as that of a founder.
/// Call it if the directory is a copy that was put back, and META is not in it. Blocks on the disk.
///
/// How it goes wrong without that:
///
/// 1. The directories of nodes 2, 3 and 4 are copied. Then META begins, with 1 to 5 as founders. Its
///    first leader writes an entry 2 in term 2, and nodes 1 and 5 are copied.
/// 2. All copies are put back. Nodes 2, 3 and 4 begin META once more, in term 1 as every founder,
///    and elect a leader in term 2. It writes another entry 2 in term 2.
/// 3. Nodes 1 and 5 take that for the entry 2 that they have.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn begin_in_a_new_term(engine: &dyn Engine) -> Result<(), StorageError> {
    let random: u32 = rand::random();
    engine.put_node_records(&[(NEW_TERM.to_vec(), random.to_le_bytes().to_vec())])
}

/// Whether META's replica of this birth began in this data directory as that of a founder. Blocks
/// on the disk.
///
/// # Errors
/// [`StorageError::Damaged`] if it did, and what it began with is gone: it may have voted.
pub(crate) fn has_begun(engine: &dyn Engine, birth: u32) -> Result<bool, StorageError> {
    let begun = engine.node_record(CREATED)?;
    let has_begun = begun.is_some_and(|record| record[..] == birth.to_le_bytes());
    if has_begun && engine.recover(META)?.hard_state.is_none() {
        return Err(StorageError::Damaged(
            "the group of the topology had a replica here, and its votes and its log are gone"
                .into(),
        ));
    }
    Ok(has_begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;
    use routing::ClusterConfig;
    use routing::NodeId;
    use storage::{Identity, MemoryEngine, ShardWrite};

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

    fn directory() -> MemoryEngine {
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        engine
    }

    fn founders() -> Founders {
        Founders::new(9, [(NodeId(1), 0), (NodeId(2), 3)]).unwrap()
    }

    fn voted() -> ShardWrite {
        let hard_state = Some(vec![8, 3]);
        ShardWrite { shard: META, hard_state, entries: vec![(2, vec![1])], ..Default::default() }
    }

    #[test]
    fn a_founder_begins_once() {
        let engine = directory();
        found(&engine, &founders(), 0).unwrap();
        engine.crash();
        engine.write(&[voted()]).unwrap();
        let before = engine.recover(META).unwrap();
        assert!(before.applied.is_some(), "it outlives a crash");
        found(&engine, &founders(), 0).unwrap();
        assert_eq!(engine.recover(META).unwrap(), before);
        assert!(has_begun(&engine, 0).unwrap());
    }

    /// Regression: META's founders of copies that were put back began in term 1 and could vote a second
    /// time in terms in which they had voted before.
    #[test]
    fn a_founder_on_a_copy_that_was_put_back_begins_in_a_new_term() {
        let terms = |engine: &MemoryEngine| {
            let first = shard::first_write(&founders()).hard_state;
            let begun = engine.recover(META).unwrap().hard_state;
            let next = |state: Option<Vec<u8>>| {
                shard::in_a_new_term(META, &state.unwrap(), 0).unwrap().hard_state.unwrap()
            };
            (next(first), next(begun))
        };
        let usual = directory();
        found(&usual, &founders(), 0).unwrap();
        let (first, begun) = terms(&usual);
        assert_eq!(first, begun);
        let copy = directory();
        crate::recovery::begin_new_terms(&copy, &[]).unwrap();
        copy.crash();
        found(&copy, &founders(), 0).unwrap();
        let (first, begun) = terms(&copy);
        assert_ne!(first, begun, "it began in the same term");
        assert!(has_begun(&copy, 0).unwrap());
    }

    #[test]
    fn a_beginning_that_was_cut_short_goes_on() {
        let engine = directory();
        engine.write(&[shard::first_write(&founders())]).unwrap();
        found(&engine, &founders(), 0).unwrap();
        assert!(engine.node_record(CREATED).unwrap().is_some());
        assert!(has_begun(&engine, 0).unwrap());
    }

    #[test]
    fn a_founder_that_was_lost_does_not_begin_anew() {
        let engine = directory();
        found(&engine, &founders(), 0).unwrap();
        let reset = ShardWrite { shard: META, reset: true, ..ShardWrite::default() };
        engine.write(&[reset]).unwrap();
        let refused = has_begun(&engine, 0).unwrap_err().to_string();
        assert!(refused.contains("re-seed this replica"), "{refused}");
        assert!(!has_begun(&engine, 7).unwrap(), "a later life, which came by a wish");
    }
}

//! The record of a node that joins without an id: the name of its data directory, and the id that the
//! topology has taken it under.
//!
//! The name is on disk before the node asks. So a node that ended before it heard the answer finds
//! itself in the topology, and takes no second id. The module knows nothing of how the id is chosen
//! (`joining.rs`).

use routing::NodeId;
use storage::{Engine, StorageError};

/// Key of `store u64 LE | id u64 LE`, with id 0 until it is known.
const RECORD: &[u8] = b"joins as";

/// What a directory of such a node knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChosenId {
    /// The random name of the directory.
    pub(crate) store: u64,
    pub(crate) id: Option<NodeId>,
}

impl ChosenId {
    /// Reads the record. `None`: the node of this directory was given an id, or never started. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn read(engine: &dyn Engine) -> Result<Option<ChosenId>, StorageError> {
        let Some(bytes) = engine.node_record(RECORD)? else { return Ok(None) };
        let damaged = || StorageError::Damaged("the record of the id that was chosen".into());
        let (store, id) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let id = u64::from_le_bytes(id.try_into().map_err(|_| damaged())?);
        let id = (id != 0).then_some(NodeId(id));
        Ok(Some(ChosenId { store: u64::from_le_bytes(*store), id }))
    }

    /// Writes the record, which is on disk when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn put(&self, engine: &dyn Engine) -> Result<(), StorageError> {
        let id = self.id.map_or(0, |id| id.0);
        let record = [self.store.to_le_bytes(), id.to_le_bytes()].concat();
        engine.put_node_records(&[(RECORD.to_vec(), record)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::MemoryEngine;

    #[test]
    fn what_was_chosen_outlives_a_crash() {
        let engine = MemoryEngine::new();
        assert_eq!(ChosenId::read(&engine).unwrap(), None);
        for id in [None, Some(NodeId(6))] {
            let chosen = ChosenId { store: 77, id };
            chosen.put(&engine).unwrap();
            engine.crash();
            assert_eq!(ChosenId::read(&engine).unwrap(), Some(chosen));
        }
        engine.put_node_records(&[(RECORD.to_vec(), vec![1; 15])]).unwrap();
        assert!(ChosenId::read(&engine).is_err());
    }
}

//! Snapshot messages taken apart for the road, put together again, and made ready for a replica.

use crate::raft::conf_state::check_conf;
use locks::{Change, LockTable};
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};
use raft_prost::Message as _;
use std::fmt;
use std::sync::Arc;
use storage::Recovered;

/// A peer's snapshot, checked and decoded: what is left to do in the replica does not depend on its
/// size. Decoding a large one takes seconds, and on the replica's thread its heartbeats and those
/// of its neighbours would wait for that.
pub struct LoadedSnapshot {
    /// Without the data.
    pub(crate) message: Message,
    pub(crate) table: LockTable,
    /// All that the table holds, for the write that installs it.
    pub(crate) records: Vec<Change>,
}

impl LoadedSnapshot {
    pub(crate) fn index(&self) -> u64 {
        self.message.get_snapshot().get_metadata().index
    }

    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of(mut message: Message) -> Result<LoadedSnapshot, String> {
        let data = std::mem::take(&mut message.mut_snapshot().data);
        LoadedSnapshot::new(message, &data)
    }

    fn new(message: Message, data: &[u8]) -> Result<LoadedSnapshot, String> {
        check_conf(message.get_snapshot().get_metadata().get_conf_state())?;
        let mut table = LockTable::restore(data).map_err(|error| error.to_string())?;
        let records = table.checkpoint();
        Ok(LoadedSnapshot { message, table, records })
    }
}

impl fmt::Debug for LoadedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedSnapshot").field("index", &self.index()).finish_non_exhaustive()
    }
}

/// A snapshot for peers that fell behind, with the data apart: nothing of it is copied when it is
/// sent.
#[derive(Clone)]
pub struct BuiltSnapshot {
    pub(crate) metadata: SnapshotMetadata,
    pub(crate) data: Arc<Vec<u8>>,
}

impl fmt::Debug for BuiltSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltSnapshot").field("index", &self.metadata.index).finish_non_exhaustive()
    }
}

/// Makes a snapshot of what [`Engine::table`](storage::Engine::table) found of a shard: its last
/// checkpoint. Takes long for a large one. `None`: there is no checkpoint yet.
///
/// # Errors
/// What is wrong with what was found.
pub fn build_snapshot(found: Recovered) -> Result<Option<BuiltSnapshot>, String> {
    let Some(applied) = found.applied else { return Ok(None) };
    let metadata = SnapshotMetadata::decode(applied.as_slice()).map_err(|e| format!("the applied record: {e}"))?;
    let table = LockTable::load(found.table).map_err(|e| format!("the lock table's checkpoint: {e}"))?;
    Ok(Some(BuiltSnapshot { metadata, data: Arc::new(table.snapshot()) }))
}

/// Makes what [`split_snapshot`] took apart ready for [`Input::Snapshot`](crate::Input::Snapshot).
/// Takes long for a large one.
///
/// # Errors
/// A description if the bytes are no snapshot message, or no snapshot.
pub fn load_snapshot(message: &[u8], data: &[u8]) -> Result<LoadedSnapshot, String> {
    let mut message = decode(message)?;
    message.mut_snapshot().data = Vec::new();
    LoadedSnapshot::new(message, data)
}

/// Takes the snapshot data out of an encoded snapshot message, so that the two can be sent apart.
/// Returns the message without its data, the data, and the log index that the snapshot stands at.
///
/// # Errors
/// A description if the bytes are no snapshot message.
pub fn split_snapshot(message: &[u8]) -> Result<(Vec<u8>, Vec<u8>, u64), String> {
    let mut message = decode(message)?;
    let snapshot = message.snapshot.as_mut().ok_or("the message has no snapshot")?;
    let index = snapshot.get_metadata().index;
    let data = std::mem::take(&mut snapshot.data);
    Ok((message.encode_to_vec(), data, index))
}

/// Puts the data back. The inverse of [`split_snapshot`].
///
/// # Errors
/// A description if the bytes are no snapshot message.
pub fn join_snapshot(message: &[u8], data: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut message = decode(message)?;
    message.snapshot.as_mut().ok_or("the message has no snapshot")?.data = data;
    Ok(message.encode_to_vec())
}

fn decode(bytes: &[u8]) -> Result<Message, String> {
    let message = Message::decode(bytes).map_err(|e| format!("not a Raft message: {e}"))?;
    if message.msg_type() != MessageType::MsgSnapshot {
        return Err(format!("a {:?} is no snapshot message", message.msg_type()));
    }
    Ok(message)
}

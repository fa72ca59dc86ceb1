//! Snapshots, built and loaded off the replica's thread.
//!
//! A snapshot leaves a replica in two pieces: the Raft message as its header, with what the group
//! keeps of itself in its context, and the data, which all messages of one snapshot share. The host
//! sends both, and the data is never copied on the way:
//!
//! ```text
//! engine ── build_snapshot ──► BuiltSnapshot ──► replica ──► PeerMessage { bytes, snapshot }
//!                                                                  │         │
//!                                                                header     data, in chunks
//!                                                                  ▼         ▼
//!                              other replica ◄── LoadedSnapshot ◄── load_snapshot
//! ```

use crate::machine::{Joined, Machine, MachineError};
use crate::parts::applied::{AppliedError, decode_applied};
use crate::parts::group::WantedError;
use crate::parts::kept::Kept;
use crate::raft::conf_state::check_conf;
use bytes::Bytes;
use locks::Change;
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};
use raft_prost::Message as _;
use routing::ShardId;
use std::fmt;
use storage::{Engine, StorageError};

/// A snapshot for peers that fell behind.
#[derive(Clone)]
pub struct BuiltSnapshot {
    pub(crate) metadata: SnapshotMetadata,
    /// What the group kept as of its index.
    pub(crate) kept: Kept,
    pub(crate) data: Bytes,
}

impl fmt::Debug for BuiltSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltSnapshot").field("index", &self.metadata.index).finish_non_exhaustive()
    }
}

/// Bytes that are no snapshot, or a damaged one.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SnapshotError(#[from] Damage);

/// The damage, in the types of raft-rs, which stay in this crate.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("the applied record: {0}")]
    Applied(#[source] AppliedError),
    #[error("the checkpoint: {0}")]
    Checkpoint(#[source] MachineError),
    #[error("not a Raft message: {0}")]
    NotRaft(#[source] raft_prost::DecodeError),
    #[error("a {0:?} is no snapshot message")]
    Kind(MessageType),
    #[error("{0}")]
    Members(&'static str),
    #[error("{0}")]
    Kept(#[source] WantedError),
    #[error("{0}")]
    State(#[source] MachineError),
}

/// Makes a snapshot of a shard's last checkpoint in the engine. `None`: there is no checkpoint yet.
/// This takes a while for a large one.
///
/// # Errors
/// If the engine cannot read it, or what it reads is damaged. Of a lock table only the checksum of
/// each record is looked at. Whoever loads the snapshot looks at all of it.
pub fn build_snapshot(
    shard: ShardId,
    engine: &dyn Engine,
) -> Result<Option<BuiltSnapshot>, StorageError> {
    let mut data = Joined::of(shard);
    let applied = engine.table(shard, &mut |key, value| data.add(key, value))?;
    let Some(applied) = applied else { return Ok(None) };
    let damaged = |damage: Damage| StorageError::Damaged(format!("shard {shard}: {damage}"));
    let (metadata, kept) =
        decode_applied(&applied).map_err(|error| damaged(Damage::Applied(error)))?;
    let data = data.finish().map_err(|error| damaged(Damage::Checkpoint(error)))?;
    Ok(Some(BuiltSnapshot { metadata, kept, data: data.into() }))
}

/// The data of a snapshot on its way to a peer. It goes with the message that has its header.
#[derive(Clone)]
pub struct SnapshotData {
    /// The log index that the snapshot stands at.
    pub index: u64,
    /// The encoded state. All messages of one snapshot share it.
    pub data: Bytes,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotData").field("index", &self.index).finish_non_exhaustive()
    }
}

/// A peer's snapshot, checked and decoded. The work that is left to the replica does not depend on
/// its size. Decoding a large one takes seconds, and on the replica's thread the heartbeats of all
/// its shards would wait for that.
pub struct LoadedSnapshot {
    /// The header: a Raft message without the data.
    pub(crate) message: Message,
    /// What the group kept as of its index.
    pub(crate) kept: Kept,
    pub(crate) machine: Machine,
    /// All records of the machine, for the write that installs it.
    pub(crate) records: Vec<Change>,
}

impl LoadedSnapshot {
    /// The log index that the snapshot stands at.
    pub(crate) fn index(&self) -> u64 {
        self.message.get_snapshot().get_metadata().index
    }

    /// Loads a snapshot message that has its data within.
    ///
    /// # Errors
    /// If the snapshot is damaged.
    pub(crate) fn of(
        shard: ShardId,
        mut message: Message,
    ) -> Result<LoadedSnapshot, SnapshotError> {
        let data = std::mem::take(&mut message.mut_snapshot().data);
        LoadedSnapshot::new(shard, message, &data)
    }

    fn new(
        shard: ShardId,
        mut message: Message,
        data: &[u8],
    ) -> Result<LoadedSnapshot, SnapshotError> {
        let members = message.get_snapshot().get_metadata().get_conf_state();
        check_conf(members).map_err(Damage::Members)?;
        let context = std::mem::take(&mut message.context);
        let kept = Kept::decode(&context).map_err(Damage::Kept)?;
        let mut machine = Machine::restore(shard, data).map_err(Damage::State)?;
        let records = machine.checkpoint();
        Ok(LoadedSnapshot { message, kept, machine, records })
    }
}

impl fmt::Debug for LoadedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedSnapshot").field("index", &self.index()).finish_non_exhaustive()
    }
}

/// Loads the two pieces of a peer's snapshot of a shard for [`Input::Snapshot`](crate::Input::Snapshot). This
/// takes seconds for a large one.
///
/// # Errors
/// If `header` is no snapshot message, or `data` is damaged.
pub fn load_snapshot(
    shard: ShardId,
    header: &[u8],
    data: &[u8],
) -> Result<LoadedSnapshot, SnapshotError> {
    let mut message = decode(header)?;
    message.mut_snapshot().data = Vec::new();
    LoadedSnapshot::new(shard, message, data)
}

/// Joins the two pieces of a snapshot to one message for [`Input::Peer`](crate::Input::Peer). The
/// replica loads it on its own thread, which is simple and slow: this is for simulation and tests.
///
/// # Errors
/// If `header` is no snapshot message.
pub fn join_snapshot(header: &[u8], data: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let mut message = decode(header)?;
    message.mut_snapshot().data = data.to_vec();
    Ok(message.encode_to_vec())
}

fn decode(bytes: &[u8]) -> Result<Message, SnapshotError> {
    let message = Message::decode(bytes).map_err(Damage::NotRaft)?;
    if message.msg_type() != MessageType::MsgSnapshot {
        return Err(Damage::Kind(message.msg_type()).into());
    }
    Ok(message)
}

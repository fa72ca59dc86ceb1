//! The state machine that a replica feeds with its log: a lock table, or the topology of the
//! cluster.
//!
//! The shard decides which of the two it is: [`META`] has the topology, and every other shard a lock
//! table. A replica looks at the kind once for each entry, read or step, and never within a loop
//! over operations. So the code of locks is as if there was no other machine.
//!
//! This module knows nothing of Raft, of callers, and of replies.

mod entry;
mod topology_machine;

pub(crate) use entry::{EntryBuilder, ProposalsEntry};
pub(crate) use topology_machine::TopologyMachine;
pub use topology_machine::TopologyNews;

use locks::{Change, LockTable, SnapshotBuilder};
use routing::{META, ShardId};

/// The state of one replica.
#[allow(clippy::large_enum_variant, reason = "a replica has one, and it never moves")]
pub(crate) enum Machine {
    Locks(LockTable),
    Topology(TopologyMachine),
}

/// Bytes that are no state of the machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error(transparent)]
    Locks(#[from] locks::DecodeError),
    #[error(transparent)]
    Topology(#[from] topology::DecodeError),
}

/// The bytes of a [snapshot](Machine::snapshot), from the records of the checkpoints so far and
/// without a machine of locks, which may be large.
pub(crate) enum Joined {
    Locks(SnapshotBuilder),
    Topology(Vec<(Vec<u8>, Vec<u8>)>),
}

impl Joined {
    pub(crate) fn of(shard: ShardId) -> Joined {
        match shard {
            META => Joined::Topology(Vec::new()),
            _ => Joined::Locks(SnapshotBuilder::default()),
        }
    }

    /// Adds a record. They come by rising key.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        match self {
            Joined::Locks(snapshot) => snapshot.add(key, value),
            Joined::Topology(records) => records.push((key.to_vec(), value.to_vec())),
        }
    }

    /// # Errors
    /// If the records are no topology. Those of locks are not looked at.
    pub(crate) fn finish(self) -> Result<Vec<u8>, MachineError> {
        Ok(match self {
            Joined::Locks(snapshot) => snapshot.finish(),
            Joined::Topology(records) => TopologyMachine::load(records)?.topology().encode(),
        })
    }
}

impl Machine {
    /// The machine of a shard with the records of its last checkpoint. It is empty without any.
    ///
    /// # Errors
    /// If the records are damaged.
    pub(crate) fn load(
        shard: ShardId,
        records: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Machine, MachineError> {
        Ok(match shard {
            META => Machine::Topology(TopologyMachine::load(records)?),
            _ => Machine::Locks(LockTable::load(records)?),
        })
    }

    /// The machine of a shard from the bytes of a [`snapshot`](Self::snapshot).
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub(crate) fn restore(shard: ShardId, bytes: &[u8]) -> Result<Machine, MachineError> {
        Ok(match shard {
            META => Machine::Topology(TopologyMachine::restore(bytes)?),
            _ => Machine::Locks(LockTable::restore(bytes)?),
        })
    }

    /// The lock table, if this is one.
    pub(crate) fn locks(&self) -> Option<&LockTable> {
        match self {
            Machine::Locks(table) => Some(table),
            Machine::Topology(_) => None,
        }
    }

    /// The bytes of the whole state. They depend on the state only.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        match self {
            Machine::Locks(table) => table.snapshot(),
            Machine::Topology(machine) => machine.topology().encode(),
        }
    }

    /// The records that changed since the last checkpoint.
    pub(crate) fn checkpoint(&mut self) -> Vec<Change> {
        match self {
            Machine::Locks(table) => table.checkpoint(),
            Machine::Topology(machine) => machine.checkpoint(),
        }
    }

    /// How many records changed since the last checkpoint, about.
    pub(crate) fn dirty_len(&self) -> usize {
        match self {
            Machine::Locks(table) => table.dirty_len(),
            Machine::Topology(machine) => machine.dirty_len(),
        }
    }

    /// The hash of the state, by which replicas are compared.
    pub(crate) fn state_hash(&self) -> u64 {
        match self {
            Machine::Locks(table) => table.state_hash(),
            Machine::Topology(machine) => machine.topology().state_hash(),
        }
    }

    /// How many rows [`state_hash`](Self::state_hash) reads.
    pub(crate) fn state_hash_rows(&self) -> usize {
        match self {
            Machine::Locks(table) => table.state_hash_rows(),
            Machine::Topology(machine) => machine.rows(),
        }
    }

    /// Shard time at the last entry. A topology has no leases, so its time stands still.
    pub(crate) fn shard_ms(&self) -> u64 {
        match self {
            Machine::Locks(table) => table.shard_ms(),
            Machine::Topology(_) => 0,
        }
    }
}

//! The table of one shard.

use crate::command::{Command, DecodeError};
use crate::types::*;

/// All locks, leases, queues and recent requests of one shard.
#[derive(Debug, Default)]
pub struct LockTable {}

impl LockTable {
    /// An empty table.
    pub fn new() -> Self {
        todo!()
    }

    /// Applies one command of the log. `effects` is appended to.
    pub fn apply(&mut self, _stamp: Stamp, _command: &Command<'_>, _effects: &mut Effects) -> Outcome {
        todo!()
    }

    /// The holders of a name, oldest grant first.
    pub fn holders(&self, _name: &str) -> Vec<Grant> {
        todo!()
    }

    /// How many wait for a name.
    pub fn queue_len(&self, _name: &str) -> u32 {
        todo!()
    }

    /// Grants of names that start with `prefix`, by name then token, at most `limit`, and whether there are more.
    pub fn list(&self, _prefix: &str, _limit: usize) -> (Vec<Grant>, bool) {
        todo!()
    }

    /// All live leases: for a new leader, which restarts each at its full TTL.
    pub fn leases(&self) -> impl Iterator<Item = LeaseEvent> + '_ {
        std::iter::empty()
    }

    /// All waiters (name, request id): for a new leader, which gives each a while to be heard of again.
    pub fn waiters(&self) -> impl Iterator<Item = (&str, RequestId)> + '_ {
        std::iter::empty()
    }

    /// The highest token issued.
    pub fn last_token(&self) -> Token {
        todo!()
    }

    /// The last stamp's shard time: a new leader carries on from here.
    pub fn shard_ms(&self) -> u64 {
        todo!()
    }

    /// For metrics. O(1).
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// Covers everything that decides future outcomes. Equal tables have equal hashes however they came to be (by log, or
    /// by snapshot and then log).
    pub fn state_hash(&self) -> u64 {
        todo!()
    }

    /// What changed since the last call: applied to the records of the earlier calls it gives the records of the whole table.
    pub fn checkpoint(&mut self) -> Vec<Change> {
        todo!()
    }

    /// How many records the next [`checkpoint`](Self::checkpoint) will hold at most.
    pub fn dirty_len(&self) -> usize {
        todo!()
    }

    /// Back from the records of all checkpoints so far.
    pub fn load(_records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, DecodeError> {
        todo!()
    }

    /// The whole table as one byte string with a version and CRC-32C.
    pub fn snapshot(&self) -> Vec<u8> {
        todo!()
    }

    /// Back from [`snapshot`](Self::snapshot). The result has everything marked as changed, so its next checkpoint is complete.
    pub fn restore(_bytes: &[u8]) -> Result<Self, DecodeError> {
        todo!()
    }
}

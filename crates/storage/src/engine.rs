//! What an engine promises.

use routing::ShardId;
use std::time::Duration;

/// What one shard wants written.
///
/// * `entries`, `delete_after` and `hard_state` are its log: on disk, all of them or none, when [`Engine::write`] returns.
/// * `applied`, `table`, `history` and `truncate_to` come of the log, and follow it: a crash may take the last of them back,
///   all after some call and never only some of a call. The log is then as it was before it was truncated, and brings them forth again.
/// * With `reset`, all of it is on disk when the call returns: the log that it would come of is gone. Other shards may be written
///   meanwhile, by other threads; this one may not, because a crash could take the reset back and leave what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardWrite {
    /// Whose.
    pub shard: ShardId,
    /// First wipe the shard's log, hard state, applied record and table (not its history): a snapshot replaces them.
    pub reset: bool,
    /// Log entries (index, bytes), consecutive. Replaces what was stored at these indexes.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// Delete all entries after this index: the tail that a new leader's entries replaced.
    pub delete_after: Option<u64>,
    /// Delete all entries up to and including this index: they are below a durable checkpoint.
    pub truncate_to: Option<u64>,
    /// Raft's term, vote and commit, encoded by the shard.
    pub hard_state: Option<Vec<u8>>,
    /// How far the table below has been applied, and the membership there; encoded by the shard. Goes with `table`.
    pub applied: Option<Vec<u8>>,
    /// Records of the lock table to set, or to delete.
    pub table: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Ended grants.
    pub history: Vec<HistoryRecord>,
}

/// One ended grant, on its way to or from history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Day of shard time at its end: retention drops whole days.
    pub day: u32,
    /// Of the resource.
    pub name: String,
    /// Of the grant: (shard, name, token) is unique.
    pub token: u64,
    /// Of the log entry that ended it.
    pub index: u64,
    /// The encoded tenure.
    pub tenure: Vec<u8>,
}

/// What was found of a shard at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Consecutive by index.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// As last written.
    pub hard_state: Option<Vec<u8>>,
    /// As last written.
    pub applied: Option<Vec<u8>>,
    /// By key.
    pub table: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Nothing here is retryable: the process stops on any of these but `NotFound`-like emptiness, which is no error.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk or RocksDB refused. After a failed sync the state of the file is unknown; never retry it.
    #[error("storage failed: {0}; the process must stop, and its data directory be checked before it starts again")]
    Io(String),
    /// Bytes that were acknowledged are gone or changed.
    #[error("storage is damaged: {0}; re-seed this replica from its peers (see `palisade node --help`)")]
    Damaged(String),
    /// The directory belongs to another cluster, node or format.
    #[error("{0}")]
    Identity(String),
}

/// Who a data directory belongs to. Written once, compared at each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the cluster-frozen settings.
    pub fingerprint: [u8; 16],
    /// Of the node.
    pub node: u64,
}

/// A node's durable store.
pub trait Engine: Send + Sync + 'static {
    /// Claims the store for `identity`, or checks that it is the owner's. Returns the boot count, from 1, already durable:
    /// a nonce that no other run of this node has had.
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError>;

    /// All of `writes`, in order, in one append and one sync, or none where no log is among them. Promises what [`ShardWrite`] says.
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError>;

    /// What a shard left. Every entry's checksum is verified, and that they are consecutive.
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError>;

    /// The lock table of a shard and how far it has been applied, of one moment: while others write, and without holding them up.
    /// Only the two are filled in.
    fn table(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        let Recovered { applied, table, .. } = self.recover(shard)?;
        Ok(Recovered { applied, table, ..Recovered::default() })
    }

    /// The newest `limit` ended grants of a name, newest first by token.
    fn history(&self, shard: ShardId, name: &str, limit: usize) -> Result<Vec<HistoryRecord>, StorageError>;

    /// Ended grants of a shard whose entry index is above `after_index`, in key order, resumable: starts after `cursor` (from
    /// the former call), returns at most `limit` and the next cursor, `None` at the end. A page may be empty and not the last: what a
    /// call looks at is bounded, too.
    #[allow(clippy::type_complexity)]
    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError>;

    /// Drops all history of days before `day`.
    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError>;

    /// What the node keeps for itself under this name, beside its shards.
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The number of the last write of a log that is on disk. It rises with each, also over restarts; of two copies of a store the
    /// one with the lower number has forgotten something. Cheap, and never waits for the disk.
    fn last_record(&self) -> u64;

    /// When the file system made this store, where it says so. A copy of the store was made at another time. Only good to be
    /// compared with itself.
    fn born(&self) -> Option<u128>;

    /// Sets all of these records, atomically; on disk when this returns.
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError>;

    /// Whether a reset's records, which may be many, are being put into memory. Other writes take longer meanwhile, however fast the
    /// disk is.
    fn is_loading(&self) -> bool {
        false
    }

    /// Syncs a few times, and says how long each took; calls `next` before each. Empty: there is no disk, or no room on it to try.
    fn measure_syncs(&self, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
        let _ = next;
        Ok(Vec::new())
    }
}

impl ShardWrite {
    /// Whether it has a log.
    pub fn has_log(&self) -> bool {
        self.delete_after.is_some() || self.hard_state.is_some() || !self.entries.is_empty()
    }

    /// Panics on a write that no shard may ask for: it would leave a log that cannot be recovered.
    ///
    /// * Its entries are consecutive.
    /// * A tail is deleted up to the new entries, or after them, never leaving a gap between.
    pub(crate) fn assert_well_formed(&self) {
        for pair in self.entries.windows(2) {
            let (first, second) = (pair[0].0, pair[1].0);
            assert!(
                first.checked_add(1) == Some(second),
                "shard {}: entries {first} and {second} of one write",
                self.shard
            );
        }
        if let (Some(after), Some((first, _))) = (self.delete_after, self.entries.first()) {
            assert!(
                after.saturating_add(1) >= *first,
                "shard {}: deleting after {after}, writing from {first}",
                self.shard
            );
        }
    }
}

/// Each entry follows the one before it.
pub(crate) fn check_consecutive(shard: ShardId, last: u64, next: u64) -> Result<(), StorageError> {
    if last.checked_add(1) == Some(next) {
        return Ok(());
    }
    Err(StorageError::Damaged(format!(
        "shard {shard}: log entry {next} follows entry {last}, what stood between is gone"
    )))
}

//! The promises of an engine, and the values that it takes and returns.

use crate::{LifeRefused, Lives};
use routing::ShardId;
use std::collections::BTreeMap;
use std::time::Duration;

/// The changes that one shard asks for in one write.
///
/// - `entries`, `delete_after` and `hard_state` are the log. When [`Engine::write`] returns, all of
///   them are on disk; after a crash in the middle, all or none are.
/// - `applied`, `table`, `history`, `received` and `truncate_to` follow from the log. A crash may take back the
///   last of them: everything after some call, never a part of one call. The log is then as it was
///   before it was truncated, so that replaying it gives them again.
/// - With `reset`, everything is on disk when the call returns, because the log that it would
///   follow from is gone. Other threads may write other shards meanwhile. This shard may not be
///   written, because a crash could take the reset back and leave the later write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardWrite {
    /// The shard to write.
    pub shard: ShardId,
    /// Wipes the shard's log, hard state, applied record and table first, because a snapshot
    /// replaces them. History stays.
    pub reset: bool,
    /// Log entries (index, bytes) with consecutive indexes. They replace the stored entries at
    /// these indexes.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// Deletes all entries after this index: the tail that a new leader's entries replace.
    pub delete_after: Option<u64>,
    /// Deletes all entries up to and including this index, because a durable checkpoint covers
    /// them.
    pub truncate_to: Option<u64>,
    /// Raft's term, vote and commit index, encoded by the shard.
    pub hard_state: Option<Vec<u8>>,
    /// Index up to which `table` has been applied, and the membership at it; encoded by the shard.
    /// Written together with `table`.
    pub applied: Option<Vec<u8>>,
    /// Records of the lock table (key, value). `None` deletes the record.
    pub table: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Ended grants to add to history: each entry's in one write, all of them, and the same ones if
    /// the entry is applied again.
    pub history: Vec<HistoryRecord>,
    /// Ended grants that a peer sent: any of an entry's, in any order.
    pub received: Vec<HistoryRecord>,
}

/// One ended grant in history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Day of shard time on which it ended. Retention drops whole days.
    pub day: u32,
    /// Name of the resource.
    pub name: String,
    /// Fencing token of the grant. The triple (shard, name, token) is unique.
    pub token: u64,
    /// Index of the log entry that ended it.
    pub index: u64,
    /// The tenure, encoded by the shard.
    pub tenure: Vec<u8>,
}

/// The state of a shard as found at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Log entries (index, bytes) with consecutive indexes.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// Hard state as last written.
    pub hard_state: Option<Vec<u8>>,
    /// Applied record as last written.
    pub applied: Option<Vec<u8>>,
    /// Records of the lock table (key, value), sorted by key.
    pub table: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A failure of the store. None of these may be retried. The process stops, except after
/// [`Refused`](Self::Refused).
///
/// An empty store and a missing record are not errors.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk or RocksDB refused. After a failed sync the state of the file is unknown, so that a
    /// retry could report bytes as durable that are not.
    #[error(
        "storage failed: {0}; the process stops: check its data directory before you start it again"
    )]
    Io(String),
    /// Bytes that were acknowledged are gone or changed.
    #[error(
        "storage is damaged: {0}; re-seed this replica from its peers (see `palisade node --help`)"
    )]
    Damaged(String),
    /// The directory belongs to another cluster, node or format.
    #[error("{0}")]
    Identity(String),
    /// A replica may not begin or end here. Nothing was changed, and the store takes further
    /// writes.
    #[error(transparent)]
    Refused(#[from] LifeRefused),
}

/// The owner of a data directory. Written once and compared at each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Fingerprint of the cluster's frozen settings.
    pub fingerprint: [u8; 16],
    /// Id of the node in that cluster.
    pub node: u64,
}

/// The durable store of a node. The crate's page has an example.
pub trait Engine: Send + Sync + 'static {
    /// Claims the store for `identity`, or checks that it belongs to `identity` already.
    ///
    /// Returns the boot count, from 1, which is on disk by then. It is a nonce that no other run of
    /// this node has had.
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError>;

    /// Raises the format version of the store, which is one of [`FORMATS`](crate::FORMATS). It is on
    /// disk when this returns. A version that is not later than the present one changes nothing.
    /// Returns the present one.
    ///
    /// Call it before the first write of bytes that a build of the former version could misread.
    ///
    /// # Panics
    /// If the store was not claimed, or the version is not one of those.
    fn raise_format(&self, format: u32) -> Result<u32, StorageError>;

    /// Writes all of `writes`, in order, with the promises of [`ShardWrite`].
    ///
    /// It takes one append and one sync for all of them; or none, if none of them has a log.
    ///
    /// # Panics
    /// If the last life of a shard was destroyed and no new one is hosted.
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError>;

    /// Begins the life of a replica: its birth is on disk when this returns. Call it before the
    /// replica writes or says anything.
    ///
    /// Data that the shard has already, because its node kept no births before, belong to this life.
    /// Hosting a life that is hosted changes nothing.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if this life or a later one was destroyed here, or another one is
    /// hosted.
    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError>;

    /// Destroys the replica with this birth: in one write the shard's log, hard state, applied
    /// record, table and history go, and its tombstone is put. It is on disk when this returns. A
    /// crash in the middle leaves all of the replica without the tombstone, or nothing with it.
    ///
    /// Other threads may write other shards meanwhile. All writes of this shard must have returned,
    /// and none may follow before [`host_shard`](Self::host_shard). A life that was destroyed, or
    /// that a later one has replaced, may be dropped again: that changes nothing. A life that was
    /// never here gets its tombstone, so that it never begins.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if an earlier life is hosted.
    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError>;

    /// The lives of all shards that ever began or ended here. A call may wait for a
    /// write under way.
    fn lives(&self) -> BTreeMap<ShardId, Lives>;

    /// Reads the state of a shard. It verifies the checksum of every entry, and that the indexes
    /// are consecutive.
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError>;

    /// Reads the lock table of a shard: calls `each` with the key and the value of all its records,
    /// by rising key, and returns the applied record, which is of the same moment. It blocks no
    /// writer.
    fn table(
        &self,
        shard: ShardId,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let Recovered { applied, table, .. } = self.recover(shard)?;
        table.iter().for_each(|(key, value)| each(key, value));
        Ok(applied)
    }

    /// The newest `limit` ended grants of a name, highest token first.
    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError>;

    /// A page of a shard's ended grants with an entry index above `after_index`, in an order of the
    /// engine's own. A grant may come twice, because after a crash its entry is applied again.
    ///
    /// The page starts after `cursor` (from the former call) and has at most `limit` records. The
    /// second value is the next cursor, `None` at the end. A page may be empty without being the
    /// last, because the number of records that one call examines is bounded as well.
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

    /// Reads a record that the node keeps for itself under this name, beside its shards.
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// Number of the last write of a log that is on disk. It rises with each such write, also over
    /// restarts. Cheap, and never waits for the disk.
    ///
    /// Peers use it to detect an old copy of a data directory:
    ///
    /// 1. An operator copies the directory of node 3, which is at record 900.
    /// 2. Node 3 acknowledges entries up to record 1000, and its disk fails.
    /// 3. The operator starts the copy. It lacks 100 records that node 3 acknowledged, so its vote
    ///    could elect a leader without a committed entry.
    ///
    /// The peers remember number 1000, and the copy reports 900. So they refuse it.
    fn last_record(&self) -> u64;

    /// When the file system made this store, if it tells. A copy of the store was made at another
    /// time, which shows that it is a copy. Compare it only with itself.
    fn born(&self) -> Option<u128>;

    /// Sets all of these records atomically. They are on disk when this returns.
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError>;

    /// Whether the records of a reset, which may be many, are being put into memory. Other writes
    /// take longer meanwhile, however fast the disk is.
    fn is_loading(&self) -> bool {
        false
    }

    /// The sizes of the store and of its disk, as the system tells them now. `None` if there is no
    /// disk. A call reads directories, so it may wait for the disk.
    fn sizes(&self) -> Option<Sizes> {
        None
    }

    /// Syncs a few times and returns the time that each took. Calls `next` before each.
    ///
    /// The result is empty if there is no disk, or no room on it for the test file.
    fn measure_syncs(&self, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
        let _ = next;
        Ok(Vec::new())
    }
}

/// Sizes of a store and of its disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The files of the journal, those that are kept for reuse included.
    pub journal_bytes: u64,
    /// The files of the database.
    pub database_bytes: u64,
    /// Records in the database's memory that no file has yet.
    pub memory_bytes: u64,
    /// An estimate of the bytes that merges have to rewrite.
    pub pending_merge_bytes: u64,
    /// Free room on the disk, for users other than root. 0 also if the system does not tell.
    pub free_bytes: u64,
    /// The size of the file system. 0 if the system does not tell.
    pub disk_bytes: u64,
    /// Whether the file system is read-only now.
    pub read_only: bool,
}

impl ShardWrite {
    /// Whether this write changes the log.
    pub fn has_log(&self) -> bool {
        self.delete_after.is_some() || self.hard_state.is_some() || !self.entries.is_empty()
    }

    /// Panics on a write that no shard may ask for, because its log could not be recovered.
    ///
    /// - The entries have consecutive indexes.
    /// - The deleted tail leaves no gap before the new entries.
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

/// Checks that an entry follows the one before it.
pub(crate) fn check_consecutive(shard: ShardId, last: u64, next: u64) -> Result<(), StorageError> {
    if last.checked_add(1) == Some(next) {
        return Ok(());
    }
    Err(StorageError::Damaged(format!(
        "shard {shard}: log entry {next} follows entry {last}, and the entries between them are \
         gone"
    )))
}

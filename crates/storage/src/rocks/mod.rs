//! The engine on disk: a journal for the logs of all shards, and one RocksDB database for lock
//! tables, history and log entries that outlive the journal.
//!
//! ```text
//!  write ──► journal: one append, one sync  ──► durable
//!       └──► database: memory only          ──► durable with the next flush, all of it or nothing
//! ```
//!
//! So the database is never ahead of the log. After a crash it is behind, and replicas replay the
//! log to catch up. For this to work the journal gives up no entry before the database is flushed:
//!
//! 1. A checkpoint covers entries 1 to 900. It is in the database's memory, and entries 1 to 900
//!    are truncated.
//! 2. Suppose that their segment is used again, and they are overwritten.
//! 3. A crash takes the checkpoint back: the table is at entry 500, entries 501 to 900 are gone.
//!
//! Bytes that were on disk and are now gone or changed are reported, never skipped. A failed write
//! is never retried.

mod background;
mod flush;
mod framing;
mod history;
mod keeper;
mod lives;
mod mark;
mod names;
mod options;
mod reading;
mod reset;
mod room;
mod sizes;
mod store;
mod tails;

use crate::journal::{self, Journal};
use crate::{
    Engine, HistoryRecord, Identity, Lives, Recovered, ShardWrite, Sizes, StorageError, engine,
    identity, keys,
};
use keeper::Keeper;
use mark::SyncedMark;
use reading::open_error;
use rocksdb::{DB, WriteBatch};
use room::Reserve;
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Store, Writer, delete_log_after, put_in_memory};

pub use background::give_way;
pub use room::Room;

/// RocksDB's own files, below the data directory.
const DB_DIR: &str = "rocksdb";
/// The journal's files, below the data directory.
const JOURNAL_DIR: &str = "journal";
/// The mark of durable bytes, below the data directory: see [`SyncedMark`].
const MARK_FILE: &str = "SYNCED";
/// Default size of a file of the journal.
const SEGMENT_BYTES: u64 = 4 << 20;

/// The store of a node in a directory.
///
/// - One process at a time has it open.
/// - Writes happen one at a time, in one order.
/// - After a failed write every later one is refused, because the file's state is unknown then.
///
/// ```
/// use palisade_storage::{Engine, Identity, RocksEngine};
///
/// let dir = tempfile::tempdir().unwrap();
/// let identity = Identity { fingerprint: [7; 16], node: 1 };
/// let start = || RocksEngine::open(dir.path()).unwrap().claim(&identity).unwrap();
/// assert_eq!((start(), start()), (1, 2));
/// ```
#[derive(Debug)]
pub struct RocksEngine {
    store: Arc<Store>,
    keeper: Keeper,
    room: Room,
}

/// Settings of a store.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Size of a file of the journal, in bytes.
    pub segment_bytes: u64,
    /// Room on the disk that is kept for a start on a full disk, in bytes; 0 for none.
    pub reserve_bytes: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions { segment_bytes: SEGMENT_BYTES, reserve_bytes: 0 }
    }
}

impl RocksEngine {
    /// Opens the store in `dir` with default settings, and creates it if needed.
    ///
    /// # Errors
    /// If the directory is in use, belongs to another version, or is damaged, or if the disk fails.
    pub fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
        RocksEngine::open_with(dir, RocksOptions::default())
    }

    /// Like [`open`](Self::open), with files of `segment_bytes` bytes for the journal.
    pub fn open_with_segments(dir: &Path, segment_bytes: u64) -> Result<RocksEngine, StorageError> {
        RocksEngine::open_with(dir, RocksOptions { segment_bytes, ..RocksOptions::default() })
    }

    /// Like [`open`](Self::open), with these settings.
    pub fn open_with(dir: &Path, options: RocksOptions) -> Result<RocksEngine, StorageError> {
        let RocksOptions { segment_bytes, reserve_bytes } = options;
        let io = |what: &str, error: std::io::Error| {
            StorageError::Io(format!("{what} {}: {error}", dir.display()))
        };
        std::fs::create_dir_all(dir).map_err(|error| io("cannot create", error))?;
        let reserve = Reserve::new(dir, reserve_bytes);
        let reserve_used = reserve.give_up_if_needed()?;
        let db_dir = dir.join(DB_DIR);
        // RocksDB writes CURRENT last, so there is a database exactly if this file exists.
        let exists = db_dir.join("CURRENT").exists();
        let mut mark = SyncedMark::open(&dir.join(MARK_FILE), exists)?;
        if exists {
            mark.check_manifest(&db_dir)?;
            framing::check(&db_dir)?;
        }
        background::start()?;
        let db =
            DB::open_cf_descriptors(&options::database()?, &db_dir, options::column_families())
                .map_err(|error| open_error(dir, exists, &error))?;
        mark.database_opened(&db_dir, db.latest_sequence_number())?;
        let known = reading::known(&db, mark.record())?;
        let journal =
            Journal::open(&dir.join(JOURNAL_DIR), segment_bytes, &known, |shard, after| {
                let mut batch = WriteBatch::default();
                delete_log_after(&mut batch, options::cf(&db, keys::CF_LOG), shard, after);
                put_in_memory(&db, batch).map_err(StorageError::from)
            })?;
        let last_record = AtomicU64::new(journal.last());
        let lives = reading::lives(&db)?;
        let packs_history = reading::format(&db)? >= Some(history::PACKED_FORMAT);
        let tails = tails::Tails::default();
        let writer =
            Mutex::new(Writer { journal, mark, failed: None, lives, packs_history, tails });
        let room = match reserve.keep() {
            Room::Little { free_bytes } if reserve_used => Room::ReserveUsed { free_bytes },
            room => room,
        };
        let store = Arc::new(Store {
            dir: dir.to_path_buf(),
            db,
            reserve,
            writer,
            last_record,
            flushing: Mutex::default(),
            loading: AtomicBool::new(false),
        });
        let keeper = Keeper::start(store.clone())?;
        Ok(RocksEngine { store, keeper, room })
    }

    /// Closes the store as the death of the process would, for tests: what no sync and no flush has
    /// brought to disk is lost.
    #[doc(hidden)]
    pub fn crash(self) {
        self.store.writer().failed.get_or_insert_with(|| "the engine crashed".into());
    }

    /// The room that the start found on the disk.
    pub fn room(&self) -> Room {
        self.room
    }
}

impl Drop for RocksEngine {
    fn drop(&mut self) {
        self.keeper.stop();
        let mut writer = self.store.writer();
        // Flush, so that the next start has nothing to replay. If this fails, it replays.
        let flushed = writer.failed.is_none() && self.store.flush().is_ok();
        self.store.db.cancel_all_background_work(true);
        if flushed {
            // If this fails, the mark stays behind, as after a kill.
            let (record, sequence) =
                (writer.journal.last(), self.store.db.latest_sequence_number());
            let _ = writer.mark.advance(record, Some(sequence));
        }
    }
}

impl Engine for RocksEngine {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        let place = format!("data directory {}", self.store.dir.display());
        let (identity_key, boot_key) = (keys::identity(), keys::boot());
        let mut batch = WriteBatch::default();
        match self.store.get(keys::CF_META, &identity_key, &|| format!("{place}, identity"))? {
            Some(stored) => identity::check(&stored, identity, &place)?,
            None => batch.put_cf(
                self.store.cf(keys::CF_META),
                &identity_key,
                keys::seal(&identity_key, &identity::encode(identity)),
            ),
        }
        let boot =
            match self.store.get(keys::CF_META, &boot_key, &|| format!("{place}, boot count"))? {
                None => 1,
                Some(bytes) => match <[u8; 8]>::try_from(bytes) {
                    Ok(bytes) => u64::from_le_bytes(bytes) + 1,
                    Err(_) => {
                        return Err(StorageError::Damaged(format!(
                            "{place}: its boot count is not 8 bytes"
                        )));
                    }
                },
            };
        batch.put_cf(
            self.store.cf(keys::CF_META),
            &boot_key,
            keys::seal(&boot_key, &boot.to_le_bytes()),
        );
        self.store.change(|writer| self.store.put_synced(writer, batch))?;
        Ok(boot)
    }

    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        let place = format!("data directory {}", self.store.dir.display());
        let key = keys::identity();
        let stored = self.store.get(keys::CF_META, &key, &|| format!("{place}, identity"))?;
        let stored = stored.expect("the store was claimed");
        let (format, record) = identity::raised(&stored, format, &place)?;
        if let Some(record) = record {
            let mut batch = WriteBatch::default();
            batch.put_cf(self.store.cf(keys::CF_META), &key, keys::seal(&key, &record));
            self.store.change(|writer| {
                self.store.put_synced(writer, batch)?;
                writer.packs_history = format >= history::PACKED_FORMAT;
                Ok(())
            })?;
        }
        Ok(format)
    }

    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        let mut wakes = false;
        for writes in writes.chunk_by(|a, b| a.reset == b.reset) {
            if writes.first().is_some_and(|write| write.reset) {
                writes.iter().try_for_each(|write| reset::reset(&self.store, write))?;
                continue;
            }
            self.store.change(|writer| {
                self.store.store(writer, writes)?;
                wakes |= writer.journal.wants_keeper()
                    || writes.iter().any(|write| writer.tails.is_long(write.shard));
                Ok(())
            })?;
        }
        if wakes {
            self.keeper.wake();
        }
        Ok(())
    }

    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        lives::host(&self.store, shard, birth)
    }

    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        lives::drop(&self.store, shard, birth)
    }

    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.store.writer().lives.clone()
    }

    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        let mut recovered = Recovered::default();
        let writer = self.store.writer();
        let mut entries = BTreeMap::new();
        let whole = (keys::shard_start(shard), keys::shard_end(shard));
        self.store.scan(keys::CF_LOG, whole, &format!("shard {shard}, log"), |key, value| {
            let index = keys::log_index(key).ok_or_else(|| {
                StorageError::Damaged(format!(
                    "shard {shard}: a key of {} bytes is not a log key",
                    key.len()
                ))
            })?;
            entries.insert(index, value.to_vec());
            Ok(())
        })?;
        entries.extend(writer.journal.read(shard)?);
        for (index, sealed) in entries {
            if let Some((last, _)) = recovered.entries.last() {
                engine::check_consecutive(shard, *last, index)?;
            }
            recovered.entries.push((index, journal::unseal(shard, index, &sealed)?));
        }
        let table = &mut recovered.table;
        self.store.scan(
            keys::CF_STATE,
            keys::table_range(shard),
            &format!("shard {shard}, lock table"),
            |key, value| {
                let record = keys::table_record(key).unwrap_or_default();
                let bytes = keys::unseal(key, value, || {
                    format!("shard {shard}, lock table record {record:02x?}")
                })?;
                table.push((record.to_vec(), bytes.to_vec()));
                Ok(())
            },
        )?;
        recovered.hard_state = match writer.journal.hard_state(shard) {
            Some(bytes) => Some(bytes.to_vec()),
            None => self.store.get(keys::CF_META, &keys::hard_state(shard), &|| {
                format!("shard {shard}, hard state")
            })?,
        };
        recovered.applied = self.store.get(keys::CF_STATE, &keys::applied(shard), &|| {
            format!("shard {shard}, applied record")
        })?;
        Ok(recovered)
    }

    fn table(
        &self,
        shard: ShardId,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let mut applied = None;
        // One iterator sees one moment. Later writes are not in it.
        let (applied_key, whole) =
            (keys::applied(shard), (keys::shard_start(shard), keys::shard_end(shard)));
        self.store.scan(
            keys::CF_STATE,
            whole,
            &format!("shard {shard}, lock table"),
            |key, value| {
                let bytes =
                    keys::unseal(key, value, || format!("shard {shard}, the record {key:02x?}"))?;
                if *key == *applied_key {
                    applied = Some(bytes.to_vec());
                } else {
                    each(keys::table_record(key).unwrap_or_default(), bytes);
                }
                Ok(())
            },
        )?;
        Ok(applied)
    }

    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        self.store.history(shard, name, limit)
    }

    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        self.store.history_since(shard, after_index, cursor, limit)
    }

    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.store.drop_history_before(shard, day)
    }

    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.store.get(keys::CF_META, &keys::node_record(name), &|| {
            format!(
                "data directory {}, the node's record {:?}",
                self.store.dir.display(),
                String::from_utf8_lossy(name)
            )
        })
    }

    fn last_record(&self) -> u64 {
        self.store.last_record.load(Ordering::Acquire)
    }

    fn is_loading(&self) -> bool {
        self.store.loading.load(Ordering::Relaxed)
    }

    fn born(&self) -> Option<u128> {
        // The mark is made with the store and never again. A clock before 1970 gives no birth time.
        let made = std::fs::metadata(self.store.dir.join(MARK_FILE)).ok()?.created().ok()?;
        Some(made.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos())
    }

    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        for (name, bytes) in records {
            let key = keys::node_record(name);
            batch.put_cf(self.store.cf(keys::CF_META), &key, keys::seal(&key, bytes));
        }
        self.store.change(|writer| self.store.put_synced(writer, batch))
    }

    fn sizes(&self) -> Option<Sizes> {
        let Store { dir, db, .. } = &*self.store;
        Some(sizes::sizes(db, dir, &dir.join(JOURNAL_DIR), &dir.join(DB_DIR)))
    }

    fn measure_syncs(&self, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
        room::measure_syncs(&self.store.dir, next)
    }
}

#[cfg(test)]
mod tests;

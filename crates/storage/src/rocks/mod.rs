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
mod mark;
mod options;
mod reading;
mod reset;
mod room;

use crate::journal::{self, Journal};
use crate::write_error::WriteError;
use crate::{
    Engine, HistoryRecord, Identity, Recovered, ShardWrite, StorageError, engine, identity, keys,
};
use keeper::Keeper;
use mark::SyncedMark;
use reading::{open_error, read_error};
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, WriteBatch, WriteOptions};
use room::Reserve;
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// The parts of the engine that the journal's keeper uses as well.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    db: DB,
    reserve: Reserve,
    writer: Mutex<Writer>,
    /// Held during a flush of the database.
    flushing: Mutex<()>,
    /// Number of the journal's last record that is on disk.
    last_record: AtomicU64,
    /// Whether a reset is being loaded: see [`Engine::is_loading`].
    loading: AtomicBool,
}

#[derive(Debug)]
struct Writer {
    journal: Journal,
    mark: SyncedMark,
    /// The failure that closed the engine for writes.
    failed: Option<String>,
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
                delete_log_after(&mut batch, cf(&db, keys::CF_LOG), shard, after);
                put_in_memory(&db, batch).map_err(StorageError::from)
            })?;
        let last_record = AtomicU64::new(journal.last());
        let writer = Mutex::new(Writer { journal, mark, failed: None });
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

    /// The room that the start found on the disk.
    pub fn room(&self) -> Room {
        self.room
    }
}

fn cf<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("all column families are opened with the database")
}

/// Puts a batch into the database's memory. It is on disk with the next flush.
fn put_in_memory(db: &DB, batch: WriteBatch) -> Result<(), WriteError> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    Ok(db.write_opt(batch, &options)?)
}

fn delete_log_after(batch: &mut WriteBatch, log: &ColumnFamily, shard: ShardId, after: u64) {
    if let Some(first) = after.checked_add(1) {
        batch.delete_range_cf(log, &keys::log(shard, first)[..], &keys::shard_end(shard)[..]);
    }
}

impl Store {
    fn cf(&self, name: &str) -> &ColumnFamily {
        cf(&self.db, name)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while writing leaves `failed` as it was, and RocksDB's batches are atomic.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change`, which may write. All writes go through here, so none follows a failed one.
    fn change(
        &self,
        change: impl FnOnce(&mut Writer) -> Result<(), WriteError>,
    ) -> Result<(), StorageError> {
        let mut writer = self.writer();
        if let Some(why) = &writer.failed {
            return Err(StorageError::Io(format!(
                "an earlier write failed ({why}), so this one is refused"
            )));
        }
        let result = change(&mut writer);
        if let Err(error) = &result {
            writer.failed = Some(error.to_string());
        }
        Ok(result?)
    }

    /// Writes the logs to the journal first, and then all else to the database, so that the
    /// database is never ahead of the log. None of the writes may be a reset: see [`reset`].
    fn store(&self, writer: &mut Writer, writes: &[ShardWrite]) -> Result<(), WriteError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            self.add_to_batch(&mut batch, write, writer.journal.in_database(write.shard));
        }
        let logged: Vec<&ShardWrite> = writes.iter().filter(|write| write.has_log()).collect();
        if !logged.is_empty() {
            self.append(writer, &logged)?;
        }
        if !batch.is_empty() {
            put_in_memory(&self.db, batch)?;
        }
        for write in writes {
            write.truncate_to.into_iter().for_each(|to| writer.journal.truncate(write.shard, to));
        }
        Ok(())
    }

    /// Writes one record of the journal. It is on disk when this returns.
    fn append(&self, writer: &mut Writer, writes: &[&ShardWrite]) -> Result<(), WriteError> {
        writer.journal.append(writes)?;
        let last = writer.journal.last();
        self.last_record.store(last, Ordering::Release);
        writer.mark.advance(last, None)
    }

    /// Writes a batch that concerns the whole node. It is on disk when this returns.
    fn put_synced(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.marked(batch.len() as u64, || {
            let mut options = WriteOptions::default();
            options.set_sync(true);
            Ok(self.db.write_opt(batch, &options)?)
        })
    }

    /// Runs `put`, which writes `keys` keys to the write-ahead log, and marks them as durable.
    ///
    /// The mark counts these keys itself, because RocksDB's last number afterwards may be too high:
    /// the records of a reset take numbers meanwhile and are not in that log. With such a mark the
    /// store would be refused after a kill.
    fn marked(
        &self,
        keys: u64,
        put: impl FnOnce() -> Result<(), WriteError>,
    ) -> Result<(), StorageError> {
        self.change(|writer| {
            let before = self.db.latest_sequence_number();
            put()?;
            writer.mark.advance(writer.journal.last(), Some(before + keys))
        })
    }

    fn get(
        &self,
        cf: &str,
        key: &[u8],
        what: &dyn Fn() -> String,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let found =
            self.db.get_cf(self.cf(cf), key).map_err(|error| read_error(&what(), &error))?;
        found.map(|value| keys::unseal(key, &value, what).map(<[u8]>::to_vec)).transpose()
    }

    /// An iterator over `start..end`. The range must belong to one shard.
    fn range(&self, cf: &str, start: Vec<u8>, end: Vec<u8>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        options.fill_cache(false);
        self.db.raw_iterator_cf_opt(self.cf(cf), options)
    }

    /// Calls `each` with the keys and values of `start..end`, in order.
    fn scan(
        &self,
        cf: &str,
        (start, end): (Vec<u8>, Vec<u8>),
        what: &str,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut iterator = self.range(cf, start, end);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            each(key, value)?;
            iterator.next();
        }
        // An iterator that met an unreadable block looks like one at its end; its status differs.
        iterator.status().map_err(|error| read_error(what, &error))
    }

    /// Adds the database's part of a write to `batch`: all but its log, which the journal keeps.
    /// `in_database` is the last index of the shard for which the database may have an entry. A
    /// reset adds by itself from which record on the journal counts.
    fn add_to_batch(&self, batch: &mut WriteBatch, write: &ShardWrite, in_database: u64) {
        let (log, state, history, meta) = (
            self.cf(keys::CF_LOG),
            self.cf(keys::CF_STATE),
            self.cf(keys::CF_HISTORY),
            self.cf(keys::CF_META),
        );
        let shard = write.shard;
        write.assert_well_formed();
        // One buffer for all values, because history comes by the thousand records.
        let mut sealed = Vec::new();
        let mut put = |batch: &mut WriteBatch, cf, key: &[u8], parts: [&[u8]; 2]| {
            keys::seal_into(&mut sealed, key, parts);
            batch.put_cf(cf, key, &sealed);
        };
        // Deletions of ranges come first, because they would delete later puts of the same batch.
        if write.reset {
            batch.delete_range_cf(log, keys::shard_start(shard), keys::shard_end(shard));
            batch.delete_range_cf(state, keys::shard_start(shard), keys::shard_end(shard));
            batch.delete_cf(meta, keys::truncated(shard));
            match &write.hard_state {
                Some(bytes) => put(batch, meta, &keys::hard_state(shard), [bytes, &[]]),
                None => batch.delete_cf(meta, keys::hard_state(shard)),
            }
            for (index, bytes) in &write.entries {
                put(batch, log, &keys::log(shard, *index), [bytes, &[]]);
            }
        } else if let Some(after) = write.delete_after
            && in_database > after
        {
            delete_log_after(batch, log, shard, after);
        }
        if let Some(bytes) = &write.applied {
            put(batch, state, &keys::applied(shard), [bytes, &[]]);
        }
        for record in &write.history {
            let key = keys::history(shard, record.day, &record.name, record.token);
            put(batch, history, &key, [&record.index.to_le_bytes(), &record.tenure]);
        }
        for (record, value) in &write.table {
            let key = keys::table(shard, record);
            match value {
                Some(bytes) => put(batch, state, &key, [bytes, &[]]),
                None => batch.delete_cf(state, &key),
            }
        }
        if let Some(to) = write.truncate_to {
            put(batch, meta, &keys::truncated(shard), [&to.to_le_bytes(), &[]]);
            if in_database > 0 {
                let end = to
                    .checked_add(1)
                    .map_or_else(|| keys::shard_end(shard), |next| keys::log(shard, next).to_vec());
                batch.delete_range_cf(log, keys::shard_start(shard), end);
            }
        }
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
        self.store.put_synced(batch)?;
        Ok(boot)
    }

    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        let mut is_long = false;
        for writes in writes.chunk_by(|a, b| a.reset == b.reset) {
            if writes.first().is_some_and(|write| write.reset) {
                writes.iter().try_for_each(|write| reset::reset(&self.store, write))?;
                continue;
            }
            self.store.change(|writer| {
                self.store.store(writer, writes)?;
                is_long = writer.journal.wants_keeper();
                Ok(())
            })?;
        }
        if is_long {
            self.keeper.wake();
        }
        Ok(())
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

    fn table(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        let mut found = Recovered::default();
        // One iterator sees one moment. Later writes are not in it.
        let (applied, whole) =
            (keys::applied(shard), (keys::shard_start(shard), keys::shard_end(shard)));
        self.store.scan(
            keys::CF_STATE,
            whole,
            &format!("shard {shard}, lock table"),
            |key, value| {
                let bytes =
                    keys::unseal(key, value, || format!("shard {shard}, the record {key:02x?}"))?
                        .to_vec();
                if *key == *applied {
                    found.applied = Some(bytes);
                } else {
                    found.table.push((keys::table_record(key).unwrap_or_default().to_vec(), bytes));
                }
                Ok(())
            },
        )?;
        Ok(found)
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
        self.store.put_synced(batch)
    }

    fn measure_syncs(&self, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
        room::measure_syncs(&self.store.dir, next)
    }
}

#[cfg(test)]
mod tests;

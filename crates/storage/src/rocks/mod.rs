//! The engine on RocksDB: one database per node, shared by all its shards.
//!
//! It promises what [`Engine`] does, with one append and one sync per call, and that bytes which were acknowledged and are
//! now gone or changed are reported, never skipped. It never retries a failed write.

mod background;
mod framing;
mod mark;
mod options;

use crate::{Durability, Engine, HistoryRecord, Identity, Recovered, ShardWrite, StorageError, engine, identity, keys};
use mark::SyncedMark;
use rocksdb::{ColumnFamily, DB, DBRawIterator, ErrorKind, ReadOptions, WriteBatch, WriteOptions};
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Below the data directory: RocksDB's own files.
const DB_DIR: &str = "rocksdb";
/// Below the data directory: see [`SyncedMark`].
const MARK_FILE: &str = "SYNCED";
/// How many records one call of [`Engine::history_since`] looks at, so that a page takes bounded time: half a second or so. Each call
/// sorts what is in memory, which takes a twentieth.
const HISTORY_SCAN_MAX: usize = 1 << 19;

/// A node's store in a directory.
///
/// * One process at a time has it open.
/// * Writes happen one at a time, in one order; a synced one makes all before it durable.
/// * After the first write that failed, every further one is refused: what the failed one left in the file is unknown.
#[derive(Debug)]
pub struct RocksEngine {
    dir: PathBuf,
    db: DB,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    mark: SyncedMark,
    /// Why the engine is closed for writes.
    failed: Option<String>,
}

impl RocksEngine {
    /// Opens the store in `dir`, which is created if it does not exist, and replays what was not yet in RocksDB's tables.
    pub fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
        let io = |what: &str, error: std::io::Error| StorageError::Io(format!("{what} {}: {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(|error| io("cannot create", error))?;
        let db_dir = dir.join(DB_DIR);
        // RocksDB writes CURRENT last: with it, there is a database.
        let exists = db_dir.join("CURRENT").exists();
        let mut mark = SyncedMark::open(&dir.join(MARK_FILE), exists)?;
        if exists {
            mark.check_manifest(&db_dir)?;
            framing::check(&db_dir)?;
        }
        background::start()?;
        let db = DB::open_cf_descriptors(&options::database()?, &db_dir, options::column_families())
            .map_err(|error| open_error(dir, exists, &error))?;
        mark.database_opened(&db_dir, db.latest_sequence_number())?;
        Ok(RocksEngine { dir: dir.to_path_buf(), db, writer: Mutex::new(Writer { mark, failed: None }) })
    }

    fn cf(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("all column families are opened with the database")
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while writing leaves `failed` as it was, and RocksDB's batches are atomic.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only way to the disk.
    fn commit(&self, writer: &mut Writer, batch: WriteBatch, durability: Durability) -> Result<(), StorageError> {
        if let Some(why) = &writer.failed {
            return Err(StorageError::Io(format!("an earlier write failed ({why}), so this one is refused")));
        }
        let result = self.append(writer, batch, durability);
        if let Err(error) = &result {
            writer.failed = Some(error.to_string());
        }
        result.map_err(StorageError::Io)
    }

    fn append(&self, writer: &mut Writer, batch: WriteBatch, durability: Durability) -> Result<(), String> {
        let synced = durability == Durability::Synced;
        if batch.is_empty() {
            if !synced {
                return Ok(());
            }
            // An empty batch may never reach the file, but what was buffered before must be on disk.
            self.db.flush_wal(true).map_err(|error| error.into_string())?;
        } else {
            let mut options = WriteOptions::default();
            options.set_sync(synced);
            self.db.write_opt(batch, &options).map_err(|error| error.into_string())?;
        }
        if synced { writer.mark.advance(self.db.latest_sequence_number()) } else { Ok(()) }
    }

    fn get(&self, cf: &str, key: &[u8], what: &dyn Fn() -> String) -> Result<Option<Vec<u8>>, StorageError> {
        let found = self.db.get_cf(self.cf(cf), key).map_err(|error| read_error(&what(), &error))?;
        found.map(|value| keys::unseal(key, &value, what).map(<[u8]>::to_vec)).transpose()
    }

    /// An iterator over `start..end`. The range belongs to one shard.
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
        // An iterator that met an unreadable block is invalid like one at its end; only its status tells them apart.
        iterator.status().map_err(|error| read_error(what, &error))
    }

    fn add_to_batch(&self, batch: &mut WriteBatch, write: &ShardWrite) {
        let (log, state, history, meta) =
            (self.cf(keys::CF_LOG), self.cf(keys::CF_STATE), self.cf(keys::CF_HISTORY), self.cf(keys::CF_META));
        let shard = write.shard;
        write.assert_well_formed();
        // Deletions of ranges come before what is put into them; only the truncation may take back what was just put.
        if write.reset {
            batch.delete_range_cf(log, keys::shard_start(shard), keys::shard_end(shard));
            batch.delete_range_cf(state, keys::shard_start(shard), keys::shard_end(shard));
            batch.delete_cf(meta, keys::hard_state(shard));
        }
        if let Some(after) = write.delete_after
            && let Some(first) = after.checked_add(1)
        {
            batch.delete_range_cf(log, keys::log(shard, first), keys::shard_end(shard));
        }
        // One buffer for all values: history comes by the thousand.
        let mut sealed = Vec::new();
        let mut put = |batch: &mut WriteBatch, cf, key: &[u8], parts: [&[u8]; 2]| {
            keys::seal_into(&mut sealed, key, parts);
            batch.put_cf(cf, key, &sealed);
        };
        for (index, bytes) in &write.entries {
            put(batch, log, &keys::log(shard, *index), [bytes, &[]]);
        }
        if let Some(bytes) = &write.hard_state {
            put(batch, meta, &keys::hard_state(shard), [bytes, &[]]);
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
            let end = to.checked_add(1).map_or_else(|| keys::shard_end(shard), |next| keys::log(shard, next));
            batch.delete_range_cf(log, keys::shard_start(shard), end);
        }
    }
}

impl Drop for RocksEngine {
    fn drop(&mut self) {
        self.db.cancel_all_background_work(true);
        let mut writer = self.writer();
        if writer.failed.is_none() {
            // If this cannot be noted, the mark stays behind, as after a kill.
            let _ = writer.mark.database_closes();
        }
    }
}

impl Engine for RocksEngine {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        let mut writer = self.writer();
        let place = format!("data directory {}", self.dir.display());
        let (identity_key, boot_key) = (keys::identity(), keys::boot());
        let mut batch = WriteBatch::default();
        match self.get(keys::CF_META, &identity_key, &|| format!("{place}, identity"))? {
            Some(stored) => identity::check(&stored, identity, &place)?,
            None => batch.put_cf(
                self.cf(keys::CF_META),
                &identity_key,
                keys::seal(&identity_key, &identity::encode(identity)),
            ),
        }
        let boot = match self.get(keys::CF_META, &boot_key, &|| format!("{place}, boot count"))? {
            None => 1,
            Some(bytes) => match <[u8; 8]>::try_from(bytes) {
                Ok(bytes) => u64::from_le_bytes(bytes) + 1,
                Err(_) => return Err(StorageError::Damaged(format!("{place}: its boot count is not 8 bytes"))),
            },
        };
        batch.put_cf(self.cf(keys::CF_META), &boot_key, keys::seal(&boot_key, &boot.to_le_bytes()));
        self.commit(&mut writer, batch, Durability::Synced)?;
        Ok(boot)
    }

    fn write(&self, writes: &[ShardWrite], durability: Durability) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            self.add_to_batch(&mut batch, write);
        }
        self.commit(&mut self.writer(), batch, durability)
    }

    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        let mut recovered = Recovered::default();
        let whole = (keys::shard_start(shard), keys::shard_end(shard));
        let entries = &mut recovered.entries;
        self.scan(keys::CF_LOG, whole, &format!("shard {shard}, log"), |key, value| {
            let index = keys::log_index(key)
                .ok_or_else(|| StorageError::Damaged(format!("shard {shard}: {} bytes are no log key", key.len())))?;
            if let Some((last, _)) = entries.last() {
                engine::check_consecutive(shard, *last, index)?;
            }
            let bytes = keys::unseal(key, value, || format!("shard {shard}, log entry {index}"))?;
            entries.push((index, bytes.to_vec()));
            Ok(())
        })?;
        let table = &mut recovered.table;
        self.scan(keys::CF_STATE, keys::table_range(shard), &format!("shard {shard}, lock table"), |key, value| {
            let record = keys::table_record(key).unwrap_or_default();
            let bytes = keys::unseal(key, value, || format!("shard {shard}, lock table record {record:02x?}"))?;
            table.push((record.to_vec(), bytes.to_vec()));
            Ok(())
        })?;
        recovered.hard_state =
            self.get(keys::CF_META, &keys::hard_state(shard), &|| format!("shard {shard}, hard state"))?;
        recovered.applied =
            self.get(keys::CF_STATE, &keys::applied(shard), &|| format!("shard {shard}, applied record"))?;
        Ok(recovered)
    }

    fn history(&self, shard: ShardId, name: &str, limit: usize) -> Result<Vec<HistoryRecord>, StorageError> {
        // By token. A shared grant can end days after a younger one, so an older day may hold a higher token: no day can be
        // left out, but in each only the tokens above the lowest of the best so far are read.
        let mut newest: BTreeMap<u64, HistoryRecord> = BTreeMap::new();
        // One iterator for everything: each new one sorts what is in memory.
        let mut iterator = self.range(keys::CF_HISTORY, keys::shard_start(shard), keys::shard_end(shard));
        iterator.seek_to_last();
        while limit > 0
            && let Some(key) = iterator.key()
        {
            let day = parse_history(shard, key)?.day;
            let prefix = keys::history_name(shard, day, name);
            iterator.seek_for_prev(keys::history_name_end(&prefix));
            while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&prefix)) {
                let record = history_record(shard, key, value)?;
                if newest.len() == limit {
                    if newest.first_key_value().is_some_and(|(lowest, _)| *lowest >= record.token) {
                        break;
                    }
                    newest.pop_first();
                }
                newest.insert(record.token, record);
                iterator.prev();
            }
            iterator.status().map_err(|error| read_error(&format!("shard {shard}, history of {name:?}"), &error))?;
            // To the last key of the day before, whichever day that is.
            iterator.seek_for_prev(keys::history_day(shard, day));
        }
        iterator.status().map_err(|error| read_error(&format!("shard {shard}, history of {name:?}"), &error))?;
        Ok(newest.into_values().rev().collect())
    }

    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        // The range bounds the cursor: whatever it holds, no other shard's records are read.
        let mut iterator = self.range(keys::CF_HISTORY, keys::shard_start(shard), keys::shard_end(shard));
        match cursor {
            None => iterator.seek_to_first(),
            Some(mut last) => {
                last.push(0); // The least key above it.
                iterator.seek(last);
            }
        }
        let (mut page, mut scanned, mut last) = (Vec::new(), 0, Vec::new());
        while let Some((key, value)) = iterator.item() {
            if page.len() >= limit || scanned >= HISTORY_SCAN_MAX {
                return Ok((page, Some(last)));
            }
            let parts = history_parts(shard, key, value)?;
            if parts.index > after_index {
                page.push(parts.record());
            }
            scanned += 1;
            last.clear();
            last.extend_from_slice(key);
            iterator.next();
        }
        iterator.status().map_err(|error| read_error(&format!("shard {shard}, history"), &error))?;
        Ok((page, None))
    }

    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        let (start, end) = (keys::shard_start(shard), keys::history_day(shard, day));
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.cf(keys::CF_HISTORY), &start, &end);
        self.commit(&mut self.writer(), batch, Durability::Buffered)?;
        // Whole files of dropped days go at once; what shares a file with younger days goes when that is compacted.
        self.db
            .delete_file_in_range_cf(self.cf(keys::CF_HISTORY), &start, &end)
            .map_err(|error| StorageError::Io(format!("dropping history of shard {shard}: {error}")))
    }

    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.get(keys::CF_META, &keys::node_record(name), &|| {
            format!("data directory {}, the node's record {:?}", self.dir.display(), String::from_utf8_lossy(name))
        })
    }

    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        for (name, bytes) in records {
            let key = keys::node_record(name);
            batch.put_cf(self.cf(keys::CF_META), &key, keys::seal(&key, bytes));
        }
        self.commit(&mut self.writer(), batch, Durability::Synced)
    }
}

fn parse_history(shard: ShardId, key: &[u8]) -> Result<keys::HistoryKey<'_>, StorageError> {
    keys::parse_history(key)
        .ok_or_else(|| StorageError::Damaged(format!("shard {shard}: {key:02x?} is no key of a history record")))
}

fn history_record(shard: ShardId, key: &[u8], value: &[u8]) -> Result<HistoryRecord, StorageError> {
    history_parts(shard, key, value).map(HistoryParts::record)
}

/// A history record where it lies.
struct HistoryParts<'a> {
    key: keys::HistoryKey<'a>,
    index: u64,
    tenure: &'a [u8],
}

impl HistoryParts<'_> {
    fn record(self) -> HistoryRecord {
        let HistoryParts { key, index, tenure } = self;
        HistoryRecord { day: key.day, name: key.name.to_owned(), token: key.token, index, tenure: tenure.to_vec() }
    }
}

fn history_parts<'a>(shard: ShardId, key: &'a [u8], value: &'a [u8]) -> Result<HistoryParts<'a>, StorageError> {
    let parsed = parse_history(shard, key)?;
    let what = || format!("shard {shard}, history of {:?}, token {}", parsed.name, parsed.token);
    let bytes = keys::unseal(key, value, what)?;
    match bytes.split_first_chunk::<8>() {
        Some((index, tenure)) => Ok(HistoryParts { index: u64::from_le_bytes(*index), tenure, key: parsed }),
        None => Err(StorageError::Damaged(format!("{}: {} bytes are too few", what(), bytes.len()))),
    }
}

fn read_error(what: &str, error: &rocksdb::Error) -> StorageError {
    match error.kind() {
        ErrorKind::Corruption => StorageError::Damaged(format!("{what}: {error}")),
        _ => StorageError::Io(format!("reading {what}: {error}")),
    }
}

/// `exists`: the database was there before.
fn open_error(dir: &Path, exists: bool, error: &rocksdb::Error) -> StorageError {
    let (dir, message) = (dir.display(), error.to_string());
    // RocksDB has no kind of its own for a lock that is taken.
    if message.contains("While lock file") || message.contains("lock hold by current process") {
        return StorageError::Identity(format!(
            "data directory {dir} is in use by another process: stop that one first, or choose another directory ({message})"
        ));
    }
    match error.kind() {
        ErrorKind::Corruption => StorageError::Damaged(format!("{dir}: {message}")),
        ErrorKind::InvalidArgument if message.contains("Column famil") => StorageError::Identity(format!(
            "data directory {dir} was written by another version of palisade: start it with that version ({message})"
        )),
        ErrorKind::IOError if exists && message.contains("No such file") => {
            StorageError::Damaged(format!("{dir}: a file of its database is missing: {message}"))
        }
        _ => StorageError::Io(format!("cannot open {dir}: {message}")),
    }
}

//! The parts of the engine that its threads share: the database, the journal, and the one way to
//! write to both.
//!
//! All writes go through [`Store::change`], so that none follows a failed one. The module knows
//! nothing of resets and of the journal's keeper, which use it.

use super::mark::SyncedMark;
use super::options;
use super::reading::read_error;
use super::room::Reserve;
use super::tails::Tails;
use crate::journal::Journal;
use crate::write_error::WriteError;
use crate::{Lives, ShardWrite, StorageError, keys};
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, WriteBatch, WriteOptions};
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The parts of the engine that the journal's keeper uses as well.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) dir: PathBuf,
    pub(super) db: DB,
    pub(super) reserve: Reserve,
    pub(super) writer: Mutex<Writer>,
    /// Held during a flush of the database.
    pub(super) flushing: Mutex<()>,
    /// Number of the journal's last record that is on disk.
    pub(super) last_record: AtomicU64,
    /// Whether a reset is being loaded: see [`Engine::is_loading`](crate::Engine::is_loading).
    pub(super) loading: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) journal: Journal,
    pub(super) mark: SyncedMark,
    /// The failure that closed the engine for writes.
    pub(super) failed: Option<String>,
    /// The lives that are on disk.
    pub(super) lives: BTreeMap<ShardId, Lives>,
    /// Whether the store's format has rows of many tenures.
    pub(super) packs_history: bool,
    pub(super) tails: Tails,
}

/// Puts a batch into the database's memory. It is on disk with the next flush.
pub(super) fn put_in_memory(db: &DB, batch: WriteBatch) -> Result<(), WriteError> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    Ok(db.write_opt(batch, &options)?)
}

pub(super) fn delete_log_after(
    batch: &mut WriteBatch,
    log: &ColumnFamily,
    shard: ShardId,
    after: u64,
) {
    if let Some(first) = after.checked_add(1) {
        batch.delete_range_cf(log, &keys::log(shard, first)[..], &keys::shard_end(shard)[..]);
    }
}

impl Writer {
    pub(super) fn lives_of(&self, shard: ShardId) -> Lives {
        self.lives.get(&shard).copied().unwrap_or_default()
    }
}

impl Store {
    pub(super) fn cf(&self, name: &str) -> &ColumnFamily {
        options::cf(&self.db, name)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while writing leaves `failed` as it was, and RocksDB's batches are atomic.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change`, which may write. All writes go through here, so none follows a failed one.
    pub(super) fn change(
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
    /// database is never ahead of the log. None of the writes may be a reset: see [`reset`](super::reset).
    pub(super) fn store(
        &self,
        writer: &mut Writer,
        writes: &[ShardWrite],
    ) -> Result<(), WriteError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            writer.lives_of(write.shard).assert_writable(write.shard);
            self.add_to_batch(&mut batch, write, writer.journal.in_database(write.shard));
            self.add_history(writer, &mut batch, write)?;
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
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        writes: &[&ShardWrite],
    ) -> Result<(), WriteError> {
        writer.journal.append(writes)?;
        let last = writer.journal.last();
        self.last_record.store(last, Ordering::Release);
        writer.mark.advance(last, None)
    }

    /// Writes a batch that follows from no log. It is on disk when this returns.
    pub(super) fn put_synced(
        &self,
        writer: &mut Writer,
        batch: WriteBatch,
    ) -> Result<(), WriteError> {
        self.marked(writer, batch.len() as u64, || {
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
    pub(super) fn marked(
        &self,
        writer: &mut Writer,
        keys: u64,
        put: impl FnOnce() -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let before = self.db.latest_sequence_number();
        put()?;
        writer.mark.advance(writer.journal.last(), Some(before + keys))
    }

    pub(super) fn get(
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
    pub(super) fn range(&self, cf: &str, start: Vec<u8>, end: Vec<u8>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        options.fill_cache(false);
        self.db.raw_iterator_cf_opt(self.cf(cf), options)
    }

    /// Calls `each` with the keys and values of `start..end`, in order.
    pub(super) fn scan(
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

    /// Adds the database's part of a write to `batch`: all but its log, which the journal keeps, and
    /// its history.
    /// `in_database` is the last index of the shard for which the database may have an entry. A
    /// reset adds by itself from which record on the journal counts.
    pub(super) fn add_to_batch(
        &self,
        batch: &mut WriteBatch,
        write: &ShardWrite,
        in_database: u64,
    ) {
        let (log, state, meta) =
            (self.cf(keys::CF_LOG), self.cf(keys::CF_STATE), self.cf(keys::CF_META));
        let shard = write.shard;
        write.assert_well_formed();
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

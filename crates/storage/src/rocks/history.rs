//! Tenures in the database: the newest of a name, pages of all, and dropping old days.

use super::reading::{history_parts, history_record, parse_history, read_error};
use super::store::{Store, put_in_memory};
use crate::{HistoryRecord, StorageError, keys};
use rocksdb::WriteBatch;
use routing::ShardId;
use std::collections::BTreeMap;

/// Most records that one call of [`Store::history_since`] examines, so that a page takes about
/// half a second. Each call sorts the records in memory, which takes about a twentieth of a second.
const HISTORY_SCAN_MAX: usize = 1 << 19;

impl Store {
    /// The newest tenures of a name: see [`Engine::history`](crate::Engine::history).
    pub(super) fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        // History is sorted by day, but the answer is sorted by token. A shared grant can end days
        // after a younger one, so an older day may hold a higher token and no day can be skipped.
        // In each day, only tokens above the lowest of the best so far are read.
        let mut newest: BTreeMap<u64, HistoryRecord> = BTreeMap::new();
        // One iterator for everything, because each new one sorts the records in memory.
        let mut iterator =
            self.range(keys::CF_HISTORY, keys::shard_start(shard), keys::shard_end(shard));
        iterator.seek_to_last();
        while limit > 0
            && let Some(key) = iterator.key()
        {
            let day = parse_history(shard, key)?.day;
            let prefix = keys::history_name(shard, day, name);
            iterator.seek_for_prev(keys::history_name_end(&prefix));
            while let Some((key, value)) =
                iterator.item().filter(|(key, _)| key.starts_with(&prefix))
            {
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
            iterator.status().map_err(|error| {
                read_error(&format!("shard {shard}, history of {name:?}"), &error)
            })?;
            // Go to the last key of the nearest earlier day that has one.
            iterator.seek_for_prev(keys::history_day(shard, day));
        }
        iterator
            .status()
            .map_err(|error| read_error(&format!("shard {shard}, history of {name:?}"), &error))?;
        Ok(newest.into_values().rev().collect())
    }

    /// One page of records: see [`Engine::history_since`](crate::Engine::history_since).
    pub(super) fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        // The range bounds the cursor: no other shard's records are read, even with a bad cursor.
        let mut iterator =
            self.range(keys::CF_HISTORY, keys::shard_start(shard), keys::shard_end(shard));
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
        iterator
            .status()
            .map_err(|error| read_error(&format!("shard {shard}, history"), &error))?;
        Ok((page, None))
    }

    /// Drops the records of days before `day`.
    pub(super) fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        let (start, end) = (keys::shard_start(shard), keys::history_day(shard, day));
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.cf(keys::CF_HISTORY), &start, &end);
        // A crash may bring these days back. They are dropped again then.
        self.change(|_| put_in_memory(&self.db, batch))?;
        // Files of dropped days alone are deleted at once. Others lose these days when compacted.
        self.db.delete_file_in_range_cf(self.cf(keys::CF_HISTORY), &start, &end).map_err(|error| {
            StorageError::Io(format!("dropping history of shard {shard}: {error}"))
        })
    }
}

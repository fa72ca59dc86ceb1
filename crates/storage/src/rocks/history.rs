//! Tenures in the database: writing them, the newest of a name, pages of all, and dropping old days.
//!
//! A store below format 6 has a record for each tenure, sorted by day and name. From format 6 on it
//! has rows of many tenures in the order of their entries, and [names](super::names) to find them.
//! Records that a store had before stay as they are until their day is dropped. What a peer sends has
//! a record each as well: it may be a part of an entry, and a row of it would take the place of one
//! that has more.

use super::reading::{history_parts, history_record, parse_history, read_error};
use super::store::{Store, Writer, put_in_memory};
use crate::packed::Key;
use crate::write_error::WriteError;
use crate::{HistoryRecord, ShardWrite, StorageError, keys, packed};
use rocksdb::{DBRawIterator, WriteBatch};
use routing::ShardId;
use std::collections::BTreeMap;

/// The first format that has rows of many tenures.
pub(super) const PACKED_FORMAT: u32 = 6;
/// Most records that one call of [`Store::history_since`] examines, so that a page takes about
/// half a second. Each call sorts the records in memory, which takes about a twentieth of a second.
const HISTORY_SCAN_MAX: usize = 1 << 19;
/// The length of a cursor within a row: its key, and how many of its tenures were told.
const ROW_CURSOR_BYTES: usize = 4 + 4 + 1 + packed::PLACE_BYTES + 4;

impl Store {
    /// Adds the tenures of a write to a batch for the database's memory.
    pub(super) fn add_history(
        &self,
        writer: &mut Writer,
        batch: &mut WriteBatch,
        write: &ShardWrite,
    ) -> Result<(), WriteError> {
        self.add_singles(batch, write.shard, &write.received);
        if writer.packs_history {
            return self.add_rows(&mut writer.tails, batch, (write.shard, &write.history));
        }
        self.add_singles(batch, write.shard, &write.history);
        Ok(())
    }

    /// Puts tenures with a record each into a batch.
    fn add_singles(&self, batch: &mut WriteBatch, shard: ShardId, records: &[HistoryRecord]) {
        // One buffer for all values, because history comes by the thousand records.
        let mut sealed = Vec::new();
        for record in records {
            let day = record.day.min(packed::DAY_MAX);
            let key = keys::history(shard, day, &record.name, record.token);
            keys::seal_into(&mut sealed, &key, [&record.index.to_le_bytes(), &record.tenure]);
            batch.put_cf(self.cf(keys::CF_HISTORY), key, &sealed);
        }
    }

    /// The newest tenures of a name: see [`Engine::history`](crate::Engine::history).
    pub(super) fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        // One iterator for everything: it sees one moment, and each new one sorts what is in memory.
        let mut iterator =
            self.range(keys::CF_HISTORY, keys::shard_start(shard), keys::shard_end(shard));
        let mut newest = Newest { limit, found: BTreeMap::new() };
        if limit > 0 {
            self.history_in_rows(&mut iterator, shard, name, &mut newest)?;
            single_records(&mut iterator, shard, name, &mut newest)?;
        }
        Ok(newest.found.into_values().rev().collect())
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
            self.range(keys::CF_HISTORY, keys::shard_start(shard), packed::names(shard, 0, None));
        let (mut row, mut told) = (Vec::new(), 0);
        match cursor {
            None => iterator.seek_to_first(),
            Some(mut last) => {
                if last.len() == ROW_CURSOR_BYTES && packed::is_marked(&last) {
                    let (key, tenures) = last.split_at(ROW_CURSOR_BYTES - 4);
                    told = u32::from_be_bytes(tenures.try_into().expect("4 bytes"));
                    row = key.to_vec();
                    last.truncate(row.len());
                } else {
                    last.push(0); // The least key above it.
                }
                iterator.seek(last);
            }
        }
        let (mut page, mut scanned, mut last) = (Vec::new(), 0, Vec::new());
        while let Some((key, value)) = iterator.item() {
            if page.len() >= limit || scanned >= HISTORY_SCAN_MAX {
                return Ok((page, Some(last)));
            }
            last.clear();
            last.extend_from_slice(key);
            let Some(Key::Row(place)) = key_of(shard, key)? else {
                let parts = history_parts(shard, key, value)?;
                if parts.index > after_index {
                    page.push(parts.record());
                }
                scanned += 1;
                iterator.next();
                continue;
            };
            let (day, index, _) = packed::parts(&place);
            if index <= after_index {
                // Rows of a day are in the order of their entries.
                let Some(next) = after_index.checked_add(1) else { break };
                iterator.seek(packed::row(shard, &packed::place(day, next, 0)));
                scanned += 1;
                continue;
            }
            let told = if *key == row { told } else { 0 };
            let (mut seen, mut is_cut) = (0, false);
            packed::unpack(shard, &place, row_bytes(shard, key, value)?, |tenure| {
                is_cut = page.len() >= limit;
                if is_cut {
                    return false;
                }
                seen += 1;
                if seen > told {
                    page.push(tenure.record());
                    scanned += 1;
                }
                true
            })?;
            scanned += 1;
            last.extend_from_slice(&u32::to_be_bytes(seen));
            if is_cut {
                return Ok((page, Some(last)));
            }
            iterator.next();
        }
        finished(&iterator, shard)?;
        Ok((page, None))
    }

    /// Drops the records of days before `day`.
    pub(super) fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        let ranges = [
            (keys::shard_start(shard), keys::history_day(shard, day)),
            (packed::row(shard, &[]), packed::row(shard, &day.to_be_bytes())),
            (packed::names(shard, 0, None), packed::names(shard, day, None)),
        ];
        let mut batch = WriteBatch::default();
        for (start, end) in &ranges {
            batch.delete_range_cf(self.cf(keys::CF_HISTORY), start, end);
        }
        // A crash may bring these days back. They are dropped again then.
        self.change(|_| put_in_memory(&self.db, batch))?;
        // Files of dropped days alone are deleted at once. Others lose these days when compacted.
        for (start, end) in &ranges {
            let deleted = self.db.delete_file_in_range_cf(self.cf(keys::CF_HISTORY), start, end);
            deleted.map_err(|error| {
                StorageError::Io(format!("dropping history of shard {shard}: {error}"))
            })?;
        }
        Ok(())
    }
}

/// The newest tenures of a name so far, by token.
pub(super) struct Newest {
    limit: usize,
    found: BTreeMap<u64, HistoryRecord>,
}

impl Newest {
    /// Whether a tenure with this token may be among the newest.
    pub(super) fn wants(&self, token: u64) -> bool {
        self.found.len() < self.limit
            || self.found.first_key_value().is_some_and(|(lowest, _)| *lowest < token)
    }

    pub(super) fn add(&mut self, record: HistoryRecord) {
        if self.wants(record.token) {
            self.found.insert(record.token, record);
            if self.found.len() > self.limit {
                self.found.pop_first();
            }
        }
    }
}

/// Adds the tenures of a name that have a record each.
fn single_records(
    iterator: &mut DBRawIterator<'_>,
    shard: ShardId,
    name: &str,
    newest: &mut Newest,
) -> Result<(), StorageError> {
    // History is sorted by day, but the answer is sorted by token. A shared grant can end days
    // after a younger one, so an older day may hold a higher token and no day can be skipped.
    // In each day, only tokens above the lowest of the best so far are read.
    iterator.seek_for_prev(packed::row(shard, &[]));
    while let Some(key) = iterator.key() {
        let day = parse_history(shard, key)?.day;
        let prefix = keys::history_name(shard, day, name);
        iterator.seek_for_prev(keys::history_name_end(&prefix));
        while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&prefix)) {
            let record = history_record(shard, key, value)?;
            if !newest.wants(record.token) {
                break;
            }
            newest.add(record);
            iterator.prev();
        }
        finished(iterator, shard)?;
        // Go to the last key of the nearest earlier day that has one.
        iterator.seek_for_prev(keys::history_day(shard, day));
    }
    finished(iterator, shard)
}

/// A key of rows and their names, or `None` for that of a single tenure.
pub(super) fn key_of(shard: ShardId, key: &[u8]) -> Result<Option<Key>, StorageError> {
    match packed::parse(key) {
        None if packed::is_marked(key) => {
            Err(StorageError::Damaged(format!("shard {shard}: {key:02x?} is not a key of history")))
        }
        parsed => Ok(parsed),
    }
}

pub(super) fn row_bytes<'a>(
    shard: ShardId,
    key: &[u8],
    value: &'a [u8],
) -> Result<&'a [u8], StorageError> {
    keys::unseal(key, value, || format!("shard {shard}, a row of history, {key:02x?}"))
}

/// An iterator that met an unreadable block looks like one at its end; its status differs.
pub(super) fn finished(iterator: &DBRawIterator<'_>, shard: ShardId) -> Result<(), StorageError> {
    iterator.status().map_err(|error| read_error(&format!("shard {shard}, history"), &error))
}

//! Checkpoints and snapshots: which records are written, and when.
//!
//! A checkpoint holds the records that differ from the last one. Loading the records of all
//! checkpoints gives back the table as of the last one:
//!
//! ```text
//!            checkpoint 1             checkpoint 2            loaded
//! lock a     set a                    (unchanged)             a
//! lock b     set b                    released: delete b      –
//! lock c                              acquired: set c         c
//! lock d                acquired and released: no record
//! ```
//!
//! A record that is missing from a checkpoint goes wrong late and silently:
//!
//! 1. A grant is renewed, but its row is not [touched](super::slab::Tracked::touch), so the next
//!    checkpoint leaves it out.
//! 2. The log below that checkpoint is cut. The renewal is now nowhere on disk.
//! 3. The replica restarts with the old renewal number. The leader's expiry names the new one, so
//!    it ends the grant on every replica but this one: they have diverged.
//!
//! The hash in `hashing.rs` and the tests against a table built from the log exist to find this.
//!
//! A snapshot holds all records, with a checksum. This module knows nothing of the content of a
//! record.

use super::LockTable;
use super::records::{Key, Loader, key, kind};
use crate::codec::{DecodeError, Reader, put_bytes};
use crate::hash::hash_bytes;
use crate::planted_bugs;
use crate::types::Change;

const SNAPSHOT_VERSION: u8 = 1;
const CRC_AT: usize = 1;
const RECORDS_AT: usize = CRC_AT + 4;

impl LockTable {
    /// Returns the records that changed since the last call, in any order, each key once.
    ///
    /// Applied on top of the records of all earlier calls, they give the records of the whole
    /// table.
    ///
    /// ```
    /// use palisade_locks::{Command, Effects, LockTable, Mode, RequestId, Stamp};
    /// use std::collections::BTreeMap;
    ///
    /// let mut table = LockTable::new();
    /// let acquire = Command::Acquire {
    ///     request_id: RequestId(1),
    ///     name: "orders/42",
    ///     owner: "ann",
    ///     ttl_ms: 30_000,
    ///     mode: Mode::Exclusive,
    ///     wait: false,
    ///     session: "",
    ///     metadata: "",
    ///     claim_ttl_ms: 0,
    /// };
    /// table.apply(Stamp::default(), &acquire, &mut Effects::default());
    ///
    /// // What storage does: set and delete records by key.
    /// let mut records = BTreeMap::new();
    /// for change in table.checkpoint() {
    ///     match change.value {
    ///         Some(value) => records.insert(change.key, value),
    ///         None => records.remove(&change.key),
    ///     };
    /// }
    /// let loaded = LockTable::load(records).unwrap();
    /// assert_eq!(loaded.state_hash(), table.state_hash());
    /// ```
    pub fn checkpoint(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.dirty_len());
        let record = &mut Vec::new();
        let header = self.header();
        if self.saved_header.as_ref() != Some(&header) {
            put(&mut changes, record, key(kind::HEADER, 0), |into| header.encode(into));
        }
        let (gone, changed) = self.sessions.take_changes(self.last_token);
        changes.extend(gone.into_iter().map(|number| delete(kind::SESSION, number)));
        for at in changed {
            let lease = self.sessions[at].lease.expect("a changed session has a lease");
            let key = key(kind::SESSION, lease.get());
            let hash = put(&mut changes, record, key, |into| self.encode_session(at, into));
            self.sessions.hashed(at, hash);
        }
        let (gone, changed) = self.grants.take_changes(self.last_token);
        changes.extend(gone.into_iter().map(|number| delete(kind::GRANT, number)));
        for at in changed {
            let key = key(kind::GRANT, self.grants[at].token.get());
            let hash = put(&mut changes, record, key, |into| self.encode_grant(at, into));
            self.grants.hashed(at, hash);
        }
        let (gone, changed) = self.waiters.take_changes(self.last_waiter);
        changes.extend(gone.into_iter().map(|number| delete(kind::WAITER, number)));
        for at in changed {
            let key = key(kind::WAITER, self.waiters[at].number);
            let hash = put(&mut changes, record, key, |into| self.encode_waiter(at, into));
            self.waiters.hashed(at, hash);
        }
        let (gone, changed) = self.ended_grants.take_changes();
        changes.extend(gone.map(|block| delete(kind::ENDED_GRANTS, block)));
        for block in changed {
            let key = key(kind::ENDED_GRANTS, block);
            put(&mut changes, record, key, |into| self.ended_grants.encode_block(block, into));
        }
        let (gone, changed) = self.ended_sessions.take_changes();
        changes.extend(gone.map(|block| delete(kind::ENDED_SESSIONS, block)));
        for block in changed {
            let key = key(kind::ENDED_SESSIONS, block);
            put(&mut changes, record, key, |into| self.ended_sessions.encode_block(block, into));
        }
        self.saved_header = Some(header);
        changes
    }

    /// Upper bound for the number of records in the next [`checkpoint`](Self::checkpoint). O(1).
    pub fn dirty_len(&self) -> usize {
        let header = usize::from(self.saved_header.as_ref() != Some(&self.header()));
        let rows = self.sessions.changes() + self.grants.changes() + self.waiters.changes();
        header + rows + self.ended_grants.changes() + self.ended_sessions.changes()
    }

    /// Loads a table from the records of all checkpoints so far, in any order. Sorted by key is
    /// fastest.
    ///
    /// # Errors
    /// If a record is malformed, or if together they form no table.
    pub fn load(
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, DecodeError> {
        let mut records: Vec<_> = records.into_iter().collect();
        if !records.is_sorted_by(|a, b| a.0 < b.0) {
            records.sort_unstable();
        }
        let mut loader = Loader::new();
        for (key, value) in &records {
            loader.add(key, value)?;
        }
        let mut table = loader.finish()?;
        if !records.is_empty() {
            table.mark_saved();
        }
        Ok(table)
    }

    /// Encodes the whole table as one byte string with a version and a CRC-32C. Equal tables give
    /// equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut snapshot = SnapshotBuilder::default();
        let mut value = Vec::new();
        let mut add = |kind: u8, number: u64, encode: &dyn Fn(&mut Vec<u8>)| {
            value.clear();
            encode(&mut value);
            snapshot.add(&key(kind, number), &value);
        };
        add(kind::HEADER, 0, &|into| self.header().encode(into));
        for at in self.sessions.by_number() {
            let lease = self.sessions[at].lease.expect("numbered sessions have a lease");
            add(kind::SESSION, lease.get(), &|into| self.encode_session(at, into));
        }
        for at in self.grants.by_number() {
            add(kind::GRANT, self.grants[at].token.get(), &|into| self.encode_grant(at, into));
        }
        for at in self.waiters.by_number() {
            add(kind::WAITER, self.waiters[at].number, &|into| self.encode_waiter(at, into));
        }
        for block in self.ended_grants.block_span() {
            add(kind::ENDED_GRANTS, block, &|into| self.ended_grants.encode_block(block, into));
        }
        for block in self.ended_sessions.block_span() {
            add(kind::ENDED_SESSIONS, block, &|into| self.ended_sessions.encode_block(block, into));
        }
        snapshot.finish()
    }

    /// Decodes a [`snapshot`](Self::snapshot). Every row counts as changed, so that the next
    /// checkpoint is complete.
    ///
    /// # Errors
    /// If the checksum does not match, a record is malformed, or the records form no table.
    pub fn restore(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version(SNAPSHOT_VERSION)?;
        let crc = u32::from_le_bytes(r.fixed()?);
        if crc != crc32c::crc32c(&bytes[RECORDS_AT..]) {
            return Err(DecodeError("a snapshot whose checksum does not match"));
        }
        let mut loader = Loader::new();
        while r.remaining() > 0 {
            let (key, value) = (r.bytes()?, r.bytes()?);
            loader.add(key, value)?;
        }
        let mut table = loader.finish()?;
        let held = table.grants.iter().map(|(_, grant)| grant.token.get());
        table.last_token = planted_bugs::restored_last_token(table.last_token, held);
        Ok(table)
    }

    /// Notes that durable records hold the table as it is.
    fn mark_saved(&mut self) {
        let record = &mut Vec::new();
        for at in self.sessions.take_changes(self.last_token).1 {
            let hash = self.hash_session(at, record);
            self.sessions.hashed(at, hash);
        }
        for at in self.grants.take_changes(self.last_token).1 {
            let hash = self.hash_grant(at, record);
            self.grants.hashed(at, hash);
        }
        for at in self.waiters.take_changes(self.last_waiter).1 {
            let hash = self.hash_waiter(at, record);
            self.waiters.hashed(at, hash);
        }
        self.ended_grants.mark_saved();
        self.ended_sessions.mark_saved();
        self.saved_header = Some(self.header());
    }
}

/// Joins the records of a table into a [snapshot](LockTable::snapshot), without building the table,
/// which takes more memory and time.
pub struct SnapshotBuilder {
    bytes: Vec<u8>,
}

impl Default for SnapshotBuilder {
    fn default() -> Self {
        SnapshotBuilder { bytes: vec![SNAPSHOT_VERSION, 0, 0, 0, 0] }
    }
}

impl SnapshotBuilder {
    /// Adds a record of the checkpoints so far. Records come by rising key, each once. They are not
    /// checked here: [`LockTable::restore`] does it.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        if planted_bugs::is_saved(key.first() == Some(&kind::WAITER)) {
            put_bytes(&mut self.bytes, key);
            put_bytes(&mut self.bytes, value);
        }
    }

    /// Returns the snapshot of the records so far.
    pub fn finish(mut self) -> Vec<u8> {
        let crc = crc32c::crc32c(&self.bytes[RECORDS_AT..]);
        self.bytes[CRC_AT..RECORDS_AT].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// Adds a change that sets a record. Returns the hash of key and value. `record` is scratch space
/// to put them together.
fn put(
    changes: &mut Vec<Change>,
    record: &mut Vec<u8>,
    key: Key,
    encode: impl FnOnce(&mut Vec<u8>),
) -> u64 {
    record.clear();
    record.extend_from_slice(&key);
    encode(record);
    changes.push(Change { key: key.to_vec(), value: Some(record[key.len()..].to_vec()) });
    hash_bytes(record)
}

fn delete(kind: u8, number: u64) -> Change {
    Change { key: key(kind, number).to_vec(), value: None }
}

//! One hash over all records, to tell whether replicas have diverged.
//!
//! It is the sum of the hashes of all records. A sum needs no order, and a change costs only the
//! records that it changed: [`Sums`](super::sums::Sums) holds the hashes as of the last checkpoint,
//! and only rows that changed since are read. Two alternatives were rejected:
//!
//! - Hashing in `apply` would keep the sum current. But it would encode the old and the new record
//!   of each command, and most locks come and go between two checkpoints and never need a hash.
//! - Walking over the table in slices needs no memory for hashes. But the result belongs to no
//!   single index, and only hashes at equal indexes can be compared.
//!
//! A row that changes without being [touched](super::slab::Tracked::touch) is missed by the
//! checkpoint and by this hash alike. The tests find it by comparing with
//! [`LockTable::state_hash_from_scratch`].

use super::LockTable;
use super::recent::hash_item;
use super::records::{key, kind};
use super::slab::{Durable, Tracked};
use crate::hash::hash_bytes;

impl LockTable {
    /// A hash of all state that decides future outcomes.
    ///
    /// Equal tables have equal hashes, however they came to be: by the log alone, or by a snapshot
    /// and the log after it.
    ///
    /// It reads the rows that changed since the last [`checkpoint`](Self::checkpoint), about
    /// [`state_hash_rows`](Self::state_hash_rows) of them.
    pub fn state_hash(&self) -> u64 {
        let record = &mut Vec::new();
        let mut sum = self.hash_header(record);
        sum = sum.wrapping_add(sum_of(&self.sessions, |at| self.hash_session(at, record)));
        sum = sum.wrapping_add(sum_of(&self.grants, |at| self.hash_grant(at, record)));
        sum = sum.wrapping_add(sum_of(&self.waiters, |at| self.hash_waiter(at, record)));
        sum.wrapping_add(self.ended_grants.sum()).wrapping_add(self.ended_sessions.sum())
    }

    /// Number of rows that [`state_hash`](Self::state_hash) would read now, approximately.
    pub fn state_hash_rows(&self) -> usize {
        let rows = self.sessions.changed().len()
            + self.grants.changed().len()
            + self.waiters.changed().len();
        rows + self.ended_grants.unhashed() + self.ended_sessions.unhashed()
    }

    /// The same hash as [`state_hash`](Self::state_hash), made by reading the whole table. For
    /// tests.
    pub fn state_hash_from_scratch(&self) -> u64 {
        let record = &mut Vec::new();
        let mut sum = self.hash_header(record);
        let mut add = |hash: u64| sum = sum.wrapping_add(hash);
        for (at, _) in self.sessions.iter().filter(|(_, row)| row.lease.is_some()) {
            add(self.hash_session(at, record));
        }
        for (at, _) in self.grants.iter() {
            add(self.hash_grant(at, record));
        }
        for (at, _) in self.waiters.iter() {
            add(self.hash_waiter(at, record));
        }
        self.ended_grants.iter().for_each(|(number, ended)| add(hash_item(number, ended)));
        self.ended_sessions.iter().for_each(|(number, ended)| add(hash_item(number, ended)));
        sum
    }

    fn hash_header(&self, record: &mut Vec<u8>) -> u64 {
        hash_record(record, kind::HEADER, 0, |into| self.header().encode(into))
    }

    pub(super) fn hash_session(&self, at: u32, record: &mut Vec<u8>) -> u64 {
        let number = self.sessions[at].number();
        hash_record(record, kind::SESSION, number, |into| self.encode_session(at, into))
    }

    pub(super) fn hash_grant(&self, at: u32, record: &mut Vec<u8>) -> u64 {
        let number = self.grants[at].number();
        hash_record(record, kind::GRANT, number, |into| self.encode_grant(at, into))
    }

    pub(super) fn hash_waiter(&self, at: u32, record: &mut Vec<u8>) -> u64 {
        let number = self.waiters[at].number();
        hash_record(record, kind::WAITER, number, |into| self.encode_waiter(at, into))
    }
}

/// The sum as of the last checkpoint, with each changed record's old hash replaced by its new one.
fn sum_of<T: Durable>(rows: &Tracked<T>, mut hash: impl FnMut(u32) -> u64) -> u64 {
    let sums = rows.sums();
    rows.changed()
        .iter()
        .fold(sums.total(), |sum, &at| sum.wrapping_sub(sums.get(at)).wrapping_add(hash(at)))
}

/// Hashes a record's key and value. `record` is scratch space to put them together.
fn hash_record(
    record: &mut Vec<u8>,
    kind: u8,
    number: u64,
    encode: impl FnOnce(&mut Vec<u8>),
) -> u64 {
    record.clear();
    record.extend_from_slice(&key(kind, number));
    encode(record);
    hash_bytes(record)
}

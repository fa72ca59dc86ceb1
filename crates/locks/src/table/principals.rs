//! How many grants, sessions and waiters each identity has, to compare with its quota.
//!
//! The numbers follow from the rows of the table, so they are in no record: loading a table adds
//! its rows one by one, and counts them again. An identity has an entry only while it has a row, so
//! identities that come and go leave nothing behind. This module knows nothing of rows and quotas.

use crate::hash::hash_str;
use crate::planted_bugs;
use crate::types::Holdings;
use hashbrown::HashTable;

/// A kind of row that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Lock,
    Session,
    Wait,
}

#[derive(Debug)]
struct Entry {
    principal: Box<str>,
    has: Holdings,
}

/// Holdings by identity.
///
/// - Each identity has at most one entry, and no entry is all zero.
/// - The empty principal has no entry, so that counting costs nothing where identities are off.
#[derive(Debug)]
pub(super) struct Principals {
    entries: HashTable<Entry>,
}

impl Principals {
    pub(super) const fn new() -> Self {
        Principals { entries: HashTable::new() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn holdings(&self, principal: &str) -> Holdings {
        if principal.is_empty() {
            return Holdings::default();
        }
        let found = self.entries.find(hash_str(principal), |entry| *entry.principal == *principal);
        found.map_or_else(Holdings::default, |entry| entry.has)
    }

    /// Counts one more row of an identity.
    pub(super) fn add(&mut self, principal: &str, row: Counted) {
        if principal.is_empty() {
            return;
        }
        let hash = hash_str(principal);
        let is_it = |entry: &Entry| *entry.principal == *principal;
        let entry = self.entries.entry(hash, is_it, |entry| hash_str(&entry.principal));
        let new = || Entry { principal: principal.into(), has: Holdings::default() };
        *entry.or_insert_with(new).get_mut().has.of(row) += 1;
    }

    /// Counts one row less of an identity.
    pub(super) fn remove(&mut self, principal: &str, row: Counted) {
        if principal.is_empty() {
            return;
        }
        let is_it = |entry: &Entry| *entry.principal == *principal;
        let found = self.entries.find_entry(hash_str(principal), is_it);
        let Some(mut entry) = planted_bugs::counted(found.ok()) else { return };
        let has = &mut entry.get_mut().has;
        let count = has.of(row);
        *count = planted_bugs::counted(count.checked_sub(1)).unwrap_or(0);
        if *has == Holdings::default() {
            entry.remove();
        }
    }
}

impl Holdings {
    fn of(&mut self, row: Counted) -> &mut u32 {
        match row {
            Counted::Lock => &mut self.locks,
            Counted::Session => &mut self.sessions,
            Counted::Wait => &mut self.waits,
        }
    }
}

//! Hash lookups without iteration: what hash order there is cannot leave here.
//!
//! An entry is a place in a slab or a position in a ring; the key is read from there. Split into parts, each of which
//! grows by itself, so that growing a table of millions never stops the shard for long. It knows nothing of keys.

use hashbrown::HashTable;

const PARTS: usize = 64;

/// Entries by hash. Entries of equal keys may coexist; the reader's predicate chooses.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<u32>; PARTS]>,
}

impl Index {
    pub(super) fn new() -> Self {
        Index { parts: Box::new([const { HashTable::new() }; PARTS]) }
    }

    pub(super) fn get(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.parts[part(hash)].find(hash, |&entry| is_it(entry)).copied()
    }

    /// `rehash` gives the hash of any entry in here.
    pub(super) fn insert(&mut self, hash: u64, entry: u32, rehash: impl Fn(u32) -> u64) {
        self.parts[part(hash)].insert_unique(hash, entry, |&entry| rehash(entry));
    }

    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        match self.parts[part(hash)].find_entry(hash, |&e| e == entry) {
            Ok(found) => drop(found.remove()),
            Err(_) => unreachable!("no entry {entry:#x} of hash {hash:#x}"),
        }
    }

    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        match self.parts[part(hash)].find_mut(hash, |&e| e == old) {
            Some(entry) => *entry = new,
            None => unreachable!("no entry {old:#x} of hash {hash:#x}"),
        }
    }
}

/// By bits that the hash table itself uses neither for its tags (the top 7) nor, at any real size, for its places.
fn part(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

/// What an entry refers to, in the indexes whose keys outlive their first form: a waiter becomes a grant, and a grant an
/// ended one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ref {
    /// A grant or a session in force, by place.
    Live(u32),
    /// A waiter, by place.
    Waiting(u32),
    /// Ended and remembered, by the low bits of its number in its ring.
    Ended(u32),
}

impl Ref {
    const BITS: u32 = 30;
    /// Of what a reference can hold.
    pub(super) const MASK: u32 = (1 << Self::BITS) - 1;

    pub(super) fn pack(self) -> u32 {
        let (tag, value) = match self {
            Ref::Live(value) => (0, value),
            Ref::Waiting(value) => (1, value),
            Ref::Ended(value) => (2, value),
        };
        debug_assert!(value <= Self::MASK, "{self:?} does not fit");
        tag << Self::BITS | value
    }

    pub(super) fn unpack(entry: u32) -> Ref {
        let value = entry & Self::MASK;
        match entry >> Self::BITS {
            0 => Ref::Live(value),
            1 => Ref::Waiting(value),
            _ => Ref::Ended(value),
        }
    }
}

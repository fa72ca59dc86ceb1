//! Hash lookups without iteration: what hash order there is cannot leave here.
//!
//! An entry is a place in a slab or a position in a ring; the key is read from there. Split into parts, each of which
//! grows by itself, so that growing a table of millions never stops the shard for long. It knows nothing of keys.

use hashbrown::HashTable;

const PARTS: usize = 64;

/// Entries by hash. Entries of equal keys may coexist; the reader's predicate chooses.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<Entry>; PARTS]>,
}

/// Keeps enough of the hash that growing, and passing over most strangers, needs no look at the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: u32,
    value: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Index { parts: Box::new([const { HashTable::new() }; PARTS]) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }

    pub(super) fn get(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (part, kept) = split(hash);
        self.parts[part].find(spread(kept), |entry| entry.hash == kept && is_it(entry.value)).map(|entry| entry.value)
    }

    pub(super) fn insert(&mut self, hash: u64, value: u32) {
        let (part, kept) = split(hash);
        self.parts[part].insert_unique(spread(kept), Entry { hash: kept, value }, |entry| spread(entry.hash));
    }

    pub(super) fn remove(&mut self, hash: u64, value: u32) {
        let (part, kept) = split(hash);
        match self.parts[part].find_entry(spread(kept), |&entry| entry == Entry { hash: kept, value }) {
            Ok(found) => drop(found.remove()),
            Err(_) => unreachable!("no entry {value:#x} of hash {hash:#x}"),
        }
    }

    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let (part, kept) = split(hash);
        match self.parts[part].find_mut(spread(kept), |&entry| entry == Entry { hash: kept, value: old }) {
            Some(entry) => entry.value = new,
            None => unreachable!("no entry {old:#x} of hash {hash:#x}"),
        }
    }
}

/// Which part a hash belongs to, and what is kept of it there.
fn split(hash: u64) -> (usize, u32) {
    ((hash >> 58) as usize % PARTS, hash as u32)
}

/// What a part hashes by: its places come from the low bits, its tags from the top 7.
fn spread(kept: u32) -> u64 {
    u64::from(kept).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

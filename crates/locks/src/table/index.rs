//! Hash lookups without iteration, so that hash order cannot leave this module.
//!
//! An entry is 32 bits (a place in a slab, a position in a ring, or a token's short name) plus half
//! of its key's hash. Keys stay in their rows. A lookup reads a key only to confirm a match, and
//! growing a table reads none: otherwise it would read as many keys as there are entries, from all
//! over memory.
//!
//! The index is split into parts that grow one by one, so that growing a table of millions never
//! stops the shard for long. It knows nothing of keys.

use hashbrown::HashTable;

/// Part of a group for each of its 22 shares of the hash space.
///
/// The parts are of unequal width, so that they double at different times. With equal parts all
/// would double together, and right after that be half empty.
const WITHIN: [u8; 22] = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3];
const GROUP: usize = 4;
const GROUPS: usize = 16;
const PARTS: usize = GROUPS * GROUP;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    value: u32,
    /// The lower half of the hash. The upper half chooses the part.
    hash: u32,
}

/// Entries by hash. Entries of equal keys may coexist: the predicate of the caller chooses.
///
/// - An entry is there once.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<Entry>; PARTS]>,
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
        let found = self.parts[part(hash)]
            .find(within(hash as u32), |entry| entry.hash == hash as u32 && is_it(entry.value));
        found.map(|entry| entry.value)
    }

    pub(super) fn insert(&mut self, hash: u64, value: u32) {
        let entry = Entry { value, hash: hash as u32 };
        self.parts[part(hash)].insert_unique(within(entry.hash), entry, |entry| within(entry.hash));
    }

    pub(super) fn remove(&mut self, hash: u64, value: u32) {
        let entry = Entry { value, hash: hash as u32 };
        match self.parts[part(hash)].find_entry(within(entry.hash), |other| *other == entry) {
            Ok(found) => drop(found.remove()),
            Err(_) => unreachable!("no entry {value:#x} of hash {hash:#x}"),
        }
    }

    /// Replaces an entry by another one of the same hash.
    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let old = Entry { value: old, hash: hash as u32 };
        match self.parts[part(hash)].find_mut(within(old.hash), |other| *other == old) {
            Some(entry) => entry.value = new,
            None => unreachable!("no entry {old:?} of hash {hash:#x}"),
        }
    }
}

/// The part that a hash belongs to, by its upper half.
fn part(hash: u64) -> usize {
    let place = (((hash >> 32) * (GROUPS * WITHIN.len()) as u64) >> 32) as usize;
    place / WITHIN.len() * GROUP + usize::from(WITHIN[place % WITHIN.len()])
}

/// The hash within a part. Hash tables take places from the lowest bits and tags from the top 7, so
/// both ends get the half that did not choose the part.
fn within(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// The row that an entry refers to.
///
/// An entry changes its form while its key stays: a waiter becomes a grant, and a grant becomes an
/// ended one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ref {
    /// A grant or a session in force, by its place.
    Live(u32),
    /// A waiter, by its place.
    Waiting(u32),
    /// A grant or session that ended and is remembered, by the low bits of its number in its ring.
    Ended(u32),
    /// A grant, in force or ended, by the low bits of its token: see
    /// [`Tokens`](super::tokens::Tokens).
    Recent(u32),
}

impl Ref {
    const BITS: u32 = 30;
    /// Mask of the bits that a reference can hold.
    pub(super) const MASK: u32 = (1 << Self::BITS) - 1;

    pub(super) fn pack(self) -> u32 {
        let (tag, value) = match self {
            Ref::Live(value) => (0, value),
            Ref::Waiting(value) => (1, value),
            Ref::Ended(value) => (2, value),
            Ref::Recent(value) => (3, value),
        };
        debug_assert!(value <= Self::MASK, "{self:?} does not fit");
        tag << Self::BITS | value
    }

    pub(super) fn unpack(entry: u32) -> Ref {
        let value = entry & Self::MASK;
        match entry >> Self::BITS {
            0 => Ref::Live(value),
            1 => Ref::Waiting(value),
            2 => Ref::Ended(value),
            _ => Ref::Recent(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hash_number;

    #[test]
    fn entries_are_found_while_tables_grow() {
        let mut index = Index::new();
        for value in 0..20_000 {
            index.insert(hash_number(value.into()), value);
        }
        for value in (0..20_000).step_by(2) {
            index.remove(hash_number(value.into()), value);
        }
        for value in 0..20_000 {
            let found = index.get(hash_number(value.into()), |entry| entry == value);
            assert_eq!(found, (value % 2 == 1).then_some(value));
        }
        assert_eq!(index.len(), 10_000);
    }

    #[test]
    fn tables_are_about_as_full_at_any_size() {
        let mut index = Index::new();
        let mut room = Vec::new();
        for value in 0..400_000 {
            index.insert(hash_number(value.into()), value);
            // Checked at many sizes, from 100,000 entries on.
            if value >= 100_000 && value.is_multiple_of(10_000) {
                let capacity: usize = index.parts.iter().map(HashTable::capacity).sum();
                room.push(capacity as f64 / index.len() as f64);
            }
        }
        // If all tables doubled together, the room would swing between 1 and 2 times the need.
        assert!(room.iter().all(|room| (1.2..1.6).contains(room)), "{room:?}");
    }
}

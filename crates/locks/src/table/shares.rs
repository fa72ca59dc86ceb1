//! The share of a ring that each identity fills.
//!
//! A ring has room for all identities together, so without shares one of them could fill it:
//!
//! 1. Ann releases a lock, and the answer is lost on the way.
//! 2. Another identity gives up a million requests that it never made. Each leaves a tombstone, and
//!    the ring forgets the oldest ones.
//! 3. Ann's retry finds nothing. It is answered as if its token had never been right.
//!
//! So an identity leaves a bounded number of marks, and its marks above its share push out nothing
//! of an identity below. An identity that is alone may fill the whole ring with the ends of its own
//! locks.
//!
//! The numbers follow from the items of the ring, so they are in no record. This module knows nothing
//! of those items.

use hashbrown::HashTable;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    principal: u64,
    items: u32,
    marks: u32,
}

/// The numbers of items and marks by the hash of their identity. A mark is an item that an identity
/// can leave without having held anything.
///
/// - Each identity has at most one entry, and no entry is without items.
/// - The hash 0 has no entry, so that counting costs nothing where identities are off.
#[derive(Debug)]
pub(super) struct Shares {
    entries: HashTable<Share>,
}

impl Shares {
    pub(super) const fn new() -> Self {
        Shares { entries: HashTable::new() }
    }

    /// Whether no item of any identity is counted.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of items, and of the marks among them.
    pub(super) fn of(&self, principal: u64) -> (usize, usize) {
        if principal == 0 {
            return (0, 0);
        }
        let share = self.entries.find(principal, |share| share.principal == principal);
        share.map_or((0, 0), |share| (share.items as usize, share.marks as usize))
    }

    /// Counts one more item of an identity.
    #[inline]
    pub(super) fn add(&mut self, principal: u64, is_mark: bool) {
        if principal != 0 {
            self.add_one(principal, is_mark);
        }
    }

    /// Counts one item less of an identity.
    #[inline]
    pub(super) fn remove(&mut self, principal: u64, is_mark: bool) {
        if principal != 0 {
            self.remove_one(principal, is_mark);
        }
    }

    fn add_one(&mut self, principal: u64, is_mark: bool) {
        let is_it = |share: &Share| share.principal == principal;
        let entry = self.entries.entry(principal, is_it, |share| share.principal);
        let mut entry = entry.or_insert(Share { principal, items: 0, marks: 0 });
        let share = entry.get_mut();
        share.items += 1;
        share.marks += u32::from(is_mark);
    }

    fn remove_one(&mut self, principal: u64, is_mark: bool) {
        let found = self.entries.find_entry(principal, |share| share.principal == principal);
        let Ok(mut entry) = found else { unreachable!("an item of an identity was never counted") };
        let share = entry.get_mut();
        share.items -= 1;
        share.marks -= u32::from(is_mark);
        if share.items == 0 {
            entry.remove();
        }
    }
}

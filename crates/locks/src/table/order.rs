//! Locks sorted by name, for listings.
//!
//! The order exists only while listings are asked for, because keeping it costs some comparisons
//! for each new name. It is built a slice of places at a time. Meanwhile it holds the locks at
//! places below `scanned`, and locks that come or go there are added or removed at once. It stores
//! places only; a name is read from its row.

use super::rows::LockRow;
use super::slab::Slab;

/// Most places in one block.
const BLOCK: usize = 512;
/// Value of `scanned` once all places are scanned.
const ALL: u32 = u32::MAX;

/// Places sorted by the names of their locks, in blocks.
///
/// - Within a block, and from each block to the next, places rise by name. No block is empty.
/// - Exactly the locks at places below `scanned` are in it.
#[derive(Debug)]
pub(super) struct Order {
    blocks: Vec<Vec<u32>>,
    scanned: u32,
}

impl Order {
    pub(super) const fn new() -> Self {
        Order { blocks: Vec::new(), scanned: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.scanned == ALL
    }

    /// Takes in the next place.
    pub(super) fn scan_one(&mut self, locks: &Slab<LockRow>) {
        if self.scanned >= locks.places() {
            self.scanned = ALL;
            return;
        }
        if locks.get(self.scanned).is_some() {
            self.put(self.scanned, locks);
        }
        self.scanned += 1;
    }

    /// Takes in a new lock, if the scan is past its place.
    pub(super) fn insert(&mut self, at: u32, locks: &Slab<LockRow>) {
        if at < self.scanned {
            self.put(at, locks);
        }
    }

    /// Takes out a lock. Its row must still be there.
    pub(super) fn remove(&mut self, at: u32, locks: &Slab<LockRow>) {
        if at >= self.scanned {
            return;
        }
        let (block, nth) = self.seek(&locks[at].name, locks);
        assert_eq!(
            self.blocks[block].remove(nth),
            at,
            "another lock stands at the place of {:?}",
            locks[at].name
        );
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
    }

    /// The locks from this name on, sorted by name.
    pub(super) fn from(&self, name: &str, locks: &Slab<LockRow>) -> impl Iterator<Item = u32> {
        let (block, nth) = self.seek(name, locks);
        self.blocks[block..].iter().flatten().skip(nth).copied()
    }

    fn put(&mut self, at: u32, locks: &Slab<LockRow>) {
        let (mut block, mut nth) = self.seek(&locks[at].name, locks);
        if block == self.blocks.len() {
            match self.blocks.last() {
                Some(last) => (block, nth) = (block - 1, last.len()),
                None => self.blocks.push(Vec::new()),
            }
        }
        let places = &mut self.blocks[block];
        places.insert(nth, at);
        if places.len() > BLOCK {
            let upper = places.split_off(BLOCK / 2);
            self.blocks.insert(block + 1, upper);
        }
    }

    /// Block, and place in the block, of the first lock with this name or a later one.
    fn seek(&self, name: &str, locks: &Slab<LockRow>) -> (usize, usize) {
        let before = |at: &u32| *locks[*at].name < *name;
        let block = self.blocks.partition_point(|places| places.last().is_some_and(before));
        let nth = self.blocks.get(block).map_or(0, |places| places.partition_point(before));
        (block, nth)
    }
}

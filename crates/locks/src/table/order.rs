//! Locks in the order of their names, for listings.
//!
//! It exists only while listings are asked for, because to keep it costs each new name some comparisons. It is built a slice of
//! places at a time: meanwhile it has the locks of the places below `scanned`, and what comes and goes there keeps it so. It
//! holds places only: names are read where they stand.

use super::rows::LockRow;
use super::slab::Slab;

/// Places of a block at most.
const BLOCK: usize = 512;
/// All places are scanned.
const ALL: u32 = u32::MAX;

/// - The places in all blocks together, and within each, rise by name. No block is empty.
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

    /// A lock has come.
    pub(super) fn insert(&mut self, at: u32, locks: &Slab<LockRow>) {
        if at < self.scanned {
            self.put(at, locks);
        }
    }

    /// A lock is about to go.
    pub(super) fn remove(&mut self, at: u32, locks: &Slab<LockRow>) {
        if at >= self.scanned {
            return;
        }
        let (block, nth) = self.seek(&locks[at].name, locks);
        assert_eq!(self.blocks[block].remove(nth), at, "another lock stands at the place of {:?}", locks[at].name);
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
    }

    /// The locks from this name on, by name.
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

    /// Where the first lock of this name or a later one stands: block and place in it.
    fn seek(&self, name: &str, locks: &Slab<LockRow>) -> (usize, usize) {
        let before = |at: &u32| *locks[*at].name < *name;
        let block = self.blocks.partition_point(|places| places.last().is_some_and(before));
        let nth = self.blocks.get(block).map_or(0, |places| places.partition_point(before));
        (block, nth)
    }
}

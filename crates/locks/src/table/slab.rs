//! Rows in blocks, named by their place; and the same with a note of the rows that changed since
//! the last checkpoint.
//!
//! A place is reused once its row is gone, so it means nothing outside of the table, and it differs
//! between replicas that hold the same rows. Rows that leave the table are therefore ordered by
//! something else. This module knows nothing of the meaning of rows.

use super::sums::Sums;
use std::ops::{Index, IndexMut};

/// The place of no row.
pub(super) const NONE: u32 = u32::MAX;
/// Limit for places, so that two bits of a packed reference stay free for its tag.
const ROWS_MAX: usize = 1 << 30;
/// Rows in a block. Growing allocates one block and moves nothing, because copying a vector of a
/// million rows would stop the shard.
const BLOCK: usize = 1 << 12;

#[derive(Debug)]
enum Cell<T> {
    Full(T),
    /// A free cell, with the place of the next free one.
    Free(u32),
}

/// Rows by place.
///
/// - All blocks but the last are full of cells, used or free.
#[derive(Debug)]
pub(super) struct Slab<T> {
    blocks: Vec<Vec<Cell<T>>>,
    free: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Slab { blocks: Vec::new(), free: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, row: T) -> u32 {
        self.len += 1;
        if self.free == NONE {
            return self.push(row);
        }
        let at = self.free;
        match std::mem::replace(self.cell_mut(at), Cell::Full(row)) {
            Cell::Free(next) => self.free = next,
            Cell::Full(_) => unreachable!("the free list names a full cell, {at}"),
        }
        at
    }

    fn push(&mut self, row: T) -> u32 {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            assert!(
                self.blocks.len() < ROWS_MAX / BLOCK,
                "a table holds at most {ROWS_MAX} rows of a kind"
            );
            // The first block grows with its rows, because most tables of small clusters never need
            // more.
            let capacity = if self.blocks.is_empty() { 0 } else { BLOCK };
            self.blocks.push(Vec::with_capacity(capacity));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        let block = self.blocks.last_mut().expect("one was pushed if there was none");
        block.push(Cell::Full(row));
        (before + block.len() - 1) as u32
    }

    fn cell_mut(&mut self, at: u32) -> &mut Cell<T> {
        &mut self.blocks[at as usize / BLOCK][at as usize % BLOCK]
    }

    pub(super) fn remove(&mut self, at: u32) -> T {
        let free = self.free;
        match std::mem::replace(self.cell_mut(at), Cell::Free(free)) {
            Cell::Full(row) => {
                self.free = at;
                self.len -= 1;
                row
            }
            Cell::Free(_) => unreachable!("no row at {at}"),
        }
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        match self.blocks.get(at as usize / BLOCK)?.get(at as usize % BLOCK) {
            Some(Cell::Full(row)) => Some(row),
            _ => None,
        }
    }

    /// Number of places that were ever used. All rows are at places below it.
    pub(super) fn places(&self) -> u32 {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len()) as u32
    }

    /// All rows by place. Sort them before any of them leaves the table.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.blocks.iter().flatten().enumerate().filter_map(|(at, cell)| match cell {
            Cell::Full(row) => Some((at as u32, row)),
            Cell::Free(_) => None,
        })
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, at: u32) -> &T {
        match &self.blocks[at as usize / BLOCK][at as usize % BLOCK] {
            Cell::Full(row) => row,
            Cell::Free(_) => unreachable!("no row at {at}"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        match self.cell_mut(at) {
            Cell::Full(row) => row,
            Cell::Free(_) => unreachable!("no row at {at}"),
        }
    }
}

/// A row that has a durable record.
pub(super) trait Durable {
    /// Number of the record. It comes from a counter that only rises, so it is never reused. 0 if
    /// the row has no record (yet).
    fn number(&self) -> u64;
    /// Index of the row in the list of changed rows; [`NONE`] if it is not there. Kept by
    /// [`Tracked`].
    fn changed_at(&mut self) -> &mut u32;
}

/// Rows, with the difference between their records and those of the last checkpoint.
///
/// - A row with a number above `saved` has no durable record, because it came after the last
///   checkpoint. If it goes before the next one, it leaves no trace.
/// - `changed` lists every such row, and every older row that was touched, exactly once.
///   `changed_at` is its index there.
/// - `gone` lists each durable record without a row, once.
/// - `sums` holds the hash of each durable record that still has its row, by its place. A change
///   since the last checkpoint is not in it.
#[derive(Debug)]
pub(super) struct Tracked<T> {
    rows: Slab<T>,
    changed: Vec<u32>,
    gone: Vec<u64>,
    saved: u64,
    sums: Sums,
}

impl<T: Durable> Tracked<T> {
    pub(super) const fn new() -> Self {
        Tracked {
            rows: Slab::new(),
            changed: Vec::new(),
            gone: Vec::new(),
            saved: 0,
            sums: Sums::new(),
        }
    }

    /// Adds a row. Its number is 0 or above all earlier ones. A row that gets its number later is
    /// [touched](Self::touch) then.
    pub(super) fn insert(&mut self, row: T) -> u32 {
        let numbered = row.number() != 0;
        let at = self.rows.insert(row);
        if numbered {
            self.touch(at);
        }
        at
    }

    /// Notes that the row differs from its record.
    pub(super) fn touch(&mut self, at: u32) {
        let place = self.changed.len() as u32;
        let changed_at = self.rows[at].changed_at();
        if *changed_at == NONE {
            *changed_at = place;
            self.changed.push(at);
        }
    }

    pub(super) fn remove(&mut self, at: u32) -> T {
        let mut row = self.rows.remove(at);
        let place = *row.changed_at();
        if place != NONE {
            assert_eq!(
                self.changed.swap_remove(place as usize),
                at,
                "the list of changed rows names another row"
            );
            if let Some(&moved) = self.changed.get(place as usize) {
                *self.rows[moved].changed_at() = place;
            }
        }
        if (1..=self.saved).contains(&row.number()) {
            self.gone.push(row.number());
            self.sums.remove(at);
        }
        row
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.rows.get(at)
    }

    pub(super) fn places(&self) -> u32 {
        self.rows.places()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.rows.iter()
    }

    /// The places of all rows with a record, by number.
    pub(super) fn by_number(&self) -> Vec<u32> {
        let mut rows: Vec<(u64, u32)> =
            self.rows.iter().map(|(at, row)| (row.number(), at)).filter(|row| row.0 != 0).collect();
        rows.sort_unstable();
        rows.into_iter().map(|(_, at)| at).collect()
    }

    /// The places of the rows that differ from the last checkpoint.
    pub(super) fn changed(&self) -> &[u32] {
        &self.changed
    }

    /// The hashes of records as of the last checkpoint.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Stores the hash of the row's record, which the caller writes to the checkpoint.
    pub(super) fn hashed(&mut self, at: u32, hash: u64) {
        self.sums.set(at, hash);
    }

    /// Number of records that differ from the last checkpoint.
    pub(super) fn changes(&self) -> usize {
        self.changed.len() + self.gone.len()
    }

    /// Hands out the difference: numbers of records to delete, and places of rows to write.
    ///
    /// No number so far is above `highest`. All of them count as saved from now on.
    pub(super) fn take_changes(&mut self, highest: u64) -> (Vec<u64>, Vec<u32>) {
        let (gone, changed) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.changed));
        for &at in &changed {
            *self.rows[at].changed_at() = NONE;
        }
        self.saved = highest;
        (gone, changed)
    }
}

impl<T> Index<u32> for Tracked<T> {
    type Output = T;
    fn index(&self, at: u32) -> &T {
        &self.rows[at]
    }
}

/// Does not [touch](Tracked::touch) the row. Use it without a touch only for links and other fields
/// that no record holds.
impl<T> IndexMut<u32> for Tracked<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.rows[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_stable_across_blocks_and_reused() {
        let mut slab = Slab::new();
        let count = 2 * BLOCK as u32 + 10;
        assert!((0..count).all(|row| slab.insert(row) == row));
        assert_eq!((slab.len(), slab.iter().count()), (count as usize, count as usize));
        let gone = [5, BLOCK as u32, 2 * BLOCK as u32 + 9];
        assert_eq!(gone.map(|at| slab.remove(at)), gone);
        assert!(gone.iter().all(|at| slab.get(*at).is_none()) && slab.get(count).is_none());
        assert!(slab.iter().all(|(at, row)| at == *row && slab[at] == at && !gone.contains(&at)));
        assert_eq!(
            [slab.insert(7), slab.insert(7), slab.insert(7), slab.insert(7)],
            [gone[2], gone[1], gone[0], count]
        );
    }
}

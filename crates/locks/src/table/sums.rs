//! Hashes of records as of the last checkpoint, by the place of their row, and the sum of all.
//!
//! A checkpoint encodes each changed record anyway and hashes it on the way. So the hash over all
//! records costs a walk over the rows that changed since, never over the whole table. This module
//! knows nothing of the content of a record.

use crate::planted_bugs;

/// Places in a block. Growing adds blocks and moves nothing.
const BLOCK: usize = 1 << 12;

/// Hashes by place.
///
/// - `total` is the wrapping sum of all hashes.
/// - A place without a record has the hash 0.
#[derive(Debug)]
pub(super) struct Sums {
    blocks: Vec<Vec<u64>>,
    total: u64,
}

impl Sums {
    pub(super) const fn new() -> Self {
        Sums { blocks: Vec::new(), total: 0 }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn get(&self, at: u32) -> u64 {
        let block = self.blocks.get(at as usize / BLOCK);
        block.and_then(|block| block.get(at as usize % BLOCK)).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, at: u32, hash: u64) {
        let (block, place) = (at as usize / BLOCK, at as usize % BLOCK);
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, Vec::new);
        }
        let block = &mut self.blocks[block];
        if block.len() <= place {
            block.resize(place + 1, 0);
        }
        let before = std::mem::replace(&mut block[place], hash);
        self.total = self.total.wrapping_sub(before).wrapping_add(hash);
    }

    /// Removes the hash of a record that is gone.
    pub(super) fn remove(&mut self, at: u32) {
        let block = self.blocks.get_mut(at as usize / BLOCK);
        let hash =
            block.and_then(|block| block.get_mut(at as usize % BLOCK)).map_or(0, std::mem::take);
        self.total = self.total.wrapping_sub(planted_bugs::hash_of_gone(hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_all_hashes() {
        let mut sums = Sums::new();
        let far = 3 * BLOCK as u32 + 7;
        sums.set(far, u64::MAX);
        sums.set(2, 5);
        sums.set(2, 9);
        assert_eq!(
            (sums.total(), sums.get(2), sums.get(far), sums.get(far + 1)),
            (8, 9, u64::MAX, 0)
        );
        for gone in [far, far, 1] {
            sums.remove(gone);
            assert_eq!((sums.get(gone), sums.total()), (0, 9));
        }
    }
}

//! From a token to its grant, in force or ended.
//!
//! Tokens are counted one by one, so that those of the last while need no hashes: they stand in a window of blocks, by their number,
//! and what ends or is forgotten lies beside what was just granted, where it costs no read from far-off memory. A token that is
//! still in use when all around it are not moves to an index. It knows nothing of grants.

use super::index::{Index, Ref};
use crate::hash::hash_number;
use std::collections::VecDeque;

/// Tokens of a block.
const BLOCK: usize = 128;
/// Blocks of a window beyond those that its tokens would fill if half of their places were empty.
const SPARE_BLOCKS: usize = 2;
/// No packed reference.
const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
struct Block {
    places: [u32; BLOCK],
    used: usize,
}

/// Packed references by token.
///
/// - A token is there once, in the window or in the index: in the window if its block is in it.
/// - Where a window was extended it is half full, [`SPARE_BLOCKS`] aside.
#[derive(Debug)]
pub(super) struct Tokens {
    window: VecDeque<Box<Block>>,
    /// Which block the window begins with.
    first: u64,
    /// Tokens in the window.
    recent: usize,
    old: Index,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Tokens { window: VecDeque::new(), first: 0, recent: 0, old: Index::new() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent + self.old.len()
    }

    /// `is_it` tells whether a reference is of this token.
    pub(super) fn get(&self, token: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (block, at) = place(token);
        match block.checked_sub(self.first).and_then(|nth| self.window.get(nth as usize)) {
            Some(block) => Some(block.places[at]).filter(|reference| *reference != EMPTY && is_it(*reference)),
            None => self.old.get(hash_number(token), is_it),
        }
    }

    /// The short name of a token in the window.
    pub(super) fn recent_name(&self, token: u64) -> Option<Ref> {
        let nth = place(token).0.checked_sub(self.first)?;
        (nth < self.window.len() as u64).then_some(short(token))
    }

    /// The inverse of [`recent_name`](Self::recent_name), and what [`get`](Self::get) gives for it.
    pub(super) fn by_name(&self, name: u32) -> u32 {
        let begin = self.first * BLOCK as u64;
        let offset = name.wrapping_sub(begin as u32) & Ref::MASK;
        let (nth, at) = place(u64::from(offset));
        self.window[nth as usize].places[at]
    }

    /// A token that is not there yet. Tells of those that leave the window for it, and so lose their short names.
    pub(super) fn insert(&mut self, token: u64, reference: u32, moved: impl FnMut(Ref, u32)) {
        debug_assert!(reference != EMPTY);
        self.extend_to(token, moved);
        match self.recent(token) {
            Some(block) => {
                let before = std::mem::replace(&mut block.places[place(token).1], reference);
                debug_assert!(before == EMPTY, "token {token} is there");
                block.used += 1;
                self.recent += 1;
            }
            None => self.old.insert(hash_number(token), reference),
        }
    }

    pub(super) fn replace(&mut self, token: u64, old: u32, new: u32) {
        match self.recent(token) {
            Some(block) => {
                let before = std::mem::replace(&mut block.places[place(token).1], new);
                assert_eq!(before, old, "token {token} is of something else");
            }
            None => self.old.replace(hash_number(token), old, new),
        }
    }

    pub(super) fn remove(&mut self, token: u64, reference: u32) {
        let Some(block) = self.recent(token) else { return self.old.remove(hash_number(token), reference) };
        let before = std::mem::replace(&mut block.places[place(token).1], EMPTY);
        assert_eq!(before, reference, "token {token} is of something else");
        block.used -= 1;
        self.recent -= 1;
        while self.window.front().is_some_and(|block| block.used == 0) {
            self.window.pop_front();
            self.first += 1;
        }
    }

    fn recent(&mut self, token: u64) -> Option<&mut Block> {
        let nth = place(token).0.checked_sub(self.first)?;
        self.window.get_mut(nth as usize).map(|block| &mut **block)
    }

    /// Makes the window reach a token that is beyond it, at the cost of what it begins with if it would be too empty.
    fn extend_to(&mut self, token: u64, mut moved: impl FnMut(Ref, u32)) {
        let (block, _) = place(token);
        loop {
            if self.window.is_empty() {
                self.first = self.first.max(block);
            }
            let Some(needed) = (block + 1).checked_sub(self.first) else { return };
            if needed as usize <= self.window.len() {
                return;
            }
            if needed <= (SPARE_BLOCKS + 2 * self.recent / BLOCK) as u64 {
                let empty = || Box::new(Block { places: [EMPTY; BLOCK], used: 0 });
                return self.window.resize_with(needed as usize, empty);
            }
            self.move_first_block(&mut moved);
        }
    }

    fn move_first_block(&mut self, moved: &mut impl FnMut(Ref, u32)) {
        let Some(block) = self.window.pop_front() else { return };
        let tokens = self.first * BLOCK as u64..;
        self.first += 1;
        self.recent -= block.used;
        for (token, reference) in tokens.zip(block.places).filter(|(_, reference)| *reference != EMPTY) {
            self.old.insert(hash_number(token), reference);
            moved(short(token), reference);
        }
    }
}

fn short(token: u64) -> Ref {
    Ref::Recent(token as u32 & Ref::MASK)
}

/// A token's block, and its place there.
fn place(token: u64) -> (u64, usize) {
    (token / BLOCK as u64, (token % BLOCK as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// `is_it` for references that are the lower bits of their tokens.
    fn of(token: u64) -> impl Fn(u32) -> bool {
        move |reference| reference & 0xfffff == token as u32 & 0xfffff
    }

    proptest! {
        /// Against a map: tokens rise by 1 or leap, and go in any order, or never.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u64..2_000, 0usize..100, any::<bool>()), 1..400)) {
            let (mut tokens, mut model, mut last) = (Tokens::new(), BTreeMap::new(), 0u64);
            for (leap, nth, ends) in steps {
                for _ in 0..if ends { 1 } else { 40 } {
                    last += if leap < 1_900 { 1 } else { leap };
                    let reference = last as u32 & 0xfffff;
                    tokens.insert(last, reference, |_, _| ());
                    model.insert(last, reference);
                }
                let chosen = *model.keys().nth(nth % model.len()).unwrap();
                if ends {
                    tokens.remove(chosen, model.remove(&chosen).unwrap());
                } else {
                    let reference = model.get_mut(&chosen).unwrap();
                    tokens.replace(chosen, *reference, *reference ^ 1 << 20);
                    *reference ^= 1 << 20;
                }
                prop_assert_eq!(tokens.get(chosen, of(chosen)), model.get(&chosen).copied());
                let room = SPARE_BLOCKS + 2 * model.len() / BLOCK + 1;
                prop_assert!(tokens.window.len() <= room.max(tokens.window.len() * usize::from(ends)));
            }
            for (token, reference) in &model {
                prop_assert_eq!(tokens.get(*token, of(*token)), Some(*reference));
            }
            prop_assert_eq!(tokens.len(), model.len());
            for (token, reference) in model {
                tokens.remove(token, reference);
                prop_assert_eq!(tokens.get(token, of(token)), None);
            }
            prop_assert_eq!((tokens.len(), tokens.window.len()), (0, 0));
        }
    }

    #[test]
    fn what_is_held_for_long_does_not_keep_the_window_open() {
        let mut tokens = Tokens::new();
        for token in 1..=1_000_000u64 {
            tokens.insert(token, token as u32 & 0xfffff, |_, _| ());
            // All but each thousandth go soon.
            if let Some(gone) = token.checked_sub(100).filter(|gone| *gone > 0 && !gone.is_multiple_of(1_000)) {
                tokens.remove(gone, gone as u32 & 0xfffff);
            }
        }
        assert!(tokens.window.len() < 10, "{} blocks", tokens.window.len());
        assert!((1..=999u64).all(|held| tokens.get(1_000 * held, of(1_000 * held)).is_some()));
        assert_eq!(tokens.len(), 1_000 + 99);
    }
}

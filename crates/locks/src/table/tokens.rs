//! From a token to its grant, in force or ended.
//!
//! Tokens are consecutive numbers. So recent tokens need no hash table: they stand in a window of
//! blocks, indexed by their number. A grant that ends or is forgotten then lies next to the grants
//! just made, and costs no read from distant memory.
//!
//! ```text
//!       index `old`                        window
//!  (hash table: few, old)     [block 40][block 41][block 42]
//!    token 17 → grant            used 3    used 90   used 12   ← next token
//!    token 290 → grant
//! ```
//!
//! Without a bound, one lock that is held for a week would keep the window a week long:
//!
//! 1. Token 1 is held, and a million grants come and go after it.
//! 2. The block of token 1 is the first of the window and never becomes empty, so no block after it
//!    can be dropped either.
//! 3. The window has a million places, nearly all of them empty.
//!
//! So when less than half of the window is in use, its first blocks move to the index. Moving takes
//! a token's short name away, and the caller is told, because its index of requests refers to that
//! name.
//!
//! This module knows nothing of grants.

use super::index::{Index, Ref};
use crate::hash::hash_number;
use std::collections::VecDeque;

/// Tokens in a block.
const BLOCK: usize = 128;
/// Blocks that a window may have beyond twice the number that its tokens would fill.
const SPARE_BLOCKS: usize = 2;
/// The window has at most this many blocks, so that the short names of its tokens differ.
const BLOCKS_MAX: usize = (Ref::MASK as usize + 1) / BLOCK;
/// At most this many blocks leave a window that is too long when a block joins it. Thus no single
/// grant pays for a million grants that were held for long.
const LEAVE_AT_ONCE: usize = 4;
/// A place without a packed reference.
const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
struct Block {
    places: [u32; BLOCK],
    used: usize,
}

/// Packed references by token.
///
/// - A token is stored once. It is in the window if its block is in the window or after it, and in
///   the index otherwise.
/// - A block that has left the window never comes back.
/// - New tokens that are not below the window come one by one, in order.
#[derive(Debug)]
pub(super) struct Tokens {
    window: VecDeque<Box<Block>>,
    /// Number of the window's first block, or of the next block while the window is empty.
    first: u64,
    /// Number of tokens in the window.
    recent: usize,
    old: Index,
}

impl Tokens {
    /// For a table with the next token `last + 1`. Lower tokens go to the index.
    pub(super) fn new(last: u64) -> Self {
        Tokens { window: VecDeque::new(), first: place(last + 1).0, recent: 0, old: Index::new() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent + self.old.len()
    }

    #[cfg(test)]
    pub(super) fn old_len(&self) -> usize {
        self.old.len()
    }

    /// The reference of a token. `is_it` tells whether a reference belongs to this token.
    pub(super) fn get(&self, token: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (block, at) = place(token);
        match block.checked_sub(self.first) {
            Some(nth) => {
                let reference = self.window.get(nth as usize)?.places[at];
                (reference != EMPTY && is_it(reference)).then_some(reference)
            }
            None => self.old.get(hash_number(token), is_it),
        }
    }

    /// The short name of a token, if the token is in the window.
    pub(super) fn window_ref(&self, token: u64) -> Option<Ref> {
        (self.first..self.end()).contains(&place(token).0).then(|| short(token))
    }

    /// The reference of a token in the window, by its short name.
    pub(super) fn by_name(&self, name: u32) -> u32 {
        let begin = self.first * BLOCK as u64;
        let (nth, at) = place(u64::from(name.wrapping_sub(begin as u32) & Ref::MASK));
        self.window[nth as usize].places[at]
    }

    /// Stores a token that is not stored yet.
    ///
    /// If a block joins the window, others may leave it. `moved` is called with the lost short name
    /// and the reference of each token in those.
    pub(super) fn insert(&mut self, token: u64, reference: u32, moved: impl FnMut(Ref, u32)) {
        debug_assert!(reference != EMPTY);
        if place(token).0 == self.end() {
            self.extend(moved);
        }
        match self.recent(token) {
            Some(block) => {
                let before = std::mem::replace(&mut block.places[place(token).1], reference);
                assert_eq!(before, EMPTY, "token {token} is there");
                block.used += 1;
                self.recent += 1;
            }
            None => {
                assert!(place(token).0 < self.first, "token {token} is far beyond the window");
                self.old.insert(hash_number(token), reference);
            }
        }
    }

    pub(super) fn replace(&mut self, token: u64, old: u32, new: u32) {
        match self.recent(token) {
            Some(block) => {
                let before = std::mem::replace(&mut block.places[place(token).1], new);
                assert_eq!(before, old, "token {token} refers to another grant");
            }
            None => self.old.replace(hash_number(token), old, new),
        }
    }

    pub(super) fn remove(&mut self, token: u64, reference: u32) {
        let Some(block) = self.recent(token) else {
            return self.old.remove(hash_number(token), reference);
        };
        let before = std::mem::replace(&mut block.places[place(token).1], EMPTY);
        assert_eq!(before, reference, "token {token} refers to another grant");
        block.used -= 1;
        self.recent -= 1;
        // The last block stays even if it is empty, because the next tokens belong to it.
        for _ in 0..LEAVE_AT_ONCE {
            if self.window.len() > 1 && self.window.pop_front_if(|block| block.used == 0).is_some()
            {
                self.first += 1;
            }
        }
    }

    /// Number of the block after the window.
    fn end(&self) -> u64 {
        self.first + self.window.len() as u64
    }

    fn recent(&mut self, token: u64) -> Option<&mut Block> {
        let nth = place(token).0.checked_sub(self.first)?;
        self.window.get_mut(nth as usize).map(|block| &mut **block)
    }

    /// Adds a block to the window. If the window is too empty, its first blocks leave it before.
    fn extend(&mut self, mut moved: impl FnMut(Ref, u32)) {
        for _ in 0..LEAVE_AT_ONCE {
            let allowed = (SPARE_BLOCKS + 2 * self.recent / BLOCK).min(BLOCKS_MAX);
            if self.window.len() < allowed {
                break;
            }
            self.move_first_block(&mut moved);
        }
        self.window.push_back(Box::new(Block { places: [EMPTY; BLOCK], used: 0 }));
    }

    fn move_first_block(&mut self, moved: &mut impl FnMut(Ref, u32)) {
        let Some(block) = self.window.pop_front() else { return };
        let tokens = self.first * BLOCK as u64..;
        self.first += 1;
        self.recent -= block.used;
        for (token, reference) in
            tokens.zip(block.places).filter(|(_, reference)| *reference != EMPTY)
        {
            self.old.insert(hash_number(token), reference);
            moved(short(token), reference);
        }
    }
}

fn short(token: u64) -> Ref {
    Ref::Recent(token as u32 & Ref::MASK)
}

/// A token's block, and its place in that block.
fn place(token: u64) -> (u64, usize) {
    (token / BLOCK as u64, (token % BLOCK as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The predicate of [`Tokens::get`], for references that are the low bits of their tokens.
    fn of(token: u64) -> impl Fn(u32) -> bool {
        move |reference| reference & 0xfffff == token as u32 & 0xfffff
    }

    fn reference(token: u64) -> u32 {
        token as u32 & 0xfffff
    }

    /// For each token its reference, and its short name while it has one.
    type Model = BTreeMap<u64, (u32, Option<Ref>)>;

    fn insert(tokens: &mut Tokens, model: &mut Model, token: u64) -> usize {
        let mut left = Vec::new();
        tokens.insert(token, reference(token), |name, moved| left.push((name, moved)));
        for (name, moved) in &left {
            let found = model
                .values_mut()
                .find(|(reference, known)| (reference, *known) == (moved, Some(*name)));
            found.expect("a token that moves was in the window").1 = None;
        }
        model.insert(token, (reference(token), tokens.window_ref(token)));
        left.len()
    }

    proptest! {
        /// Compares with a map. The table was loaded, its tokens rise by 1, and they go in any
        /// order or never. Short names wrap around and are used again.
        #[test]
        fn it_is_a_map(
            last in prop_oneof![Just(0u64), 1u64..1_000, (1u64 << 30) - 700..1 << 30, (1u64 << 32) - 700..1 << 32],
            loaded in prop::collection::btree_set(1u64..400, 0..50),
            steps in prop::collection::vec((0usize..1_000, 0usize..60, any::<bool>()), 1..100),
        ) {
            let (mut tokens, mut model) = (Tokens::new(last), Model::new());
            for back in loaded.into_iter().filter(|back| *back < last) {
                insert(&mut tokens, &mut model, last - back);
            }
            let mut last = last;
            for (nth, many, ends) in steps {
                for _ in 0..many {
                    last += 1;
                    let left = insert(&mut tokens, &mut model, last);
                    prop_assert!(left <= LEAVE_AT_ONCE * BLOCK, "{left} tokens moved for one");
                    prop_assert!(tokens.window_ref(last).is_some());
                }
                for _ in 0..if ends { many } else { 1 } {
                    let Some(chosen) = model.keys().nth(nth % model.len().max(1)).copied() else { break };
                    let (reference, name) = model[&chosen];
                    prop_assert_eq!(tokens.get(chosen, of(chosen)), Some(reference));
                    prop_assert_eq!(tokens.window_ref(chosen), name);
                    if let Some(Ref::Recent(name)) = name {
                        prop_assert_eq!(tokens.by_name(name), reference);
                    }
                    if ends {
                        tokens.remove(chosen, reference);
                        model.remove(&chosen);
                        prop_assert_eq!(tokens.get(chosen, of(chosen)), None);
                    } else {
                        tokens.replace(chosen, reference, reference ^ 1 << 20);
                        model.get_mut(&chosen).unwrap().0 ^= 1 << 20;
                    }
                }
            }
            prop_assert_eq!(tokens.get(last + 1, |_| true), None);
            prop_assert_eq!(tokens.len(), model.len());
            for (token, (reference, _)) in model {
                prop_assert_eq!(tokens.get(token, of(token)), Some(reference));
                tokens.remove(token, reference);
            }
            prop_assert_eq!(tokens.len(), 0);
        }
    }

    #[test]
    fn a_token_held_for_long_does_not_keep_the_window_open() {
        let mut tokens = Tokens::new(0);
        for token in 1..=1_000_000u64 {
            tokens.insert(token, reference(token), |_, _| ());
            // All tokens go soon, except each thousandth.
            if let Some(gone) =
                token.checked_sub(100).filter(|gone| *gone > 0 && !gone.is_multiple_of(1_000))
            {
                tokens.remove(gone, reference(gone));
            }
        }
        assert!(tokens.window.len() < 10, "{} blocks", tokens.window.len());
        assert!((1..=999u64).all(|held| tokens.get(1_000 * held, of(1_000 * held)).is_some()));
        assert_eq!(tokens.len(), 1_000 + 99);
    }

    #[test]
    fn tokens_held_together_leave_the_window_a_few_at_a_time() {
        const HELD: u64 = 100_000;
        let (mut tokens, mut most, mut all) = (Tokens::new(0), 0, 0);
        for token in 1..=10 * HELD {
            let mut left = 0;
            tokens.insert(token, reference(token), |_, _| left += 1);
            (most, all) = (most.max(left), all + left);
            if let Some(gone) = token.checked_sub(100).filter(|gone| *gone > HELD) {
                tokens.remove(gone, reference(gone));
            }
        }
        assert!((HELD - BLOCK as u64..=HELD).contains(&all), "{all} of {HELD} have left");
        assert_eq!(most, (LEAVE_AT_ONCE * BLOCK) as u64);
        assert!(tokens.window.len() < 10, "{} blocks", tokens.window.len());
    }
}

//! Walks of chains within a budget: several chains at once, in the order of their rows' numbers.
//!
//! A walk goes on later after the number that it has reached. The row before is remembered, so that
//! no walk begins anew with rows that were visited.

use super::chain::{Ends, Links};
use super::slab::{Durable, NONE, Tracked};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The chains to walk.
pub(super) struct Chains<'a, T> {
    pub(super) rows: &'a Tracked<T>,
    /// Each with its owner: the place of its lock or session.
    pub(super) chains: &'a [(u32, Ends)],
    /// The owner of a row.
    pub(super) owner: fn(&T) -> u32,
    pub(super) links: fn(&T) -> Links,
}

/// How far a walk has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Rows up to this number are behind.
    pub(super) number: u64,
    /// One row that is behind in each chain, or [`NONE`]. It may have gone since.
    pub(super) behind: Vec<u32>,
}

impl<T: Durable> Chains<'_, T> {
    /// Takes up to `room` rows of which `is_wanted` holds, and lowers `budget` by the number of
    /// rows visited. Returns the places of the rows, and whether no row is left.
    pub(super) fn take(
        &self,
        walked: &mut Walked,
        room: usize,
        budget: &mut usize,
        is_wanted: impl Fn(&T) -> bool,
    ) -> (Vec<u32>, bool) {
        let mut taken = Vec::new();
        walked.behind.resize(self.chains.len(), NONE);
        let mut nexts = BinaryHeap::new();
        for nth in 0..self.chains.len() {
            let Some(next) = self.next_of(nth, walked, budget) else { return (taken, false) };
            nexts.extend(self.rows.get(next).map(|row| Reverse((row.number(), next, nth))));
        }
        while let Some(Reverse((number, at, nth))) = nexts.pop() {
            if taken.len() >= room || *budget == 0 {
                return (taken, false);
            }
            *budget -= 1;
            let row = &self.rows[at];
            if is_wanted(row) {
                taken.push(at);
            }
            walked.number = number;
            walked.behind[nth] = at;
            let next = (self.links)(row).after;
            nexts.extend(self.rows.get(next).map(|row| Reverse((row.number(), next, nth))));
        }
        (taken, true)
    }

    /// The first row of a chain that is not behind; [`NONE`] if all are. `None` if the budget was
    /// used up on the way to it.
    fn next_of(&self, nth: usize, walked: &mut Walked, budget: &mut usize) -> Option<u32> {
        let (owner, ends) = self.chains[nth];
        let behind = &mut walked.behind[nth];
        // Another row may have come where the remembered one was.
        let known = self
            .rows
            .get(*behind)
            .filter(|row| (self.owner)(row) == owner && row.number() <= walked.number);
        let mut at = known.map_or(ends.first, |row| (self.links)(row).after);
        while let Some(row) = self.rows.get(at).filter(|row| row.number() <= walked.number) {
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            *behind = at;
            at = (self.links)(row).after;
        }
        Some(at)
    }
}

//! Doubly linked lists through the rows of a slab: a lock's grants, its queue, a session's grants
//! and its waiters.
//!
//! Appending and unlinking take constant time and no memory. The order is that of appending, which
//! is by token or waiter number, so it is the same on every replica. This module knows nothing of
//! the rows, except where their links are.

use super::slab::{Durable, NONE, Tracked};

#[cfg(test)]
thread_local! {
    /// Rows that walks of this thread have visited.
    pub(super) static WALKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The first and the last row of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first: u32,
    pub(super) last: u32,
}

/// A row's neighbours in one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) before: u32,
    pub(super) after: u32,
}

impl Links {
    pub(super) const LOOSE: Links = Links { before: NONE, after: NONE };
}

impl Ends {
    pub(super) const EMPTY: Ends = Ends { first: NONE, last: NONE };

    pub(super) fn is_empty(self) -> bool {
        self.first == NONE
    }

    /// Appends the row at `at`. `links` selects this chain's links in a row.
    pub(super) fn append<T: Durable>(
        &mut self,
        rows: &mut Tracked<T>,
        at: u32,
        links: fn(&mut T) -> &mut Links,
    ) {
        *links(&mut rows[at]) = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = at,
            last => links(&mut rows[last]).after = at,
        }
        self.last = at;
    }

    pub(super) fn unlink<T: Durable>(
        &mut self,
        rows: &mut Tracked<T>,
        at: u32,
        links: fn(&mut T) -> &mut Links,
    ) {
        let Links { before, after } = std::mem::replace(links(&mut rows[at]), Links::LOOSE);
        match before {
            NONE => self.first = after,
            before => links(&mut rows[before]).after = after,
        }
        match after {
            NONE => self.last = before,
            after => links(&mut rows[after]).before = before,
        }
    }

    /// Walks the chain from first to last. `links` selects this chain's links in a row.
    pub(super) fn walk<T: Durable>(
        self,
        rows: &Tracked<T>,
        links: fn(&T) -> Links,
    ) -> impl Iterator<Item = u32> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let at = next;
            next = links(rows.get(at)?).after;
            #[cfg(test)]
            WALKED.set(WALKED.get() + 1);
            Some(at)
        })
    }
}

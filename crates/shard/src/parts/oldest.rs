//! The oldest grant in force, for people and metrics.
//!
//! A table has no order of age, and a pass over a large one would hold up its shard. So each tick
//! looks at a few rows, and a pass may take minutes.

use locks::LockTable;

/// Rows that one tick looks at.
const ROWS_AT_ONCE: u32 = 512;

/// A pass over the grants of a table, and the outcome of the last one.
#[derive(Debug, Default)]
pub(crate) struct Oldest {
    /// The place where the next look begins.
    at: u32,
    /// The oldest grant of this pass so far.
    so_far: Option<u64>,
    /// The oldest grant of the last whole pass.
    found: Option<u64>,
}

impl Oldest {
    /// Looks at the next rows.
    pub(crate) fn look(&mut self, table: &LockTable) {
        let (oldest, next) = table.oldest_grant(self.at, ROWS_AT_ONCE);
        self.so_far = self.so_far.into_iter().chain(oldest).min();
        match next {
            Some(next) => self.at = next,
            None => (self.at, self.found, self.so_far) = (0, self.so_far, None),
        }
    }

    /// When the oldest grant was made, in Unix milliseconds.
    pub(crate) fn acquired_wall_ms(&self) -> Option<u64> {
        self.found
    }
}

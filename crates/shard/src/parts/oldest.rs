//! The oldest grant in force, for people and metrics.
//!
//! A table has no order of age, and a pass over a large one would hold up its shard. So each tick
//! of a leader looks at a few rows, and a pass may take minutes. After a pass it rests for a while,
//! so that a small table is not looked through at each tick.

use locks::LockTable;

/// Rows that one tick looks at.
const ROWS_AT_ONCE: u32 = 512;
/// Ticks without a look after each pass.
const RESTS: u8 = 9;

/// A pass over the grants of a table, and the outcome of the last one.
#[derive(Debug, Default)]
pub(crate) struct Oldest {
    /// The place where the next look begins.
    at: u32,
    /// The oldest grant of this pass so far.
    so_far: Option<u64>,
    /// The oldest grant of the last whole pass.
    found: Option<u64>,
    /// Ticks without a look that are left.
    rests: u8,
}

impl Oldest {
    /// Looks at the next rows, or rests.
    pub(crate) fn look(&mut self, table: &LockTable) {
        if self.rests > 0 {
            self.rests -= 1;
            return;
        }
        let (oldest, next) = table.oldest_grant(self.at, ROWS_AT_ONCE);
        self.so_far = self.so_far.into_iter().chain(oldest).min();
        match next {
            Some(next) => self.at = next,
            None => {
                let found = self.so_far;
                *self = Oldest { found, rests: RESTS, ..Oldest::default() };
            }
        }
    }

    /// When the oldest grant was made, in Unix milliseconds.
    pub(crate) fn acquired_wall_ms(&self) -> Option<u64> {
        self.found
    }
}

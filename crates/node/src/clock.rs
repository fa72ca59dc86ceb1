//! The node's clock: one monotonic start for all its threads, so that their times can be compared.

use shard::Now;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads both the monotonic clock and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { start: Instant::now() }
    }

    /// Milliseconds since the start, monotonic.
    pub(crate) fn mono_ms(&self) -> u64 {
        millis(self.start.elapsed().as_millis())
    }

    pub(crate) fn now(&self) -> Now {
        // A wall clock before 1970 shows as 0, because it is for display only.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.mono_ms(), wall_ms: millis(wall.as_millis()) }
    }
}

fn millis(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

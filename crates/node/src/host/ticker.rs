//! The schedule of ticks: one per period, and only a few at once after a pause.

use crate::limits::TICKS_AT_ONCE_MAX;

/// * `next_ms` is a whole number of periods after the start.
#[derive(Debug)]
pub(super) struct Ticker {
    period_ms: u64,
    next_ms: u64,
}

impl Ticker {
    pub(super) fn new(now_ms: u64, period_ms: u64) -> Self {
        let period_ms = period_ms.max(1);
        Ticker { period_ms, next_ms: now_ms + period_ms }
    }

    /// The number of ticks to deliver at `now_ms`. Periods missed beyond the cap are lost: after a
    /// pause a replica must hear its peers before its election timeout, rather than have the
    /// timeout elapse at once.
    pub(super) fn due(&mut self, now_ms: u64) -> u64 {
        if now_ms < self.next_ms {
            return 0;
        }
        let elapsed = (now_ms - self.next_ms) / self.period_ms + 1;
        self.next_ms += elapsed * self.period_ms;
        elapsed.min(TICKS_AT_ONCE_MAX)
    }

    /// Milliseconds until the next tick.
    pub(super) fn wait_ms(&self, now_ms: u64) -> u64 {
        self.next_ms.saturating_sub(now_ms)
    }
}

//! A node's clocks: monotonic time at a rate of its own, and wall time that jumps.

use shard::Now;

/// One second in microseconds.
pub(crate) const SECOND_US: u64 = 1_000_000;

/// * Monotonic time never goes back, even if the rate changes.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    since_us: u64,
    mono_us_then: f64,
    rate: f64,
    wall_offset_ms: i64,
}

/// The start of all wall clocks: 2026-01-01.
const WALL_START_MS: i64 = 1_767_225_600_000;

impl Clock {
    pub(crate) fn new(now_us: u64, rate: f64, start_ms: u64) -> Clock {
        Clock { since_us: now_us, mono_us_then: start_ms as f64 * 1_000.0, rate, wall_offset_ms: 0 }
    }

    pub(crate) fn set_rate(&mut self, now_us: u64, rate: f64) {
        self.mono_us_then = self.mono_us(now_us);
        self.since_us = now_us;
        self.rate = rate;
    }

    pub(crate) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    pub(crate) fn read(&self, now_us: u64) -> Now {
        let wall_ms = WALL_START_MS + (now_us / 1_000) as i64 + self.wall_offset_ms;
        Now { mono_ms: (self.mono_us(now_us) / 1_000.0) as u64, wall_ms: wall_ms.max(0) as u64 }
    }

    /// The true duration of a time span that this node measures as `local_us`.
    pub(crate) fn true_us(&self, local_us: u64) -> u64 {
        ((local_us as f64 / self.rate) as u64).max(1)
    }

    fn mono_us(&self, now_us: u64) -> f64 {
        self.mono_us_then + (now_us - self.since_us) as f64 * self.rate
    }
}

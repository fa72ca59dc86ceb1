//! The one clock of all records: CLOCK_MONOTONIC.
//!
//! Every process of this machine reads the same value from it, in any namespace. A process that
//! records is never started with a library that fakes clocks.

use nix::time::{ClockId, clock_gettime};

/// Reads the machine's monotonic clock, in microseconds.
///
/// # Panics
/// If the system has no such clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

//! The one clock of all records: CLOCK_MONOTONIC, which every process of this machine reads alike, in any namespace. Nothing
//! that fakes clocks is ever put before a process that records.

use nix::time::{ClockId, clock_gettime};

/// Microseconds on the machine's monotonic clock.
///
/// # Panics
/// If the system has no such clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

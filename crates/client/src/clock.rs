//! How long this machine has been suspended.
//!
//! A holder counts validity on the monotonic clock, because that clock never jumps. It stands still
//! while the machine sleeps, though, and the servers' clocks go on: a laptop that slept for an hour
//! would believe in a lock of 30 s for 30 s more. Linux has a second clock that counts sleep too.
//! The distance between the two grows by each suspend, and by nothing else.
//!
//! The module promises nothing where that clock is missing (other systems). It promises nothing for
//! a virtual machine either, if its host stops both clocks: there the fencing token must hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Tells how long the machine has been suspended in all, counted from any fixed moment.
///
/// ```
/// use palisade_client::clock::SuspendClock;
/// use std::time::Duration;
///
/// let asleep = SuspendClock::from_fn(|| Duration::from_secs(7));
/// assert_eq!(asleep.total(), Duration::from_secs(7));
/// ```
#[derive(Clone)]
pub struct SuspendClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl SuspendClock {
    /// The machine's own clock.
    pub fn system() -> SuspendClock {
        SuspendClock::from_fn(suspended)
    }

    /// A clock of the caller's, to test a program with simulated suspends.
    pub fn from_fn(total: impl Fn() -> Duration + Send + Sync + 'static) -> SuspendClock {
        SuspendClock(Arc::new(total))
    }

    /// The sum of all suspends. Only the growth between two readings has a meaning.
    pub fn total(&self) -> Duration {
        (self.0)()
    }
}

impl Default for SuspendClock {
    fn default() -> Self {
        SuspendClock::system()
    }
}

impl fmt::Debug for SuspendClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SuspendClock").field(&self.total()).finish()
    }
}

/// CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
///
/// The two cannot be read at one moment. A thread that loses its processor between the readings
/// would see a gap that does not exist, so the reading with the least time around it counts.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    const CLOSE: Duration = Duration::from_micros(200);
    const READINGS_MAX: u32 = 10;

    // A kernel without such a clock shows no suspend.
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let mut best = (Duration::MAX, Duration::ZERO);
    for _ in 0..READINGS_MAX {
        let before = read(ClockId::CLOCK_MONOTONIC);
        let with_sleep = read(ClockId::CLOCK_BOOTTIME);
        let after = read(ClockId::CLOCK_MONOTONIC);
        let around = after.saturating_sub(before);
        best = best.min((around, with_sleep.saturating_sub(after)));
        if around <= CLOSE {
            break;
        }
    }
    best.1
}

/// Always zero: this system has no such clock, so suspends are not seen.
#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_awake_does_not_seem_to_sleep() {
        let clock = SuspendClock::system();
        let before = clock.total();
        for _ in 0..10_000 {
            let grown = clock.total().saturating_sub(before);
            assert!(grown < crate::lease::SUSPEND_TOLERANCE, "{grown:?}");
        }
    }
}

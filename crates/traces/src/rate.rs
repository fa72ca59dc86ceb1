//! The limit on what is traced.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A limit per second, shared by all threads.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: u32,
    began: Instant,
    /// The second since the beginning, and the number of operations in it.
    counted: AtomicU64,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Rate {
        Rate { per_second, began: Instant::now(), counted: AtomicU64::new(0) }
    }

    /// Whether one more operation may be traced now. If so, it is counted.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room_in(self.began.elapsed().as_secs())
    }

    fn has_room_in(&self, second: u64) -> bool {
        let next = |counted: u64| match (counted >> 32, counted & u64::from(u32::MAX)) {
            (at, number) if at >= second => {
                (number < self.per_second.into()).then_some(counted + 1)
            }
            _ => (self.per_second > 0).then_some((second << 32) + 1),
        };
        self.counted.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: one client that set the sampled flag on each operation had all of them traced.
    #[test]
    fn each_second_has_room_for_so_many() {
        let rate = Rate::new(3);
        for second in [0, 1, 7] {
            assert_eq!(
                (0..10).filter(|_| rate.has_room_in(second)).count(),
                3,
                "in second {second}"
            );
        }
        // A thread whose second has just ended counts in the next one.
        assert!(!rate.has_room_in(6));
    }
}

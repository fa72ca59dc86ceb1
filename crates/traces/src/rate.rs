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

    /// Whether one more operation may be traced now.
    pub(crate) fn has_room(&self) -> bool {
        self.per_second > self.in_second(self.second())
    }

    /// Counts an operation that is traced. Threads that do so at once may exceed the limit by one
    /// each.
    pub(crate) fn count(&self) {
        self.count_in(self.second());
    }

    fn second(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    fn in_second(&self, second: u64) -> u32 {
        let counted = self.counted.load(Relaxed);
        // A thread whose second has just ended counts in the next one.
        if counted >> 32 >= second { counted as u32 } else { 0 }
    }

    fn count_in(&self, second: u64) {
        let next = |counted: u64| match counted >> 32 >= second {
            true => Some(counted + 1),
            false => Some((second << 32) + 1),
        };
        let _ = self.counted.fetch_update(Relaxed, Relaxed, next); // never refused
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
            for _ in 0..3 {
                assert!(rate.in_second(second) < 3, "in second {second}");
                rate.count_in(second);
            }
            assert_eq!(rate.in_second(second), 3);
        }
        assert_eq!(rate.in_second(6), 3, "a thread whose second has just ended");
        assert!(!Rate::new(0).has_room());
    }
}

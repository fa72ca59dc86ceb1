//! The moments at which a replica asked to be woken.

use std::collections::BTreeSet;

/// Moments on the monotonic clock, in milliseconds. Each part of a replica tells its own once, or
/// again and again if it is now.
#[derive(Default)]
pub(crate) struct Wakes {
    /// Those that have not come.
    armed: BTreeSet<u64>,
    /// The one that the host was told last.
    told_ms: Option<u64>,
}

impl Wakes {
    /// Adds moments. Returns the next one of all, if the host does not know it yet.
    pub(crate) fn next(
        &mut self,
        now_ms: u64,
        moments: impl IntoIterator<Item = u64>,
    ) -> Option<u64> {
        self.armed.retain(|at_ms| *at_ms > now_ms);
        self.armed.extend(moments);
        let next = self.armed.first().copied();
        let former = std::mem::replace(&mut self.told_ms, next);
        next.filter(|at_ms| *at_ms <= now_ms || next != former)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: of two moments that were told in one step only the first came. A batch that waited
    /// for the second one went with the next tick.
    #[test]
    fn the_later_of_two_moments_comes_as_well() {
        let mut wakes = Wakes::default();
        assert_eq!(wakes.next(0, [100, 90]), Some(90));
        assert_eq!(wakes.next(50, []), None, "it is known");
        assert_eq!(wakes.next(60, [80]), Some(80));
        assert_eq!(wakes.next(80, []), Some(90));
        assert_eq!(wakes.next(90, []), Some(100));
        assert_eq!(wakes.next(100, [100]), Some(100), "now");
        assert_eq!(wakes.next(100, [100]), Some(100), "and again");
        assert_eq!(wakes.next(101, []), None);
    }
}

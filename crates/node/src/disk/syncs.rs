//! The usual duration of syncs, and its effect on elections.

use crate::limits::SYNCS_LOOKED_AT_EVERY_MS;
use std::collections::VecDeque;
use std::time::Duration;

/// The number of latest syncs that the median covers.
const SYNCS_MAX: usize = 63;
/// Fewer syncs than this give no median.
const SYNCS_LEAST: usize = 5;
/// The most that elections are stretched, however slow the disk is.
const STRETCH_MAX: u32 = 16;

/// Durations of the last syncs.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    last: VecDeque<Duration>,
}

impl Syncs {
    pub(super) fn push(&mut self, took: Duration) {
        if self.last.len() == SYNCS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(took);
    }

    /// The median, because one sync that hung must not count for the others.
    pub(super) fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= SYNCS_LEAST).then(|| sorted[sorted.len() / 2])
    }
}

/// The schedule for a look at the usual sync: at once when there is a median, and then from time to
/// time.
#[derive(Debug, Default)]
pub(super) struct Looks {
    next_ms: u64,
}

impl Looks {
    /// The usual sync; `None` if it is too early for a look, or there is no median.
    pub(super) fn usual(&mut self, now_ms: u64, syncs: &Syncs) -> Option<Duration> {
        if now_ms < self.next_ms {
            return None;
        }
        let usual = syncs.usual()?;
        self.next_ms = now_ms + SYNCS_LOOKED_AT_EVERY_MS;
        Some(usual)
    }
}

/// The factor by which the election timeout must grow. An election takes two syncs one after the
/// other: the candidate's vote for itself, and the votes of the others. A third sync is for other
/// writes.
pub(super) fn stretch(usual: Duration, election: Duration) -> u32 {
    if 2 * usual <= election {
        return 1;
    }
    let times = (3 * usual).as_micros().div_ceil(election.as_micros().max(1));
    u32::try_from(times).unwrap_or(STRETCH_MAX).clamp(2, STRETCH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_have_time_for_two_syncs_and_more_within_bounds() {
        let of = |usual_ms| stretch(Duration::from_millis(usual_ms), Duration::from_millis(400));
        assert_eq!([0, 1, 150, 200].map(of), [1; 4]);
        assert_eq!([201, 300, 400, 1_000].map(of), [2, 3, 3, 8]);
        assert_eq!(of(600_000), 16);
    }

    /// The first look came before the syncs of the start were measured, and the next one ten
    /// seconds later. Until then a node with a slow disk stood for elections that it could not win.
    #[test]
    fn the_first_syncs_are_looked_at_as_soon_as_they_are_measured() {
        let (mut looks, mut syncs) = (Looks::default(), Syncs::default());
        assert_eq!(looks.usual(0, &syncs), None);
        (0..SYNCS_LEAST).for_each(|_| syncs.push(Duration::from_millis(300)));
        assert_eq!(looks.usual(50, &syncs), Some(Duration::from_millis(300)));
        assert_eq!(
            looks.usual(49 + SYNCS_LOOKED_AT_EVERY_MS, &syncs),
            None,
            "sorting them is not free"
        );
        assert!(looks.usual(50 + SYNCS_LOOKED_AT_EVERY_MS, &syncs).is_some());
    }

    #[test]
    fn the_usual_sync_is_not_the_one_that_hung() {
        let mut syncs = Syncs::default();
        assert_eq!(syncs.usual(), None);
        syncs.push(Duration::from_secs(20));
        (0..4).for_each(|_| syncs.push(Duration::from_millis(1)));
        assert_eq!(syncs.usual(), Some(Duration::from_millis(1)));
        (0..1_000).for_each(|_| syncs.push(Duration::from_millis(9)));
        assert_eq!(syncs.usual(), Some(Duration::from_millis(9)));
        assert_eq!(syncs.last.len(), SYNCS_MAX);
    }
}

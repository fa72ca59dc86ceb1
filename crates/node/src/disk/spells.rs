//! Decides when a disk counts as hanging. A pure state machine turns the age of the write under way
//! into consequences.

use crate::limits::LOADING_MS_MAX;

/// * `hangs_ms` is less than `end_ms`, or the node ends without handing anything over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From this age of a write on, the disk hangs.
    pub(super) hangs_ms: u64,
    /// From this age of a write on, the node does not wait for the disk any more.
    pub(super) end_ms: u64,
    /// The period of the looks at the write.
    pub(super) look_ms: u64,
}

/// The change that a look found, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Hangs,
    /// The disk works again. The write that hung took about this long.
    WorksAgain {
        after_ms: u64,
    },
    /// The node must end. Reported once.
    End,
}

/// A spell begins with a write that takes too long, and ends with that write.
///
/// * `counted_ms` is the age of the write as far as the looks saw it. A process that was paused
///   (SIGSTOP, a virtual machine that moved) finds an old write, although its disk is not at fault.
#[derive(Debug, Default)]
pub(super) struct Spells {
    write: Option<u64>,
    counted_ms: u64,
    looked_ms: u64,
    hangs: bool,
    ended: bool,
}

/// A look that comes later than this many periods was delayed, so the gap does not count in full.
const LATE_LOOKS: u64 = 4;

impl Spells {
    /// Looks at the oldest write under way, which began at `since_ms`.
    pub(super) fn look(
        &mut self,
        limits: Limits,
        now_ms: u64,
        since_ms: Option<u64>,
    ) -> Option<Turn> {
        let seen_ms = now_ms.saturating_sub(self.looked_ms).min(LATE_LOOKS * limits.look_ms);
        self.looked_ms = now_ms;
        let same = since_ms.is_some() && since_ms == self.write;
        let after_ms = self.counted_ms;
        self.write = since_ms;
        self.counted_ms = match since_ms {
            Some(_) if same => self.counted_ms + seen_ms,
            Some(since_ms) => now_ms.saturating_sub(since_ms).min(seen_ms),
            None => 0,
        };
        if self.hangs && self.counted_ms < limits.hangs_ms && !same {
            self.hangs = false;
            return Some(Turn::WorksAgain { after_ms });
        }
        if self.counted_ms >= limits.end_ms && self.hangs && !self.ended {
            self.ended = true;
            return Some(Turn::End);
        }
        if !self.hangs && self.counted_ms >= limits.hangs_ms {
            self.hangs = true;
            return Some(Turn::Hangs);
        }
        None
    }
}

/// Whether a snapshot is being put into memory. Other writes wait for that work, although the disk
/// has no part in it.
#[derive(Debug, Default)]
pub(super) struct Loads {
    since_ms: Option<u64>,
}

impl Loads {
    /// Whether the age of the write under way tells of the disk. It does if the disk already counts
    /// as hanging. It also does once the snapshot takes too long, because the snapshot itself may
    /// wait for the disk.
    pub(super) fn age_counts(&mut self, now_ms: u64, is_loading: bool, hangs: bool) -> bool {
        if !is_loading {
            self.since_ms = None;
            return true;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        hangs || now_ms.saturating_sub(since_ms) >= LOADING_MS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { hangs_ms: 800, end_ms: 30_000, look_ms: 50 };

    /// Looks every 50 ms from one moment to another. Returns each change with its time.
    fn looks(
        spells: &mut Spells,
        from_ms: u64,
        to_ms: u64,
        since_ms: Option<u64>,
    ) -> Vec<(u64, Turn)> {
        let times = (from_ms..to_ms).step_by(50);
        times
            .filter_map(|now_ms| spells.look(LIMITS, now_ms, since_ms).map(|turn| (now_ms, turn)))
            .collect()
    }

    #[test]
    fn a_write_that_does_not_end_hangs_and_in_the_end_ends_the_node_once() {
        let mut spells = Spells::default();
        assert_eq!(looks(&mut spells, 0, 1_000, None), []);
        let said = looks(&mut spells, 1_000, 60_000, Some(1_000));
        assert_eq!(said, [(1_800, Turn::Hangs), (31_000, Turn::End)]);
    }

    #[test]
    fn many_quick_writes_are_no_spell() {
        let mut spells = Spells::default();
        for now_ms in (0..10_000).step_by(50) {
            assert_eq!(spells.look(LIMITS, now_ms, Some(now_ms.saturating_sub(40))), None);
        }
    }

    #[test]
    fn a_spell_ends_with_its_write_whether_or_not_another_follows_at_once() {
        for next in [None, Some(3_000)] {
            let mut spells = Spells::default();
            assert_eq!(looks(&mut spells, 0, 3_000, Some(0)), [(800, Turn::Hangs)]);
            let said = looks(&mut spells, 3_000, 3_500, next);
            assert_eq!(said, [(3_000, Turn::WorksAgain { after_ms: 2_950 })]);
            assert_eq!(
                looks(&mut spells, 3_500, 5_000, Some(3_500)),
                [(4_300, Turn::Hangs)],
                "and may come again"
            );
        }
    }

    #[test]
    fn a_process_that_was_paused_does_not_take_its_disk_for_hanging() {
        let mut spells = Spells::default();
        assert_eq!(looks(&mut spells, 0, 100, Some(0)), []);
        assert_eq!(spells.look(LIMITS, 60_000, Some(0)), None, "this long it did not look");
        assert_eq!(looks(&mut spells, 60_050, 61_000, None), []);
        assert_eq!(
            spells.look(LIMITS, 120_000, Some(70_000)),
            None,
            "a write that began before the pause"
        );
    }

    /// Looks every 50 ms while a write waits. For the time `loading`, a snapshot is put into
    /// memory.
    fn looks_beside_a_snapshot(
        to_ms: u64,
        write_from_ms: u64,
        loading: std::ops::Range<u64>,
    ) -> Vec<(u64, Turn)> {
        let (mut spells, mut loads, mut hangs) = (Spells::default(), Loads::default(), false);
        let mut look = |now_ms| {
            let since_ms = Some(write_from_ms).filter(|from_ms| now_ms >= *from_ms);
            let counts = loads.age_counts(now_ms, loading.contains(&now_ms), hangs);
            let turn = spells.look(LIMITS, now_ms, since_ms.filter(|_| counts))?;
            hangs = !matches!(turn, Turn::WorksAgain { .. });
            Some((now_ms, turn))
        };
        (0..to_ms).step_by(50).filter_map(&mut look).collect()
    }

    /// The writes of all shards wait while a large snapshot is put into memory. A healthy disk was
    /// reported as hanging.
    #[test]
    fn a_write_that_waits_for_a_snapshot_does_not_make_the_disk_hang() {
        assert_eq!(looks_beside_a_snapshot(5_500, 1_000, 900..5_000), []);
        let said = looks_beside_a_snapshot(7_000, 1_000, 900..5_000);
        assert_eq!(said, [(5_750, Turn::Hangs)], "it is still under way long after the snapshot");
    }

    #[test]
    fn a_snapshot_hides_no_disk_that_hangs_already_and_none_for_long() {
        let said = looks_beside_a_snapshot(20_000, 1_000, 2_000..20_000);
        assert_eq!(said, [(1_800, Turn::Hangs)], "and it does not work again");
        let said = looks_beside_a_snapshot(20_000, 1_000, 1_000..20_000);
        assert_eq!(said, [(1_000 + LOADING_MS_MAX + 750, Turn::Hangs)]);
    }

    #[test]
    fn a_spell_outlasts_limits_that_grow_meanwhile() {
        let mut spells = Spells::default();
        assert_eq!(looks(&mut spells, 0, 1_000, Some(0)), [(800, Turn::Hangs)]);
        let longer = Limits { hangs_ms: 5_000, ..LIMITS };
        assert_eq!(spells.look(longer, 1_000, Some(0)), None);
        assert!(matches!(spells.look(longer, 1_050, None), Some(Turn::WorksAgain { .. })));
    }
}

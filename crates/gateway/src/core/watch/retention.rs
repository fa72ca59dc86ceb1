//! The shards whose recent events nodes are asked to keep.
//!
//! * A shard is kept while a watch asks it, and for [`WATCH_KEEP_MS`] after. Otherwise watches that
//!   come and go would have nodes forget, and begin anew, again and again.

use crate::limits::WATCH_KEEP_MS;
use std::collections::{BTreeMap, BTreeSet};

/// The legs of one shard, served or not.
#[derive(Debug, Default)]
struct Kept {
    legs: usize,
    /// Without legs: the end of its time.
    until_ms: u64,
}

/// The shards to keep.
///
/// * `leaving` has exactly the shards without legs, by the end of their time.
#[derive(Debug, Default)]
pub(super) struct Retention {
    shards: BTreeMap<u32, Kept>,
    leaving: BTreeSet<(u64, u32)>,
}

impl Retention {
    /// One leg more. Returns whether the shard was not kept before.
    pub(super) fn add(&mut self, shard: u32) -> bool {
        let is_new = !self.shards.contains_key(&shard);
        let kept = self.shards.entry(shard).or_default();
        if kept.legs == 0 {
            self.leaving.remove(&(kept.until_ms, shard));
        }
        kept.legs += 1;
        is_new
    }

    /// One leg less.
    pub(super) fn remove(&mut self, shard: u32, now_ms: u64) {
        let Some(kept) = self.shards.get_mut(&shard) else { return };
        kept.legs -= 1;
        if kept.legs == 0 {
            kept.until_ms = now_ms + WATCH_KEEP_MS;
            self.leaving.insert((kept.until_ms, shard));
        }
    }

    pub(super) fn has(&self, shard: u32) -> bool {
        self.shards.contains_key(&shard)
    }

    /// When [`on_time`](Retention::on_time) is due.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        self.leaving.first().map(|(until_ms, _)| *until_ms)
    }

    /// Lets shards go whose time is over. Returns whether there were any.
    pub(super) fn on_time(&mut self, now_ms: u64) -> bool {
        let mut any = false;
        while let Some((until_ms, shard)) = self.leaving.first().copied()
            && until_ms <= now_ms
        {
            self.leaving.pop_first();
            self.shards.remove(&shard);
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: each short watch let nodes begin and end to keep events.
    #[test]
    fn a_shard_is_kept_for_a_while_after_its_last_watch() {
        let mut retention = Retention::default();
        assert!(retention.add(3), "it is new");
        for now_ms in 0..10 {
            retention.remove(3, now_ms);
            assert!(!retention.on_time(now_ms + WATCH_KEEP_MS - 1) && retention.has(3));
            assert!(!retention.add(3), "it is kept still");
            assert_eq!(retention.due_at_ms(), None);
        }
        assert!(!retention.on_time(u64::MAX), "a watch asks it");
        retention.remove(3, 100);
        assert_eq!(retention.due_at_ms(), Some(100 + WATCH_KEEP_MS));
        assert!(retention.on_time(100 + WATCH_KEEP_MS) && !retention.has(3));
        assert!(retention.add(3), "it is new again");
    }
}

//! Counts of changes over the last minute and the last seconds.
//!
//! The counts are of changes that a watch told, at the moment when they came. They know nothing of
//! a server's own counters.

use wire::v1::EventKind;

/// Length of one bucket of [`LastMinute`].
const BUCKET_MS: u64 = 5_000;
/// Buckets of a minute.
const BUCKETS: u64 = 12;

/// The number of changes of one name within the last minute.
///
/// * The window moves in steps of five seconds, so that it covers 55 to 60 s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastMinute {
    counts: [u32; BUCKETS as usize],
    /// The number of the newest bucket.
    newest: u64,
}

impl LastMinute {
    /// Counts one change.
    pub fn add(&mut self, ms: u64) {
        let at = ms / BUCKET_MS;
        if at >= self.newest + BUCKETS {
            self.counts = Default::default();
        } else {
            for passed in self.newest + 1..=at {
                self.counts[(passed % BUCKETS) as usize] = 0;
            }
        }
        self.newest = self.newest.max(at);
        let count = &mut self.counts[(self.newest % BUCKETS) as usize];
        *count = count.saturating_add(1);
    }

    /// The changes within the last minute.
    pub fn count(&self, ms: u64) -> u32 {
        let oldest = (ms / BUCKET_MS + 1).saturating_sub(BUCKETS);
        let first = oldest.max((self.newest + 1).saturating_sub(BUCKETS));
        (first..=self.newest).map(|at| self.counts[(at % BUCKETS) as usize]).sum()
    }
}

/// A kind of change with a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Granted,
    /// Grants that came out of a queue. They count as granted, too.
    Waited,
    Queued,
    Released,
    Expired,
    Broken,
    /// A wait ended without a grant.
    GaveUp,
}

const CHANGES: usize = Change::GaveUp as usize + 1;

impl Change {
    /// The kind of an event. `None` for a kind that this program does not know.
    pub fn of(kind: EventKind) -> Option<Change> {
        Some(match kind {
            EventKind::Unspecified => return None,
            EventKind::Granted => Change::Granted,
            EventKind::Queued => Change::Queued,
            EventKind::Released => Change::Released,
            EventKind::Expired => Change::Expired,
            EventKind::Broken => Change::Broken,
            EventKind::Cancelled => Change::GaveUp,
        })
    }
}

/// Seconds that are kept.
const SECONDS: u64 = 128;
/// Rates are averages over so many seconds.
const RATE_SECONDS: u64 = 10;

/// The number of changes in each of the last seconds.
///
/// * A rate is an average over the last ten whole seconds, or over all of them if they are fewer.
/// * There is no rate before the first whole second.
#[derive(Clone, Debug)]
pub struct Rates {
    seconds: Vec<[u32; CHANGES]>,
    /// The second in which counting began.
    begun: u64,
    newest: u64,
}

impl Rates {
    /// Begins to count.
    pub fn since(ms: u64) -> Rates {
        let begun = ms / 1_000;
        Rates { seconds: vec![[0; CHANGES]; SECONDS as usize], begun, newest: begun }
    }

    /// Counts one change.
    pub fn add(&mut self, change: Change, ms: u64) {
        let at = (ms / 1_000).max(self.newest);
        let passed = (at - self.newest).min(SECONDS);
        for second in at + 1 - passed..=at {
            self.seconds[(second % SECONDS) as usize] = [0; CHANGES];
        }
        self.newest = at;
        let count = &mut self.seconds[(at % SECONDS) as usize][change as usize];
        *count = count.saturating_add(1);
    }

    /// Changes per second. `None` before the first whole second.
    pub fn per_second(&self, change: Change, ms: u64) -> Option<f64> {
        let seconds = (ms / 1_000).saturating_sub(self.begun + 1).min(RATE_SECONDS);
        let sum: u32 = self.last(change, seconds, ms).iter().sum();
        (seconds > 0).then(|| f64::from(sum) / seconds as f64)
    }

    /// The share of grants that came out of a queue. `None` if nothing was granted.
    pub fn contention(&self, ms: u64) -> Option<f64> {
        let granted = self.per_second(Change::Granted, ms)?;
        let waited = self.per_second(Change::Waited, ms)?;
        (granted > 0.0).then(|| waited / granted)
    }

    /// The counts of the last whole seconds, the oldest first. Seconds before the beginning are
    /// left out.
    pub fn last(&self, change: Change, seconds: u64, ms: u64) -> Vec<u32> {
        let now = ms / 1_000;
        let first = now.saturating_sub(seconds.min(SECONDS - 1)).max(self.begun + 1);
        (first..now).map(|second| self.count(change, second)).collect()
    }

    fn count(&self, change: Change, second: u64) -> u32 {
        if second > self.newest || second + SECONDS <= self.newest {
            return 0;
        }
        self.seconds[(second % SECONDS) as usize][change as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_forgets_what_is_older() {
        let mut minute = LastMinute::default();
        assert_eq!(minute.count(0), 0);
        for ms in [0, 4_999, 5_000, 30_000] {
            minute.add(ms);
        }
        assert_eq!(minute.count(30_000), 4);
        assert_eq!(minute.count(59_999), 4);
        assert_eq!(minute.count(60_000), 2, "the first bucket is over");
        assert_eq!(minute.count(65_000), 1);
        assert_eq!(minute.count(90_000), 0);
        minute.add(300_000);
        assert_eq!(minute.count(300_000), 1, "nothing of the minutes before is left");
        minute.add(299_000);
        assert_eq!(minute.count(300_000), 2, "a clock that went back loses no count");
    }

    #[test]
    fn counts_agree_with_a_list_of_all_changes() {
        let mut minute = LastMinute::default();
        let mut all = Vec::new();
        let mut ms = 0;
        for step in 0..2_000u64 {
            ms += step * 7_919 % 4_001;
            minute.add(ms);
            all.push(ms / BUCKET_MS);
            let within = |at: &&u64| **at + BUCKETS > ms / BUCKET_MS;
            assert_eq!(minute.count(ms) as usize, all.iter().filter(within).count(), "{ms}");
        }
    }

    #[test]
    fn rates_are_averages_over_whole_seconds() {
        let mut rates = Rates::since(500);
        assert_eq!(rates.per_second(Change::Granted, 1_900), None, "no second is whole yet");
        for ms in [700, 1_000, 1_999, 2_000] {
            rates.add(Change::Granted, ms);
            if ms == 1_000 {
                rates.add(Change::Waited, ms);
            }
        }
        assert_eq!(rates.per_second(Change::Granted, 2_100), Some(2.0));
        assert_eq!(rates.per_second(Change::Granted, 3_000), Some(1.5));
        assert_eq!(rates.contention(2_100), Some(0.5));
        assert_eq!(rates.last(Change::Granted, 60, 4_000), [2, 1, 0]);
        assert_eq!(rates.per_second(Change::Granted, 12_000), Some(0.1));
        assert_eq!(rates.per_second(Change::Granted, 60_000), Some(0.0));
        assert_eq!(rates.contention(60_000), None);
        rates.add(Change::Granted, 1_000_000);
        assert_eq!(rates.last(Change::Granted, 500, 1_001_000).iter().sum::<u32>(), 1);
    }
}

//! A machine: cores that threads share fairly, and a disk with a queue of syncs.
//!
//! A free core goes to the thread that has had the least processor time, as Linux does it (EEVDF and the completely fair scheduler
//! before it). Who slept is not owed all that it did not use meanwhile. A thread keeps its core until its work is done: work is
//! short against the time that queues are long. It knows nothing of what threads do.

use super::agenda::Ns;
use super::random::{Random, SyncTime};
use std::collections::{BTreeMap, VecDeque};

/// A thread, by its place in the model.
pub(super) type ThreadId = usize;

/// Who slept is owed so much processor time at most.
const OWED_NS: Ns = 3_000_000;

/// - No more threads run than there are cores, and no more syncs than the disk does at a time.
#[derive(Debug)]
pub(super) struct Host {
    cores: usize,
    running: usize,
    ready: Vec<ThreadId>,
    /// Those that go on with what they do.
    go_on: Vec<ThreadId>,
    /// Processor time that each has had, or was let off for sleeping.
    used: BTreeMap<ThreadId, Ns>,
    /// What the one had used that got a core last.
    served: Ns,
    syncs_max: usize,
    syncing: usize,
    to_sync: VecDeque<ThreadId>,
    sync_time: SyncTime,
    /// Time that syncs took, one after the other.
    pub(super) sync_ns: Ns,
    /// How many.
    pub(super) syncs: u64,
}

impl Host {
    pub(super) fn new(cores: usize, syncs_max: usize, sync_time: SyncTime) -> Host {
        assert!(cores > 0 && syncs_max > 0);
        Host {
            cores,
            running: 0,
            ready: Vec::new(),
            go_on: Vec::new(),
            used: BTreeMap::new(),
            served: 0,
            syncs_max,
            syncing: 0,
            to_sync: VecDeque::new(),
            sync_time,
            sync_ns: 0,
            syncs: 0,
        }
    }

    pub(super) fn cores(&self) -> usize {
        self.cores
    }

    pub(super) fn syncs_max(&self) -> usize {
        self.syncs_max
    }

    pub(super) fn sync_time(&self) -> SyncTime {
        self.sync_time
    }

    /// A thread has work.
    pub(super) fn wants_core(&mut self, thread: ThreadId) {
        let used = self.used.entry(thread).or_default();
        *used = (*used).max(self.served.saturating_sub(OWED_NS));
        self.ready.push(thread);
    }

    /// A thread has more work, and may have it done before others.
    pub(super) fn wants_core_first(&mut self, thread: ThreadId) {
        self.go_on.push(thread);
    }

    /// The next thread that gets a core, if one is free.
    pub(super) fn takes_core(&mut self) -> Option<ThreadId> {
        if self.running == self.cores {
            return None;
        }
        let thread = self.go_on.pop().or_else(|| self.takes_least())?;
        self.running += 1;
        Some(thread)
    }

    /// Of those that have used least, the one that waits longest.
    fn takes_least(&mut self) -> Option<ThreadId> {
        let (at, thread) = self.ready.iter().copied().enumerate().min_by_key(|(_, thread)| self.used[thread])?;
        self.ready.remove(at);
        self.served = self.served.max(self.used[&thread]);
        Some(thread)
    }

    /// A thread has done its work, which counts for so much.
    pub(super) fn leaves_core(&mut self, thread: ThreadId, counts: Ns) {
        assert!(self.running > 0, "a core is left that nobody had");
        self.running -= 1;
        *self.used.entry(thread).or_default() += counts;
    }

    /// A thread has something to sync.
    pub(super) fn wants_sync(&mut self, thread: ThreadId) {
        self.to_sync.push_back(thread);
    }

    /// The next sync that begins, if the disk has room: whose, and how long it takes.
    pub(super) fn begins_sync(&mut self, random: &mut Random) -> Option<(ThreadId, Ns)> {
        if self.syncing == self.syncs_max {
            return None;
        }
        let thread = self.to_sync.pop_front()?;
        self.syncing += 1;
        let took = self.sync_time.draw_ns(random);
        self.sync_ns += took;
        self.syncs += 1;
        Some((thread, took))
    }

    pub(super) fn ends_sync(&mut self) {
        assert!(self.syncing > 0, "a sync ends that never began");
        self.syncing -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_wait_for_cores_and_syncs_for_the_disk() {
        let sync_time = SyncTime { p1_ms: 1.0, p50_ms: 1.0, p99_ms: 1.0 };
        let (mut host, mut random) = (Host::new(2, 1, sync_time), Random::new(1));
        (0..3).for_each(|thread| host.wants_core(thread));
        assert_eq!([host.takes_core(), host.takes_core(), host.takes_core()], [Some(0), Some(1), None]);
        host.leaves_core(0, 1);
        assert_eq!(host.takes_core(), Some(2));
        host.wants_sync(7);
        host.wants_sync(8);
        assert_eq!(host.begins_sync(&mut random), Some((7, 1_000_000)));
        assert_eq!(host.begins_sync(&mut random), None);
        host.ends_sync();
        assert_eq!(host.begins_sync(&mut random), Some((8, 1_000_000)));
        assert_eq!((host.syncs, host.sync_ns), (2, 2_000_000));
    }

    #[test]
    fn threads_share_cores_fairly_whatever_they_do_at_a_time() {
        let sync_time = SyncTime { p1_ms: 1.0, p50_ms: 1.0, p99_ms: 1.0 };
        let (mut host, pieces, mut used) = (Host::new(1, 1, sync_time), [100, 100, 200, 700], [0; 4]);
        (0..4).for_each(|thread| host.wants_core(thread));
        for _ in 0..10_000 {
            let thread = host.takes_core().expect("all always have work");
            used[thread] += pieces[thread];
            host.leaves_core(thread, pieces[thread]);
            host.wants_core(thread);
        }
        let sum = used.iter().sum::<Ns>();
        assert!(used.iter().all(|used| (sum / 4).abs_diff(*used) < 1_000), "{used:?}");
    }

    #[test]
    fn who_slept_comes_first_but_not_for_as_long_as_it_slept() {
        let sync_time = SyncTime { p1_ms: 1.0, p50_ms: 1.0, p99_ms: 1.0 };
        let mut host = Host::new(1, 1, sync_time);
        for _ in 0..100 {
            host.wants_core(0);
            assert_eq!(host.takes_core(), Some(0));
            host.leaves_core(0, 1_000_000);
        }
        (0..2).for_each(|thread| host.wants_core(thread));
        let mut turns = 0;
        while host.takes_core() == Some(1) {
            host.leaves_core(1, 1_000_000);
            host.wants_core(1);
            turns += 1;
        }
        // Three from what it is owed, one since what the other just used counts for that, too, and the tie is its.
        assert!((3..=5).contains(&turns), "{turns}");
    }
}

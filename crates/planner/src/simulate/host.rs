//! A machine: cores that threads wait for in order of arrival, and a disk with a queue of syncs.
//!
//! It knows nothing of what threads do. A thread keeps its core until its work is done: work is short against the time that
//! queues are long.

use super::agenda::Ns;
use super::random::{Random, SyncTime};
use std::collections::VecDeque;

/// A thread, by its place in the model.
pub(super) type ThreadId = usize;

/// - No more threads run than there are cores, and no more syncs than the disk does at a time.
#[derive(Debug)]
pub(super) struct Host {
    cores: usize,
    running: usize,
    ready: VecDeque<ThreadId>,
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
            ready: VecDeque::new(),
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
        self.ready.push_back(thread);
    }

    /// A thread has more work, and may have it done before others.
    pub(super) fn wants_core_first(&mut self, thread: ThreadId) {
        self.ready.push_front(thread);
    }

    /// The next thread that gets a core, if one is free.
    pub(super) fn takes_core(&mut self) -> Option<ThreadId> {
        if self.running == self.cores {
            return None;
        }
        let thread = self.ready.pop_front()?;
        self.running += 1;
        Some(thread)
    }

    /// A thread has done its work.
    pub(super) fn leaves_core(&mut self) {
        assert!(self.running > 0, "a core is left that nobody had");
        self.running -= 1;
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
        host.leaves_core();
        assert_eq!(host.takes_core(), Some(2));
        host.wants_sync(7);
        host.wants_sync(8);
        assert_eq!(host.begins_sync(&mut random), Some((7, 1_000_000)));
        assert_eq!(host.begins_sync(&mut random), None);
        host.ends_sync();
        assert_eq!(host.begins_sync(&mut random), Some((8, 1_000_000)));
        assert_eq!((host.syncs, host.sync_ns), (2, 2_000_000));
    }
}

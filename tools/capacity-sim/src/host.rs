//! A machine: cores that threads share fairly, and a disk with a queue of syncs.
//!
//! Cores are shared much as Linux shares them since 6.6 ("earliest eligible virtual deadline
//! first", Stoica and Abdel-Wahab 1995). The virtual time of a thread is the processor time that it
//! has had. A thread is eligible for a core if it has had no more than the average of all threads
//! that want one. Among eligible threads, the one with the earliest end of its slice gets the core.
//! A thread that yields to others has used up its slice, as since 6.18.
//!
//! Unlike Linux, the model has one queue for all cores, and a thread keeps its core until its work
//! is done. This is accurate enough, because work is short compared with the lifetime of queues.
//! The module knows nothing of the threads' work.

use crate::agenda::Ns;
use crate::random::{Random, SyncTime};
use std::collections::{BTreeMap, VecDeque};

/// A thread, by its place in the model.
pub(crate) type ThreadId = usize;

/// On one core a thread may use this much processor time before threads with an earlier end of
/// their slice go first. On more cores the slice is longer.
const BASE_SLICE_NS: i64 = 700_000;
/// Linux counts no more cores than this for the length of the slice.
const SLICE_CORES_MAX: usize = 8;

/// A thread's account of processor time, in virtual time.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    had: i64,
    /// The virtual time at which the slice of the thread ends.
    deadline: i64,
    /// For a sleeping thread, its distance below the average when it fell asleep, a slice at most.
    /// The value is negative if the thread was above the average.
    owed: i64,
    /// Whether the thread runs, or waits for a core.
    awake: bool,
}

/// * At most as many threads run as there are cores, and at most as many syncs as the disk does at
///   a time.
#[derive(Debug)]
pub(crate) struct Host {
    cores: usize,
    running: usize,
    ready: Vec<ThreadId>,
    /// Threads that continue their work on the same core.
    go_on: Vec<ThreadId>,
    accounts: BTreeMap<ThreadId, Account>,
    /// Mean virtual time of the threads that are awake. It stays constant while all threads sleep.
    average: i64,
    slice_ns: i64,
    syncs_max: usize,
    syncing: usize,
    to_sync: VecDeque<ThreadId>,
    sync_time: SyncTime,
    /// Time that syncs took, one after the other.
    pub(crate) sync_ns: Ns,
    /// Number of syncs so far.
    pub(crate) syncs: u64,
}

impl Host {
    pub(crate) fn new(cores: usize, syncs_max: usize, sync_time: SyncTime) -> Host {
        assert!(cores > 0 && syncs_max > 0);
        Host {
            cores,
            running: 0,
            ready: Vec::new(),
            go_on: Vec::new(),
            accounts: BTreeMap::new(),
            average: 0,
            slice_ns: BASE_SLICE_NS * i64::from(1 + cores.min(SLICE_CORES_MAX).ilog2()),
            syncs_max,
            syncing: 0,
            to_sync: VecDeque::new(),
            sync_time,
            sync_ns: 0,
            syncs: 0,
        }
    }

    pub(crate) fn cores(&self) -> usize {
        self.cores
    }

    pub(crate) fn syncs_max(&self) -> usize {
        self.syncs_max
    }

    pub(crate) fn sync_time(&self) -> SyncTime {
        self.sync_time
    }

    /// Lets a thread with work wait for a core.
    pub(crate) fn wants_core(&mut self, thread: ThreadId) {
        self.wakes(thread);
        self.ready.push(thread);
    }

    /// Lets a thread with more work wait for a core, possibly ahead of other threads.
    pub(crate) fn wants_core_first(&mut self, thread: ThreadId) {
        self.wakes(thread);
        self.go_on.push(thread);
    }

    /// Wakes a thread. A thread that was above the average before it slept still is, by up to two
    /// slices. A thread that was below the average is owed the difference, up to a slice.
    fn wakes(&mut self, thread: ThreadId) {
        let (average, slice_ns) = (self.average, self.slice_ns);
        let account = self.accounts.entry(thread).or_default();
        if !account.awake {
            let had = match account.owed {
                owed if owed > 0 => average - owed,
                _ => account.had.clamp(average, average + 2 * slice_ns),
            };
            *account = Account { had, deadline: had + slice_ns, owed: 0, awake: true };
            self.take_average();
        }
    }

    /// Moves a thread from its core back to the waiting threads before it works.
    pub(crate) fn yields(&mut self, thread: ThreadId) {
        self.running -= 1;
        if self.ready.is_empty() && self.go_on.is_empty() {
            return self.ready.push(thread);
        }
        let (average, slice_ns) = (self.average, self.slice_ns);
        let account = self.account(thread);
        if account.had <= average {
            (account.had, account.deadline) = (account.deadline, account.deadline + slice_ns);
        }
        self.take_average();
        self.ready.push(thread);
    }

    /// Returns the next thread that gets a core, if one is free.
    pub(crate) fn takes_core(&mut self) -> Option<ThreadId> {
        if self.running == self.cores {
            return None;
        }
        let thread = self.go_on.pop().or_else(|| self.takes_earliest())?;
        self.running += 1;
        Some(thread)
    }

    /// Takes the eligible thread with the earliest end of its slice. If every thread is above the
    /// average, it takes the earliest of all threads.
    fn takes_earliest(&mut self) -> Option<ThreadId> {
        let order = |thread: &ThreadId| {
            let account = &self.accounts[thread];
            (account.had > self.average, account.deadline)
        };
        let (at, _) = self.ready.iter().enumerate().min_by_key(|(_, thread)| order(thread))?;
        Some(self.ready.remove(at))
    }

    /// Takes a thread off its core after its work, which counts as this much processor time.
    pub(crate) fn leaves_core(&mut self, thread: ThreadId, counts: Ns) {
        assert!(self.running > 0, "a core is left that nobody had");
        self.running -= 1;
        let slice_ns = self.slice_ns;
        let account = self.account(thread);
        account.had += counts as i64;
        if account.had >= account.deadline {
            account.deadline = account.had + slice_ns;
        }
        self.take_average();
    }

    /// Puts a thread without work to sleep, after it has left its core.
    pub(crate) fn sleeps(&mut self, thread: ThreadId) {
        let (average, slice_ns) = (self.average, self.slice_ns);
        let account = self.account(thread);
        if account.awake {
            account.owed = (average - account.had).min(slice_ns);
            account.awake = false;
            self.take_average();
        }
    }

    fn account(&mut self, thread: ThreadId) -> &mut Account {
        self.accounts.get_mut(&thread).expect("whoever had a core has wanted one")
    }

    fn take_average(&mut self) {
        let (mut sum, mut count) = (0, 0);
        for account in self.accounts.values().filter(|account| account.awake) {
            (sum, count) = (sum + account.had, count + 1);
        }
        if count > 0 {
            self.average = sum / count;
        }
    }

    /// Queues a sync for a thread.
    pub(crate) fn wants_sync(&mut self, thread: ThreadId) {
        self.to_sync.push_back(thread);
    }

    /// Begins the next sync if the disk has room. Returns its thread and its length.
    pub(crate) fn begins_sync(&mut self, random: &mut Random) -> Option<(ThreadId, Ns)> {
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

    pub(crate) fn ends_sync(&mut self) {
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
        assert_eq!(
            [host.takes_core(), host.takes_core(), host.takes_core()],
            [Some(0), Some(1), None]
        );
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

    fn one_core() -> Host {
        Host::new(1, 1, SyncTime { p1_ms: 1.0, p50_ms: 1.0, p99_ms: 1.0 })
    }

    #[test]
    fn threads_share_cores_fairly_whatever_they_do_at_a_time() {
        let (mut host, pieces, mut used) =
            (one_core(), [100_000, 100_000, 200_000, 700_000], [0; 4]);
        (0..4).for_each(|thread| host.wants_core(thread));
        for _ in 0..10_000 {
            let thread = host.takes_core().expect("all always have work");
            used[thread] += pieces[thread];
            host.leaves_core(thread, pieces[thread]);
            host.wants_core(thread);
        }
        let sum = used.iter().sum::<Ns>();
        assert!(used.iter().all(|used| (sum / 4).abs_diff(*used) < 3_000_000), "{used:?}");
    }

    #[test]
    fn who_slept_comes_first_but_not_for_as_long_as_it_slept() {
        let mut host = one_core();
        (0..3).for_each(|thread| host.wants_core(thread));
        for (thread, took) in [(0, 1), (1, 20_000_000), (2, 20_000_000), (0, 1)] {
            assert_eq!(host.takes_core(), Some(thread));
            host.leaves_core(thread, took);
            host.wants_core(thread);
        }
        assert_eq!(host.takes_core(), Some(0), "26 milliseconds more are its");
        host.leaves_core(0, 1);
        host.sleeps(0);
        for _ in 0..100 {
            let thread = host.takes_core().expect("two have work");
            host.leaves_core(thread, 500_000);
            host.wants_core(thread);
        }
        host.wants_core(0);
        let mut turns = 0;
        while host.takes_core() == Some(0) {
            host.leaves_core(0, 500_000);
            host.wants_core(0);
            turns += 1;
        }
        assert!((1..=4).contains(&turns), "{turns} of half a millisecond");
    }

    #[test]
    fn who_yields_comes_after_those_that_wait() {
        let mut host = one_core();
        (0..3).for_each(|thread| host.wants_core(thread));
        assert_eq!(host.takes_core(), Some(0));
        host.yields(0);
        let order: Vec<_> = (0..3)
            .map(|_| {
                let thread = host.takes_core().expect("all three wait");
                host.leaves_core(thread, 1_000);
                host.sleeps(thread);
                thread
            })
            .collect();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn who_yields_to_nobody_loses_nothing() {
        let mut host = Host::new(2, 1, SyncTime { p1_ms: 1.0, p50_ms: 1.0, p99_ms: 1.0 });
        host.wants_core(0);
        for _ in 0..10 {
            assert_eq!(host.takes_core(), Some(0));
            host.yields(0);
        }
        assert_eq!(host.takes_core(), Some(0));
        (1..3).for_each(|thread| host.wants_core(thread));
        assert_eq!(host.takes_core(), Some(1));
        host.leaves_core(0, 1_000);
        host.wants_core(0);
        host.leaves_core(1, 50_000);
        host.wants_core(1);
        assert_eq!(
            [host.takes_core(), host.takes_core()],
            [Some(2), Some(0)],
            "by what they had, and that is what they ran"
        );
    }
}

//! Watching the disk: the start of the write under way, and the usual duration of syncs.
//!
//! A disk that hangs reports nothing: the thread that writes is stuck in the kernel, and all other
//! threads go on. So another thread, which never touches the disk, looks at the age of the write
//! under way. It tells the replicas, which hand their leaderships over. It logs and shows its
//! findings, and it ends a node with a disk that does not come back.
//!
//! The module decides nothing about locks, and knows nothing of the contents of writes.

mod engine;
mod spells;
mod syncs;

pub(crate) use engine::Watched;

use crate::clock::Clock;
use crate::host::Host;
use crate::lifecycle::Lifecycle;
use crate::limits::{DISK_LOOK_MS, SIZES_EVERY};
use crate::metrics::Metrics;
use routing::Settings;
use spells::{Limits, Loads, Spells, Turn};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::{Engine, Sizes};
use syncs::{Looks, Syncs, stretch};

/// The writes under way to the disk, and the latest syncs.
///
/// * `log_since` is the moment at which the log writer's write began, in milliseconds of the clock
///   and plus one. 0 means that none is under way.
/// * `others` holds the same moment for each write of the node's own records, under a number of its
///   own.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    clock: Clock,
    log_since: AtomicU64,
    others: Mutex<BTreeMap<u64, u64>>,
    hangs: AtomicBool,
    syncs: Mutex<Syncs>,
    sizes: Mutex<Option<Sizes>>,
}

/// The state of the disk, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskState {
    /// Age of the write under way; 0 means that none is.
    pub(crate) write_age_ms: u64,
    /// Whether the write takes longer than elections, so that this node neither leads nor votes.
    pub(crate) hangs: bool,
    /// The median of the last syncs; 0 means that none was measured.
    pub(crate) sync_us: u64,
}

impl DiskWatch {
    pub(crate) fn new(clock: Clock) -> Self {
        DiskWatch {
            clock,
            log_since: AtomicU64::new(0),
            others: Mutex::default(),
            hangs: AtomicBool::new(false),
            syncs: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    /// The sizes of the store and of its disk, as they were read last. `None` if there is no disk,
    /// or nothing was read yet.
    pub(crate) fn sizes(&self) -> Option<Sizes> {
        *lock(&self.sizes)
    }

    pub(crate) fn take_sizes(&self, sizes: Sizes) {
        *lock(&self.sizes) = Some(sizes);
    }

    /// Notes that the log writer begins a write. It has one at a time.
    pub(crate) fn log_write_begins(&self) {
        self.log_since.store(self.clock.mono_ms() + 1, Ordering::Relaxed);
    }

    pub(crate) fn log_write_ended(&self, synced: bool, took: Duration) {
        self.log_since.store(0, Ordering::Relaxed);
        if synced {
            self.synced(took);
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        lock(&self.syncs).push(took);
    }

    /// Runs a write of any thread but the log writer.
    pub(crate) fn during<T>(&self, write: impl FnOnce() -> T) -> T {
        self.during_each(|_| write())
    }

    /// Runs several such writes, one after the other. `writes` calls its argument before each
    /// write.
    pub(crate) fn during_each<T>(&self, writes: impl FnOnce(&dyn Fn()) -> T) -> T {
        let number = {
            let mut others = lock(&self.others);
            let number = others.last_key_value().map_or(0, |(last, _)| last + 1);
            others.insert(number, self.clock.mono_ms());
            number
        };
        let done = writes(&|| {
            lock(&self.others).insert(number, self.clock.mono_ms());
        });
        lock(&self.others).remove(&number);
        done
    }

    /// The time at which the oldest write under way began.
    fn since_ms(&self) -> Option<u64> {
        let log = self.log_since.load(Ordering::Relaxed).checked_sub(1);
        let other = lock(&self.others).values().copied().min();
        log.into_iter().chain(other).min()
    }

    pub(crate) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    pub(crate) fn state(&self) -> DiskState {
        DiskState {
            write_age_ms: self
                .since_ms()
                .map_or(0, |since_ms| self.clock.mono_ms().saturating_sub(since_ms)),
            hangs: self.hangs(),
            sync_us: lock(&self.syncs)
                .usual()
                .map_or(0, |usual| u64::try_from(usual.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

/// Reads the sizes of the store, off the async threads, because directories are read.
pub(crate) async fn read_sizes(disk: &DiskWatch, engine: &Arc<dyn Engine>) {
    let of = engine.clone();
    if let Ok(Some(sizes)) = tokio::task::spawn_blocking(move || of.sizes()).await {
        disk.take_sizes(sizes);
    }
}

/// Reads the sizes again, now and then. Never returns.
pub(crate) async fn keep_sizes(disk: Arc<DiskWatch>, engine: Arc<dyn Engine>) {
    loop {
        tokio::time::sleep(SIZES_EVERY).await;
        read_sizes(&disk, &engine).await;
    }
}

/// Locks a mutex, poisoned or not, because no code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that watches the disk.
pub(crate) struct Watcher {
    pub(crate) disk: Arc<DiskWatch>,
    /// Only asked whether it is loading, which does not wait for the disk.
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) host: Arc<Host>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Settings,
}

impl Watcher {
    /// Runs until the node stops. The thread touches no disk, so a stop need not wait for it.
    pub(crate) fn start(self) -> std::io::Result<()> {
        std::thread::Builder::new().name("disk-watch".into()).spawn(move || self.run()).map(drop)
    }

    fn run(self) {
        let election_ms = self.settings.tick_ms * self.settings.election_ticks as u64;
        let limits = |stretch: u32| Limits {
            hangs_ms: 2 * election_ms * u64::from(stretch),
            end_ms: self.settings.disk_hang_exit_ms.max(3 * election_ms * u64::from(stretch)),
            look_ms: DISK_LOOK_MS,
        };
        let (mut spells, mut loads, mut looks, mut stretched) =
            (Spells::default(), Loads::default(), Looks::default(), 1);
        while !self.lifecycle.stopped() {
            let now_ms = self.disk.clock.mono_ms();
            // The value is bound first: within an `if let` the lock would be held while the
            // messages below are logged, and the log writer would wait for it.
            let usual = looks.usual(now_ms, &lock(&self.disk.syncs));
            if let Some(usual) = usual {
                let needed = stretch(usual, Duration::from_millis(election_ms));
                if needed != stretched {
                    stretched = needed;
                    self.host.disk(self.disk.hangs(), stretched);
                    say_stretched(usual, election_ms, needed);
                }
            }
            let since_ms = self.disk.since_ms();
            let age_ms = since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            self.metrics.disk_write_age.set(age_ms as f64 / 1_000.0);
            let counts = loads.age_counts(now_ms, self.engine.is_loading(), self.disk.hangs());
            match spells.look(limits(stretched), now_ms, since_ms.filter(|_| counts)) {
                Some(Turn::Hangs) => {
                    self.turn(true, stretched); // first: the log may be on this disk
                    tracing::warn!(
                        age_ms,
                        "the disk hangs: a write is under way for long. Handing leaderships over; until it is done, this node \
                         neither leads nor votes"
                    );
                }
                Some(Turn::WorksAgain { after_ms }) => {
                    self.turn(false, stretched);
                    tracing::warn!(after_ms, "the disk works again: the write that hung is done");
                }
                Some(Turn::End) => {
                    let s = age_ms.div_ceil(1_000);
                    self.lifecycle.disk_hangs(format!(
                        "a write to the disk is under way for {s} s and does not end, so this process ends; nothing that it \
                         acknowledged is lost. Look after the disk (dmesg, smartctl), then start the node again"
                    ));
                    return;
                }
                None => {}
            }
            std::thread::sleep(Duration::from_millis(DISK_LOOK_MS));
        }
    }

    fn turn(&self, hangs: bool, stretched: u32) {
        self.disk.hangs.store(hangs, Ordering::Relaxed);
        self.host.disk(hangs, stretched);
    }
}

fn say_stretched(usual: Duration, election_ms: u64, needed: u32) {
    let usual_ms = usual.as_millis() as u64;
    if needed == 1 {
        return tracing::warn!(
            usual_ms,
            "syncs are fast enough again: elections run by the settings"
        );
    }
    tracing::warn!(
        usual_ms,
        election_ms,
        stretched_to_ms = election_ms * u64::from(needed),
        "the disk is slow: a sync usually takes longer than half an election timeout, so a vote could not be written within \
         one. Elections take longer on this node. Give it a faster disk, or raise `election_ticks` in the cluster file on all nodes"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use routing::NodeId;

    /// All syncs of a start counted as one write. Five syncs of a slow disk, one after the other,
    /// were taken for a disk that hangs.
    #[test]
    fn writes_one_after_the_other_have_an_age_each() {
        let disk = crate::testing::disk();
        disk.during_each(|next| {
            let first_ms = disk.since_ms();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(disk.since_ms(), first_ms, "one write");
            next();
            assert!(disk.since_ms() > first_ms, "another one");
            disk.during(|| assert!(disk.since_ms() > first_ms, "the older one of two"));
        });
        assert_eq!(disk.since_ms(), None);
    }

    /// A full pipe of logs held the watcher with that lock. So the log writer waited, and so did
    /// each caller that asked for the disk's state.
    #[test]
    fn a_slow_disk_is_told_of_without_the_lock_of_its_syncs() {
        let (context, _inbox) = crate::testing::context(NodeId(1), 10);
        (0..9).for_each(|_| context.disk.synced(Duration::from_secs(1)));
        let locked = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let (context, locked) = (context.clone(), locked.clone());
            move || {
                lock(&locked).push(context.disk.syncs.try_lock().is_err());
                context.lifecycle.enter(crate::lifecycle::Phase::Stopped);
                std::io::sink()
            }
        };
        let Context { disk, engine, host, lifecycle, metrics, .. } = &*context;
        let watcher = Watcher {
            disk: disk.clone(),
            engine: engine.clone(),
            host: host.clone(),
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
            settings: Settings::default(),
        };
        let subscriber = tracing_subscriber::fmt().with_writer(log).finish();
        tracing::subscriber::with_default(subscriber, || watcher.run());
        assert_eq!(*lock(&locked), [false], "the disk is slow, which is said once");
    }

    #[test]
    fn syncs_that_are_measured_are_looked_at_one_by_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let inner: Arc<dyn Engine> =
            Arc::new(storage::RocksEngine::open(dir.path()).expect("a new store"));
        let disk = crate::testing::disk();
        let watched = Watched { inner, disk: disk.clone() };
        let seen = Mutex::new(Vec::new());
        let look = || {
            lock(&seen).push(disk.since_ms().expect("a write is under way"));
            std::thread::sleep(Duration::from_millis(2));
        };
        watched.measure_syncs(&look).expect("measured");
        let seen = seen.into_inner().expect("nothing panicked");
        assert!(seen.len() > 1 && seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    }
}

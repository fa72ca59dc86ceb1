//! The time of a sync in a directory, because the log writer of a node waits for it.
//!
//! The module appends to files as to a log, and syncs each write. It knows nothing of RocksDB.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of each synced write: an entry of some thirty operations.
const WRITE_BYTES: usize = 8 << 10;
/// Length of one measurement.
const SPAN: Duration = Duration::from_millis(1_500);
/// Number of nodes that sync to the same disk during a calibration.
const WRITERS: usize = 5;

/// The times and rates of a disk's syncs.
///
/// * p1 ≤ p50 ≤ p99.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Syncs {
    /// 1 of 100 syncs is no slower.
    pub p1_ms: f64,
    /// Half of the syncs are no slower.
    pub p50_ms: f64,
    /// 99 of 100 syncs are no slower.
    pub p99_ms: f64,
    /// Syncs per second of one writer.
    pub alone_per_s: f64,
    /// Syncs per second of as many writers as the cluster has nodes, together.
    pub together_per_s: f64,
    /// Syncs of different files that the disk does at a time, at the speed of these percentiles.
    pub in_parallel: u64,
}

/// Measures the syncs of a directory with one writer and with several. The percentiles are those
/// with the better median. If one writer is slower than several, it waited for a processor to wake
/// it instead of the disk.
///
/// # Errors
/// The errors of the disk.
pub fn measure(dir: &Path) -> io::Result<Syncs> {
    let mut alone = write(&dir.join("sync-alone"))?;
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let path = dir.join(format!("sync-{writer}"));
            std::thread::spawn(move || write(&path))
        })
        .collect();
    let mut together = Vec::new();
    for thread in threads {
        together.append(&mut thread.join().map_err(|_| io::Error::other("a writer panicked"))??);
    }
    alone.sort_unstable();
    together.sort_unstable();
    Ok(Syncs::of(&alone, &together))
}

impl Syncs {
    /// Computes the figures from sorted times.
    fn of(alone: &[Duration], together: &[Duration]) -> Syncs {
        let at = |took: &[Duration], share: f64| {
            took[((took.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3
        };
        let per_s = |took: &[Duration]| took.len() as f64 / SPAN.as_secs_f64();
        let better = if at(together, 0.5) < at(alone, 0.5) { together } else { alone };
        let mean_s = better.iter().sum::<Duration>().as_secs_f64() / better.len() as f64;
        Syncs {
            p1_ms: at(better, 0.01),
            p50_ms: at(better, 0.5),
            p99_ms: at(better, 0.99),
            alone_per_s: per_s(alone),
            together_per_s: per_s(together),
            in_parallel: ((per_s(together) * mean_s).round() as u64).clamp(1, WRITERS as u64),
        }
    }
}

/// Appends and syncs for the span, at least once. Returns the time of each sync, and removes the
/// file.
fn write(path: &Path) -> io::Result<Vec<Duration>> {
    let (mut file, data) = (File::create(path)?, vec![0x5a; WRITE_BYTES]);
    let (begin, mut took) = (Instant::now(), Vec::new());
    while took.is_empty() || begin.elapsed() < SPAN {
        let before = Instant::now();
        file.write_all(&data)?;
        file.sync_data()?;
        took.push(before.elapsed());
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_at_a_time_follows_from_rate_and_time() {
        let ms = |ms: u64, count: usize| vec![Duration::from_millis(ms); count];
        // One writer does 1,000/s at 1 ms each. Several do 2,000/s together, and each waits longer.
        let syncs = Syncs::of(&ms(1, 1_500), &ms(2, 3_000));
        assert_eq!((syncs.p50_ms, syncs.in_parallel, syncs.alone_per_s), (1.0, 2, 1_000.0));
        // One writer was slower than five. Their time is the disk's time, and they did five at a
        // time.
        let syncs = Syncs::of(&ms(4, 375), &ms(1, 7_500));
        assert_eq!((syncs.p50_ms, syncs.in_parallel, syncs.together_per_s), (1.0, 5, 5_000.0));
    }

    #[test]
    fn syncs_are_timed_and_leave_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let syncs = measure(dir.path()).expect("a disk");
        assert!(
            0.0 < syncs.p1_ms && syncs.p1_ms <= syncs.p50_ms && syncs.p50_ms <= syncs.p99_ms,
            "{syncs:?}"
        );
        assert!((1..=5).contains(&syncs.in_parallel), "{syncs:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}

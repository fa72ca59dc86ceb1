//! Tests that only one of the engines can run.

use palisade_storage::*;
use routing::ShardId;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn entries(range: std::ops::RangeInclusive<u64>, what: &str) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| (index, format!("{what} {index}").into_bytes())).collect()
}

fn write(store: &MemoryEngine, write: ShardWrite) {
    store.write(&[write]).expect("write");
}

fn recover(store: &MemoryEngine, shard: ShardId) -> Recovered {
    store.recover(shard).expect("recover")
}

/// Only the engine in memory can crash on demand.
#[test]
fn a_crash_in_memory_loses_unflushed_state_and_never_the_log() {
    let store = MemoryEngine::new();
    let log = entries(1..=9, "a");
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: log.clone(),
            hard_state: Some(vec![1]),
            ..Default::default()
        },
    );
    let table = vec![(b"key".to_vec(), Some(b"value".to_vec()))];
    let checkpoint = ShardWrite {
        shard: A,
        applied: Some(vec![7]),
        table,
        truncate_to: Some(7),
        ..Default::default()
    };
    write(&store, checkpoint.clone());
    assert_eq!(recover(&store, A).entries, entries(8..=9, "a"));
    store.crash();
    assert_eq!(
        recover(&store, A),
        Recovered { entries: log, hard_state: Some(vec![1]), ..Default::default() }
    );
    // A reset makes all earlier writes durable as well.
    write(&store, checkpoint);
    write(
        &store,
        ShardWrite { shard: B, reset: true, applied: Some(vec![9]), ..Default::default() },
    );
    store.crash();
    assert_eq!(recover(&store, A).entries, entries(8..=9, "a"));
    assert_eq!(
        (recover(&store, A).applied, recover(&store, B).applied),
        (Some(vec![7]), Some(vec![9]))
    );
}

/// Otherwise no test of a crash would show anything.
#[test]
fn a_crash_on_disk_loses_what_was_not_flushed_and_never_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksEngine::open(dir.path()).unwrap();
    let checkpoint = |value| ShardWrite {
        shard: A,
        entries: entries(value..=value, "a"),
        applied: Some(vec![value as u8]),
        ..Default::default()
    };
    store.write(&[checkpoint(1)]).unwrap();
    drop(store); // flushes
    let store = RocksEngine::open(dir.path()).unwrap();
    store.write(&[checkpoint(2)]).unwrap();
    store.crash();
    let found = RocksEngine::open(dir.path()).unwrap().recover(A).unwrap();
    assert_eq!((found.entries, found.applied), (entries(1..=2, "a"), Some(vec![1])));
}

#[test]
fn a_failed_write_in_memory_closes_the_engine_until_it_is_opened_anew() {
    let store = MemoryEngine::new();
    let one = [ShardWrite { shard: A, entries: entries(1..=1, "a"), ..Default::default() }];
    store.fail_next_write();
    for _ in 0..2 {
        assert!(matches!(store.write(&one), Err(StorageError::Io(_))));
    }
    assert_eq!(recover(&store, A), Recovered::default());
    store.crash();
    store.write(&one).expect("a new run");
}

/// Flushes and merges must not take the processor from threads that answer requests.
#[test]
#[cfg(target_os = "linux")]
fn only_the_threads_of_rocksdb_lower_their_priority() {
    let dir = tempfile::tempdir().unwrap();
    let _engine = RocksEngine::open(dir.path()).unwrap();
    let nice_of = |stat: &str| {
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse::<i32>().unwrap()
    };
    let own = nice_of(&std::fs::read_to_string("/proc/thread-self/stat").unwrap());
    let process = nice_of(&std::fs::read_to_string("/proc/self/stat").unwrap());
    assert_eq!(own, process, "the thread that opens a database keeps its priority");
    let mut background = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // Threads of other tests come and go.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        if stat.contains("(rocksdb:") {
            background += 1;
            assert_eq!(nice_of(&stat), (process + 10).min(19), "{stat}");
        }
    }
    assert!(background >= 2, "a thread that flushes, and one that merges");
}

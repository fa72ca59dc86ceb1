//! The process dies within the write that destroys a replica. All of the replica is left, or nothing
//! but its tombstone.

use crate::damage::{change, copy_store, files, journal, record_offsets};
use palisade_storage::*;
use routing::ShardId;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

const SHARD: ShardId = ShardId(3);
const OTHER: ShardId = ShardId(4);

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open_with_segments(dir, 16 << 10).expect("opens")
}

/// A write of both shards, with something in each part.
fn write(engine: &RocksEngine, index: u64, what: &str) {
    let write = |shard: ShardId| ShardWrite {
        shard,
        entries: vec![(index, what.into())],
        hard_state: Some(what.into()),
        applied: Some(what.into()),
        table: vec![(b"key".to_vec(), Some(what.into()))],
        history: vec![HistoryRecord { name: "name".into(), index, ..Default::default() }],
        ..Default::default()
    };
    engine.write(&[write(SHARD), write(OTHER)]).expect("writes");
}

/// The lives of a shard, and all that it has.
fn contents(engine: &RocksEngine, shard: ShardId) -> (Lives, Recovered, Vec<HistoryRecord>) {
    let lives = engine.lives().get(&shard).copied().unwrap_or_default();
    let (history, _) = engine.history_since(shard, 0, None, 10).expect("a page");
    (lives, engine.recover(shard).expect("recovers"), history)
}

fn gone() -> (Lives, Recovered, Vec<HistoryRecord>) {
    (Lives { hosted: None, destroyed: Some(1) }, Recovered::default(), Vec::new())
}

/// A store of a running process, before and after it destroyed a replica. A part of the replica is
/// in tables, and a part only in memory and in the journal.
fn before_and_after() -> (TempDir, TempDir) {
    let (dir, before, after) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let engine = open(dir.path());
    engine.host_shard(SHARD, 1).expect("a life begins");
    write(&engine, 1, "in tables");
    drop(engine);
    let engine = open(dir.path());
    write(&engine, 2, "in memory");
    copy_store(dir.path(), before.path());
    engine.drop_shard(SHARD, 1).expect("a life ends");
    copy_store(dir.path(), after.path());
    (before, after)
}

fn copy(dir: &Path) -> TempDir {
    let copy = tempdir().unwrap();
    copy_store(dir, copy.path());
    copy
}

#[test]
fn a_drop_that_is_torn_leaves_the_whole_replica() {
    let (before, after) = before_and_after();
    let untouched = copy(before.path());
    let engine = open(untouched.path());
    let (whole, other) = (contents(&engine, SHARD), contents(&engine, OTHER));
    assert_eq!((whole.0.hosted, whole.1.entries.len(), whole.2.len()), (Some(1), 2, 1));
    let log = |dir: &Path| files(dir, "log").pop().expect("a write-ahead log");
    let name = log(before.path()).strip_prefix(before.path()).expect("below").to_owned();
    let begun = fs::metadata(log(before.path())).expect("a log").len() as usize;
    let bytes = fs::read(after.path().join(&name)).expect("the same log");
    assert!(bytes.len() > begun + 100, "the batch is in the write-ahead log");
    for kept in begun..=bytes.len() {
        let copy = copy(before.path());
        fs::write(copy.path().join(&name), &bytes[..kept]).expect("writes");
        let engine = open(copy.path());
        let expected = if kept < bytes.len() { whole.clone() } else { gone() };
        assert_eq!(contents(&engine, SHARD), expected, "{kept} of {} bytes", bytes.len());
        assert_eq!(contents(&engine, OTHER), other);
    }
}

/// The batch is on disk, and the record that counts it is torn. The next life takes its number.
#[test]
fn a_drop_whose_record_is_torn_is_whole() {
    let (before, after) = before_and_after();
    let ends = record_offsets(&fs::read(journal(after.path())).expect("a segment"));
    let [.., begin, end] = ends[..] else { panic!("the drop has a record") };
    for kept in begin..end {
        let copy = copy(after.path());
        change(&journal(copy.path()), |bytes| bytes[kept..end].fill(0));
        fs::copy(before.path().join("SYNCED"), copy.path().join("SYNCED")).expect("copies");
        let engine = open(copy.path());
        assert_eq!(contents(&engine, SHARD), gone());
        engine.host_shard(SHARD, 2).expect("the next life");
        write(&engine, 3, "of the next life");
        engine.crash();
        let (lives, found, history) = contents(&open(copy.path()), SHARD);
        assert_eq!(lives, Lives { hosted: Some(2), destroyed: Some(1) });
        assert_eq!(found.entries, [(3, b"of the next life".to_vec())]);
        assert_eq!((found.table, history), (vec![], vec![]));
    }
}

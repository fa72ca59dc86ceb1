//! A full disk: a small file system of its own, which only root can mount.

use palisade_storage::*;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const RESERVE_BYTES: u64 = 8 << 20;
const OPTIONS: RocksOptions = RocksOptions { segment_bytes: 1 << 20, reserve_bytes: RESERVE_BYTES };

/// A file system in memory, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts it. `None` if this process may not.
    fn new() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "palisade-test"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("skipped: only root can mount a small file system to fill up");
        None
    }

    /// Other programs take all the room.
    fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.0.path().join("others"))
            .expect("a file");
        for piece_bytes in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![1; piece_bytes]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("others")).expect("it was filled");
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
    RocksEngine::open_with(dir, OPTIONS)
}

fn has_reserve(dir: &Path) -> bool {
    dir.join("RESERVE").metadata().is_ok_and(|meta| meta.len() == RESERVE_BYTES)
}

fn write(engine: &RocksEngine, index: u64) {
    let write = ShardWrite { entries: vec![(index, vec![3; 100])], ..Default::default() };
    engine.write(&[write]).expect("writes");
}

#[test]
fn a_node_starts_again_on_a_full_disk() {
    let Some(disk) = SmallDisk::new() else { return };
    let dir = disk.data();
    let engine = open(&dir).expect("a new store");
    assert_eq!((engine.room(), has_reserve(&dir)), (Room::Enough, true));
    (1..=10).for_each(|index| write(&engine, index));
    drop(engine);

    disk.fill();
    let engine = open(&dir).expect("a store on a full disk");
    assert!(matches!(engine.room(), Room::ReserveUsed { .. }), "{:?}", engine.room());
    assert!(!has_reserve(&dir));
    let found = engine.recover(routing::ShardId(0)).expect("recovers");
    assert_eq!(found.entries.len(), 10);
    write(&engine, 11);
    drop(engine);

    disk.make_room();
    let engine = open(&dir).expect("a store with room again");
    assert_eq!((engine.room(), has_reserve(&dir)), (Room::Enough, true), "kept for the next time");
    assert_eq!(engine.recover(routing::ShardId(0)).expect("recovers").entries.len(), 11);
}

#[test]
fn a_reserve_that_does_not_fit_is_not_kept_and_none_is_kept_unasked() {
    let Some(disk) = SmallDisk::new() else { return };
    let dir = disk.data();
    let huge = RocksOptions { reserve_bytes: 1 << 30, ..OPTIONS };
    let engine = RocksEngine::open_with(&dir, huge).expect("a new store");
    assert!(matches!(engine.room(), Room::Little { .. }), "{:?}", engine.room());
    assert!(!dir.join("RESERVE").exists());
    drop(engine);
    drop(open(&dir).expect("with a smaller one"));
    assert!(has_reserve(&dir));
    drop(
        RocksEngine::open_with(&dir, RocksOptions { reserve_bytes: 0, ..OPTIONS })
            .expect("with none"),
    );
    assert!(!dir.join("RESERVE").exists(), "its room is given back");
}

#[test]
fn syncs_are_measured_and_leave_no_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = RocksEngine::open(dir.path()).expect("a new store");
    let said = std::cell::Cell::new(0);
    assert_eq!(engine.measure_syncs(&|| said.set(said.get() + 1)).expect("measured").len(), 5);
    assert_eq!(said.get(), 6, "one for each, and the first that makes the file");
    assert!(!dir.path().join("SYNC-TEST").exists());
    assert_eq!(MemoryEngine::new().measure_syncs(&|| ()).expect("nothing to measure"), []);
}

#[test]
fn a_store_tells_its_sizes_and_the_room_on_its_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = RocksEngine::open_with(dir.path(), OPTIONS).expect("a new store");
    let before = engine.sizes().expect("a disk");
    assert!(before.database_bytes > 0 && !before.read_only, "{before:?}");
    assert!(before.disk_bytes >= before.free_bytes && before.disk_bytes > 0, "{before:?}");
    let shard = routing::ShardId(0);
    let table = (0..2_000u32).map(|nth| (nth.to_be_bytes().to_vec(), Some(vec![7; 100]))).collect();
    let entries = vec![(1, vec![7; 100])];
    let write = ShardWrite { shard, table, entries, ..ShardWrite::default() };
    engine.write(&[write]).expect("written");
    let after = engine.sizes().expect("a disk");
    assert!(after.journal_bytes >= OPTIONS.segment_bytes, "{after:?}");
    assert!(after.memory_bytes >= before.memory_bytes + 200_000, "{before:?}, then {after:?}");
    assert_eq!(MemoryEngine::new().sizes(), None, "no disk");
}

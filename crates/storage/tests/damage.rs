//! Files of a closed store are damaged, and the store must say so when it is opened or read: never go on without the bytes.
//!
//! The one exception is a record at the very end of the write-ahead log that nobody was told is on disk.

use palisade_storage::*;
use routing::ShardId;
use std::fs;
use std::path::{Path, PathBuf};

const SHARD: ShardId = ShardId(5);
const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;

fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
    RocksEngine::open(dir)
}

fn entry(index: u64) -> Vec<u8> {
    format!("<entry {index:06}>").repeat(10).into_bytes()
}

/// Writes `count` entries, each synced on its own, and closes the store.
fn filled(dir: &Path, count: u64) {
    let engine = open(dir).expect("new store");
    for index in 1..=count {
        let write = ShardWrite { shard: SHARD, entries: vec![(index, entry(index))], ..Default::default() };
        engine.write(&[write], Durability::Synced).expect("write");
    }
}

/// The files of RocksDB with this extension, oldest first.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.join("rocksdb")).expect("database directory").map(|file| file.expect("file").path());
    let mut files: Vec<_> = listed.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// The newest write-ahead log that holds something.
fn wal(dir: &Path) -> PathBuf {
    files(dir, "log").into_iter().rfind(|path| fs::metadata(path).expect("log").len() > 0).expect("a log")
}

/// Where the records of a write-ahead log begin.
fn record_offsets(bytes: &[u8]) -> Vec<usize> {
    let (mut offsets, mut at) = (Vec::new(), 0);
    while at + HEADER_BYTES <= bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < HEADER_BYTES {
            at += left_in_block;
            continue;
        }
        offsets.push(at);
        at += HEADER_BYTES + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    assert_eq!(at, bytes.len(), "the log was read as RocksDB writes it");
    offsets
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("file");
    change(&mut bytes);
    fs::write(path, bytes).expect("write");
}

#[track_caller]
fn assert_damaged<T>(result: Result<T, StorageError>, words: &[&str]) {
    let Err(error) = result else { panic!("the damage was not noticed") };
    assert!(matches!(error, StorageError::Damaged(_)), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 400);
    let path = wal(dir.path());
    let intact = fs::read(&path).expect("log");
    assert!(intact.len() > 2 * BLOCK_BYTES, "the test needs damage in a block that is not the last");
    let last = *record_offsets(&intact).last().expect("records");
    // Payloads and headers at the beginning, in the middle and in the last record; bit 7 of the high byte of a length in
    // the last block makes the rest look cut off, which RocksDB by itself takes for the end.
    let places = [
        HEADER_BYTES + 20,
        intact.len() / 2,
        last,
        last + 4,
        last + 5,
        last + 6,
        last + HEADER_BYTES,
        intact.len() - 1,
    ];
    for place in places {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        change(&wal(copy.path()), |bytes| bytes[place] ^= 0x80);
        assert_damaged(open(copy.path()), &[]);
    }
    assert_eq!(open(dir.path()).expect("intact").recover(SHARD).expect("intact").entries.len(), 400);
}

/// After a power loss the mark may be behind; a bad record that others follow is damage all the same.
#[test]
fn a_bad_record_in_the_middle_is_found_without_the_marks_help() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(open(dir.path()).expect("new store"));
    let early_mark = fs::read(dir.path().join("SYNCED")).expect("mark");
    filled(dir.path(), 400);
    fs::write(dir.path().join("SYNCED"), early_mark).expect("write");
    change(&wal(dir.path()), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    assert_damaged(open(dir.path()), &["checksum"]);
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir(to.join("rocksdb")).expect("directory");
    for dir in ["", "rocksdb"] {
        for file in fs::read_dir(from.join(dir)).expect("directory").map(|file| file.expect("file").path()) {
            if file.is_file() {
                fs::copy(&file, to.join(dir).join(file.file_name().expect("name"))).expect("copy");
            }
        }
    }
}

#[test]
fn acknowledged_writes_cut_off_the_end_of_the_log_are_missed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 200);
    let whole = fs::read(wal(dir.path())).expect("log").len();
    let last = *record_offsets(&fs::read(wal(dir.path())).expect("log")).last().expect("records");
    // To nothing, in the middle of a record, exactly between two, in a header, by one byte.
    for keep in [0, whole / 2, last, last + 3, whole - 1] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        change(&wal(copy.path()), |bytes| bytes.truncate(keep));
        assert_damaged(open(copy.path()), &["write-ahead log ends"]);
    }
}

#[test]
fn a_torn_write_that_nobody_was_told_of_is_dropped() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 10);
    let engine = open(dir.path()).expect("store");
    let write = |index| ShardWrite { shard: SHARD, entries: vec![(index, entry(index))], ..Default::default() };
    engine.write(&[write(11)], Durability::Synced).expect("write");
    engine.write(&[write(12)], Durability::Buffered).expect("write");
    drop(engine);
    change(&wal(dir.path()), |bytes| bytes.truncate(bytes.len() - 5));
    let engine = open(dir.path()).expect("a torn tail is no damage");
    assert_eq!(engine.recover(SHARD).expect("recover").entries.len(), 11);
    engine.write(&[write(12)], Durability::Synced).expect("it goes on");
    drop(engine);
    assert_eq!(open(dir.path()).expect("store").recover(SHARD).expect("recover").entries.len(), 12);
}

/// Of several logs: buffers of the log's tables are 24 to 40 MiB.
const MIB_IN_SEVERAL: u64 = 120;

/// Fills several logs: the log's tables are flushed when their buffer is full, the other column families keep the old logs.
fn several_logs(dir: &Path) {
    let engine = open(dir).expect("new store");
    let table = vec![(b"key".to_vec(), Some(b"value".to_vec()))];
    engine.write(&[ShardWrite { shard: SHARD, table, ..Default::default() }], Durability::Synced).expect("write");
    for index in 1..=MIB_IN_SEVERAL {
        let entries = vec![(index, vec![index as u8; 1 << 20])];
        engine.write(&[ShardWrite { shard: SHARD, entries, ..Default::default() }], Durability::Synced).expect("write");
    }
    drop(engine);
    assert!(files(dir, "log").len() >= 3, "the test needs several logs");
}

#[test]
fn a_missing_or_shortened_older_log_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    several_logs(dir.path());
    let damages: [fn(&Path); 3] = [
        |path| fs::remove_file(path).expect("remove"),
        |path| change(path, |bytes| bytes.truncate(bytes.len() - 1)),
        // The length of the last record: the end of the file cuts it off, and RocksDB alone would drop it.
        |path| {
            change(path, |bytes| {
                let last = *record_offsets(bytes).last().expect("records");
                bytes[last + 5] ^= 0x80;
            })
        },
    ];
    for damage in damages {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        damage(&files(copy.path(), "log")[0]);
        assert_damaged(open(copy.path()), &[]);
    }
    assert_eq!(open(dir.path()).expect("intact").recover(SHARD).expect("intact").entries.len() as u64, MIB_IN_SEVERAL);
}

#[test]
fn a_flipped_bit_in_a_table_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 400);
    drop(open(dir.path()).expect("opening moves the log into tables"));
    let tables = files(dir.path(), "sst");
    assert!(!tables.is_empty(), "the test needs a table");
    for table in tables {
        change(&table, |bytes| bytes[100] ^= 1);
    }
    assert_damaged(open(dir.path()).and_then(|engine| engine.recover(SHARD)), &[]);
}

#[test]
fn a_value_changed_behind_the_databases_back_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 3);
    let shard = |rest: &[u8]| [&5u32.to_be_bytes(), rest].concat();
    let engine = open(dir.path()).expect("store");
    let write = ShardWrite {
        shard: SHARD,
        hard_state: Some(b"hard".to_vec()),
        applied: Some(b"applied".to_vec()),
        table: vec![(b"k".to_vec(), Some(b"v".to_vec()))],
        history: vec![HistoryRecord { day: 1, name: "n".into(), token: 1, index: 1, tenure: b"t".to_vec() }],
        ..Default::default()
    };
    engine.write(&[write], Durability::Synced).expect("write");
    drop(engine);
    let history_key = shard(&[0, 0, 0, 1, b'n', 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (family, key, words) in [
        ("log", shard(&2u64.to_be_bytes()), ["shard 5", "log entry 2"]),
        ("meta", shard(&[1]), ["shard 5", "hard state"]),
        ("state", shard(&[2]), ["shard 5", "applied"]),
        ("state", shard(&[1, b'k']), ["shard 5", "lock table"]),
        ("history", history_key, ["shard 5", "token 1"]),
    ] {
        let put = |change: &dyn Fn(&mut Vec<u8>)| {
            let families = ["default", "log", "state", "history", "meta"];
            let db =
                rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path().join("rocksdb"), families).expect("db");
            let cf = db.cf_handle(family).expect("family");
            let mut value = db.get_cf(cf, &key).expect("read").expect("the key is as the test thinks");
            change(&mut value);
            db.put_cf(cf, &key, value).expect("put");
        };
        put(&|value| *value.last_mut().expect("bytes") ^= 1);
        let engine = open(dir.path()).expect("RocksDB's own checks cannot see it");
        assert_damaged(engine.recover(SHARD).and_then(|_| engine.history(SHARD, "n", 9)), &words);
        drop(engine);
        put(&|value| *value.last_mut().expect("bytes") ^= 1);
    }
    open(dir.path()).expect("store").recover(SHARD).expect("all is as it was");
}

#[test]
fn a_store_without_its_mark_is_not_trusted() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 3);
    change(&dir.path().join("SYNCED"), |bytes| bytes[0] ^= 1);
    assert_damaged(open(dir.path()), &["SYNCED"]);
    fs::remove_file(dir.path().join("SYNCED")).expect("remove");
    assert_damaged(open(dir.path()), &["SYNCED"]);
}

#[test]
fn a_mark_without_its_store_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 3);
    fs::remove_dir_all(dir.path().join("rocksdb")).expect("remove");
    assert_damaged(open(dir.path()), &["write-ahead log ends"]);
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("new store");
    let error = open(dir.path()).expect_err("in use");
    assert!(matches!(&error, StorageError::Identity(what) if what.contains("in use by another process")), "{error}");
    drop(engine);
    open(dir.path()).expect("free again");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("file"), b"").expect("write");
    assert!(matches!(open(&dir.path().join("file/below")), Err(StorageError::Io(_))));
}

//! Files of a closed store are damaged. The store must report it when it is opened or read, and
//! never continue without the bytes.
//!
//! The one exception is a record at the very end of the journal whose write was never acknowledged.

use palisade_storage::*;
use routing::ShardId;
use std::fs;
use std::path::{Path, PathBuf};

const SHARD: ShardId = ShardId(5);
/// Offset of a segment's first record, and size of a record's header.
pub const RECORDS_AT: usize = 64;
const HEADER_BYTES: usize = 16;

fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
    RocksEngine::open(dir)
}

fn entry(index: u64) -> Vec<u8> {
    format!("<entry {index:06}>").repeat(10).into_bytes()
}

/// Writes `count` entries, each with its own sync, and closes the store.
fn filled(dir: &Path, count: u64) {
    let engine = open(dir).expect("new store");
    for index in 1..=count {
        let write =
            ShardWrite { shard: SHARD, entries: vec![(index, entry(index))], ..Default::default() };
        engine.write(&[write]).expect("write");
    }
}

/// The files of RocksDB with this extension, oldest first.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.join("rocksdb"))
        .expect("database directory")
        .map(|file| file.expect("file").path());
    let mut files: Vec<_> =
        listed.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// The journal's files with their ordinals, oldest first, without those that were never begun.
fn segments(dir: &Path) -> Vec<(u64, PathBuf)> {
    let listed =
        fs::read_dir(dir.join("journal")).expect("journal").map(|file| file.expect("file").path());
    let ordinal = |path: &Path| {
        let bytes = fs::read(path).expect("segment");
        u64::from_le_bytes(bytes[16..24].try_into().expect("a header"))
    };
    let mut found: Vec<_> =
        listed.map(|path| (ordinal(&path), path)).filter(|(ordinal, _)| *ordinal > 0).collect();
    found.sort();
    found
}

/// The segment that was written to last.
pub fn journal(dir: &Path) -> PathBuf {
    segments(dir).pop().expect("a segment").1
}

/// The offset of each record of a segment, and last the end of the records.
pub fn record_offsets(bytes: &[u8]) -> Vec<usize> {
    let number_at = |at: usize| {
        bytes.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    };
    let mut number = number_at(24).expect("a header");
    let mut offsets = vec![RECORDS_AT];
    loop {
        let at = *offsets.last().expect("one");
        // The bytes from here on are from an earlier use of the file, or were never written.
        if number_at(at + 8) != Some(number) {
            return offsets;
        }
        offsets.push(at + HEADER_BYTES + number_at(at).expect("a header") as u32 as usize);
        number += 1;
    }
}

pub fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
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
fn a_flipped_bit_anywhere_in_the_journal_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 400);
    let offsets = record_offsets(&fs::read(journal(dir.path())).expect("journal"));
    let (end, last) = (offsets[offsets.len() - 1], offsets[offsets.len() - 2]);
    // The file's header, records at the beginning and in the middle, and of the last record each
    // part of its header and its body.
    let body = last + HEADER_BYTES + 20;
    for place in [
        0,
        12,
        20,
        30,
        RECORDS_AT,
        offsets[1] + 40,
        end / 2,
        last,
        last + 3,
        last + 4,
        last + 8,
        body,
        end - 20,
    ] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        change(&journal(copy.path()), |bytes| bytes[place] ^= 0x80);
        assert_damaged(open(copy.path()), &[]);
    }
    assert_eq!(
        open(dir.path()).expect("intact").recover(SHARD).expect("intact").entries.len(),
        400
    );
}

/// After a power loss the mark may be behind. A bad record with good ones after it is damage all
/// the same.
#[test]
fn a_bad_record_in_the_middle_is_found_without_the_marks_help() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(open(dir.path()).expect("new store"));
    let early_mark = fs::read(dir.path().join("SYNCED")).expect("mark");
    filled(dir.path(), 400);
    fs::write(dir.path().join("SYNCED"), early_mark).expect("write");
    let offsets = record_offsets(&fs::read(journal(dir.path())).expect("journal"));
    // In a record's length, its number and its body.
    for (nth, place) in [(3, 0), (200, 9), (300, 30), (398, 40)] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        change(&journal(copy.path()), |bytes| bytes[offsets[nth] + place] ^= 1);
        assert_damaged(open(copy.path()), &["checksum"]);
    }
}

pub fn copy_store(from: &Path, to: &Path) {
    for dir in ["", "rocksdb", "journal"] {
        fs::create_dir_all(to.join(dir)).expect("directory");
        for file in
            fs::read_dir(from.join(dir)).expect("directory").map(|file| file.expect("file").path())
        {
            if file.is_file() {
                fs::copy(&file, to.join(dir).join(file.file_name().expect("name"))).expect("copy");
            }
        }
    }
}

#[test]
fn acknowledged_writes_cut_off_the_end_of_the_journal_are_detected() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 200);
    let offsets = record_offsets(&fs::read(journal(dir.path())).expect("journal"));
    let (end, last) = (offsets[offsets.len() - 1], offsets[offsets.len() - 2]);
    // Cut to nothing, in the middle of a record, exactly between two, in a header, and by one byte
    // that was not zero.
    for keep in [0, RECORDS_AT, end / 2, last, last + 3, end - 9] {
        for zeros in [false, true] {
            let copy = tempfile::tempdir().expect("temporary directory");
            copy_store(dir.path(), copy.path());
            change(&journal(copy.path()), |bytes| match zeros {
                true => bytes[keep..].fill(0),
                false => bytes.truncate(keep),
            });
            assert_damaged(open(copy.path()), &["the journal ends"]);
        }
    }
}

#[test]
fn a_torn_write_that_was_never_acknowledged_is_dropped() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 11);
    let mark = fs::read(dir.path().join("SYNCED")).expect("mark");
    let write = |index| ShardWrite {
        shard: SHARD,
        entries: vec![(index, entry(index))],
        ..Default::default()
    };
    open(dir.path()).expect("store").write(&[write(12)]).expect("write");
    fs::write(dir.path().join("SYNCED"), mark).expect("write");
    let whole = fs::read(journal(dir.path())).expect("journal");
    let offsets = record_offsets(&whole);
    let (end, last) = (offsets[offsets.len() - 1], offsets[offsets.len() - 2]);
    // Any part of the record may have reached the disk, not only its beginning.
    for torn in [last..last + HEADER_BYTES, last + 100..end, last + 40..last + 41, last..end] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        change(&journal(copy.path()), |bytes| bytes[torn].fill(0));
        let engine = open(copy.path()).expect("a torn tail is no damage");
        assert_eq!(engine.recover(SHARD).expect("recover").entries.len(), 11);
        engine.write(&[write(12)]).expect("it goes on");
        drop(engine);
        assert_eq!(
            open(copy.path()).expect("store").recover(SHARD).expect("recover").entries.len(),
            12
        );
    }
}

/// A segment with a torn first record has no record, so the hard states that it was to repeat are
/// still where they were. This holds even when all older segments are retired, at another moment in
/// each round.
#[test]
fn a_segment_without_its_first_record_is_not_continued() {
    let open = |dir: &Path| RocksEngine::open_with_segments(dir, 1024);
    let busy = |index: u64| {
        let (entries, truncate_to) = (vec![(index, entry(index))], Some(index));
        ShardWrite { shard: SHARD, entries, truncate_to, ..Default::default() }
    };
    let mut opened = 0;
    for round in 0..24 {
        let dir = tempfile::tempdir().expect("temporary directory");
        let idle = ShardWrite {
            shard: ShardId(1),
            hard_state: Some(b"voted".to_vec()),
            ..Default::default()
        };
        let engine = open(dir.path()).expect("store");
        engine.write(&[idle]).expect("write");
        (1..=14 + round).for_each(|index| engine.write(&[busy(index)]).expect("write"));
        drop(engine);
        // Write until the newest segment has one record that is not in the mark.
        let mut index = 15 + round;
        loop {
            let mark = fs::read(dir.path().join("SYNCED")).expect("mark");
            open(dir.path()).expect("store").write(&[busy(index)]).expect("write");
            if record_offsets(&fs::read(journal(dir.path())).expect("journal")).len() == 2 {
                fs::write(dir.path().join("SYNCED"), &mark).expect("write");
                break;
            }
            index += 1;
        }
        change(&journal(dir.path()), |bytes| bytes[RECORDS_AT + 20..].fill(0));
        // If the older segments were retired since, that record was on disk. Then this is damage.
        if let Err(error) = open(dir.path()) {
            assert!(
                error.to_string().contains("segment") && error.to_string().contains("is missing"),
                "{error}"
            );
            continue;
        }
        opened += 1;
        for index in index..index + 4 {
            let engine = open(dir.path()).expect("a torn write is no damage");
            let found = engine.recover(ShardId(1)).expect("recover").hard_state;
            assert_eq!(found, Some(b"voted".to_vec()), "round {round}, at {index}");
            engine.write(&[busy(index)]).expect("write");
        }
    }
    assert!(opened > 0, "the test needs a torn record that was not known to be on disk");
}

/// Records of a file's earlier use are never read, even if they fit exactly behind its end.
#[test]
fn records_of_an_earlier_use_of_a_file_are_not_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = || RocksEngine::open_with_segments(dir.path(), 4096).expect("store");
    let mut engine = open();
    for index in 1..=500u64 {
        let truncate_to = Some(index - 1);
        let write = ShardWrite {
            shard: SHARD,
            entries: vec![(index, entry(1))],
            truncate_to,
            ..Default::default()
        };
        engine.write(&[write]).expect("write");
        if index % 7 == 0 {
            drop(engine);
            engine = open();
            assert_eq!(engine.recover(SHARD).expect("recover").entries, [(index, entry(1))]);
        }
    }
    drop(engine);
    assert!(segments(dir.path()).len() < 12, "files are used again");
}

#[test]
fn a_missing_or_damaged_older_segment_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = |dir: &Path| RocksEngine::open_with_segments(dir, 4096);
    let engine = open(dir.path()).expect("new store");
    for index in 1..=300 {
        let write =
            ShardWrite { shard: SHARD, entries: vec![(index, entry(index))], ..Default::default() };
        engine.write(&[write]).expect("write");
    }
    drop(engine);
    let names: Vec<_> = segments(dir.path())
        .into_iter()
        .map(|(_, path)| path.file_name().expect("name").to_owned())
        .collect();
    let damages: [fn(&Path); 3] = [
        |path| fs::remove_file(path).expect("remove"),
        |path| change(path, |bytes| bytes.truncate(100)),
        |path| change(path, |bytes| bytes[17] ^= 1),
    ];
    for name in &names[names.len() - 4..] {
        for damage in damages {
            let copy = tempfile::tempdir().expect("temporary directory");
            copy_store(dir.path(), copy.path());
            damage(&copy.path().join("journal").join(name));
            assert_damaged(open(copy.path()), &[]);
        }
    }
    assert_eq!(
        open(dir.path()).expect("intact").recover(SHARD).expect("intact").entries.len(),
        300
    );
}

#[test]
fn a_flipped_bit_in_a_table_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let table = (0..400u64).map(|at| (at.to_be_bytes().to_vec(), Some(entry(at)))).collect();
    let write = ShardWrite { shard: SHARD, table, ..Default::default() };
    open(dir.path()).expect("store").write(&[write]).expect("write");
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
    let shard = |rest: &[u8]| [&5u32.to_be_bytes(), rest].concat();
    let engine = RocksEngine::open_with_segments(dir.path(), 1024).expect("store");
    let write = ShardWrite {
        shard: SHARD,
        entries: (1..=3).map(|index| (index, entry(index))).collect(),
        reset: true,
        hard_state: Some(b"hard".to_vec()),
        applied: Some(b"applied".to_vec()),
        table: vec![(b"k".to_vec(), Some(b"v".to_vec()))],
        history: vec![HistoryRecord {
            day: 1,
            name: "n".into(),
            token: 1,
            index: 1,
            tenure: b"t".to_vec(),
        }],
        ..Default::default()
    };
    engine.write(&[write]).expect("write");
    // Another shard writes until the entries have been moved to the database.
    for index in 1..=100 {
        let other = ShardWrite {
            shard: ShardId(0),
            entries: vec![(index, entry(index))],
            ..Default::default()
        };
        engine.write(&[ShardWrite { truncate_to: Some(index), ..other }]).expect("write");
    }
    drop(engine);
    let history_key = shard(&[0, 0, 0, 1, b'n', 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (family, key, words) in [
        ("log", shard(&2u64.to_be_bytes()), ["shard 5", "log entry 2"]),
        ("state", shard(&[2]), ["shard 5", "applied"]),
        ("state", shard(&[1, b'k']), ["shard 5", "lock table"]),
        ("history", history_key, ["shard 5", "token 1"]),
    ] {
        let put = |change: &dyn Fn(&mut Vec<u8>)| {
            let families = ["default", "log", "state", "history", "meta"];
            let db = rocksdb::DB::open_cf(
                &rocksdb::Options::default(),
                dir.path().join("rocksdb"),
                families,
            )
            .expect("db");
            let cf = db.cf_handle(family).expect("family");
            let mut value =
                db.get_cf(cf, &key).expect("read").expect("the key is as the test thinks");
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
    let write = ShardWrite {
        shard: SHARD,
        entries: vec![(1, entry(1))],
        applied: Some(vec![1]),
        ..Default::default()
    };
    open(dir.path()).expect("store").write(&[write]).expect("write");
    for (part, words) in [("rocksdb", "write-ahead log ends"), ("journal", "the journal ends")] {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_store(dir.path(), copy.path());
        fs::remove_dir_all(copy.path().join(part)).expect("remove");
        assert_damaged(open(copy.path()), &[words]);
    }
}

/// The logs of such a store are in the database, where this version would not look for them.
#[test]
fn a_store_of_the_former_version_is_refused_as_such() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 3);
    fs::write(dir.path().join("SYNCED"), [0; 28]).expect("write");
    let error = open(dir.path()).expect_err("of another version");
    assert!(
        matches!(&error, StorageError::Identity(what) if what.contains("earlier version")),
        "{error}"
    );
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("new store");
    let error = open(dir.path()).expect_err("in use");
    assert!(
        matches!(&error, StorageError::Identity(what) if what.contains("in use by another process")),
        "{error}"
    );
    drop(engine);
    open(dir.path()).expect("free again");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("file"), b"").expect("write");
    assert!(matches!(open(&dir.path().join("file/below")), Err(StorageError::Io(_))));
}

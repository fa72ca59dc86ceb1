//! One byte of a stopped store is changed, in any of its files. The store must either report damage
//! and say what to do, or give back exactly the bytes that were written.
//!
//! In each file that RocksDB reads at start, in the log, the tables and the mark, every byte is
//! tried. In files that only people read (its own log, a copy of its options), a sample is tried.

use palisade_storage::*;
use routing::ShardId;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(5)];
const IDENTITY: Identity = Identity { fingerprint: [7; 16], node: 3 };
/// Bytes to try in a file of which only a sample is tried.
const SAMPLED: usize = 40;

/// So small that there are several segments, the journal is retired and its remaining entries are
/// moved.
const SEGMENT_BYTES: u64 = 1024;

fn open(dir: &Path) -> Result<RocksEngine, StorageError> {
    RocksEngine::open_with_segments(dir, SEGMENT_BYTES)
}

/// Everything that a node reads from its store.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    boot: u64,
    shards: Vec<Recovered>,
    history: Vec<Vec<HistoryRecord>>,
    newest: Vec<HistoryRecord>,
    node_record: Option<Vec<u8>>,
}

fn read(dir: &Path) -> Result<Contents, StorageError> {
    let engine = open(dir)?;
    let boot = engine.claim(&IDENTITY)?;
    let shards = SHARDS.map(|shard| engine.recover(shard)).into_iter().collect::<Result<_, _>>()?;
    let history =
        SHARDS.map(|shard| engine.history_since(shard, 0, None, usize::MAX).map(|(page, _)| page));
    let history = history.into_iter().collect::<Result<_, _>>()?;
    let newest = engine.history(SHARDS[1], "name", 2)?;
    Ok(Contents { boot, shards, history, newest, node_record: engine.node_record(b"peer")? })
}

/// A typical life of two shards: entries with a replaced tail, hard states, a checkpoint with
/// history, a truncated log.
fn live(engine: &RocksEngine, from: u64) {
    for index in from..from + 6 {
        let write = |shard: ShardId| ShardWrite {
            shard,
            entries: vec![(index, format!("entry {index} of shard {shard}").into_bytes())],
            hard_state: Some(format!("hard state {index}").into_bytes()),
            ..ShardWrite::default()
        };
        engine.write(&SHARDS.map(write)).expect("append");
    }
    let last = from + 5;
    let checkpoint = |shard: ShardId| ShardWrite {
        shard,
        delete_after: Some(last - 1),
        entries: vec![(last, b"of a new leader".to_vec())],
        truncate_to: Some(from + 1),
        applied: Some(format!("applied {last}").into_bytes()),
        table: vec![
            (b"lock".to_vec(), Some(format!("held {last}").into_bytes())),
            (vec![last as u8], Some(b"x".to_vec())),
        ],
        history: (from..last)
            .map(|index| HistoryRecord {
                day: 1,
                name: "name".into(),
                token: index,
                index,
                tenure: vec![index as u8; 9],
            })
            .collect(),
        ..ShardWrite::default()
    };
    engine.write(&SHARDS.map(checkpoint)).expect("checkpoint");
}

/// Ends tenures in a store of the latest format: they come in rows, and after a start with their
/// names.
fn end_in_rows(dir: &Path) {
    for index in [2, 3] {
        let engine = open(dir).expect("open");
        engine.claim(&IDENTITY).expect("claim");
        engine.raise_format(*FORMATS.end()).expect("raise");
        let record = |token: u64| HistoryRecord {
            day: 2,
            name: "name".into(),
            token,
            index,
            tenure: vec![index as u8; 9],
        };
        let history = vec![record(20 * index), record(20 * index + 1)];
        let write = ShardWrite { shard: SHARDS[1], history, ..ShardWrite::default() };
        engine.write(&[write]).expect("write");
    }
}

/// A store that was stopped, then used, and then killed. The first part is in tables, the second in
/// the journal and in RocksDB's log.
fn killed(dir: &Path) {
    let before = tempfile::tempdir().expect("temporary directory");
    for from in [1, 7] {
        let engine = open(before.path()).expect("open");
        engine.claim(&IDENTITY).expect("claim");
        engine
            .put_node_records(&[(b"peer".to_vec(), from.to_string().into_bytes())])
            .expect("node record");
        live(&engine, from);
        if from == 7 {
            copy(before.path(), dir); // the disk as it is while the engine runs
        } else {
            drop(engine);
            end_in_rows(before.path());
        }
    }
}

/// Number of bytes at the front of a file that are data. The rest of a segment is still zero.
fn used(name: &str, bytes: &[u8]) -> usize {
    match name.ends_with(".journal") {
        true => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        false => bytes.len(),
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["", "rocksdb", "journal"]
        .into_iter()
        .flat_map(|sub| fs::read_dir(dir.join(sub)).expect("directory"))
        .map(|file| file.expect("file").path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for below in ["rocksdb", "journal"] {
        fs::create_dir_all(to.join(below)).expect("directory");
    }
    for file in files(from) {
        fs::copy(&file, to.join(file.strip_prefix(from).expect("below"))).expect("copy");
    }
}

fn name(file: &Path) -> String {
    file.file_name().expect("name").to_string_lossy().into_owned()
}

/// Whether to try all bits of all bytes of all data files, instead of a share that takes seconds.
fn everything() -> bool {
    std::env::var_os("PALISADE_EVERY_BYTE").is_some()
}

/// Changes every `step`th byte of one file, one at a time, to `changed` of it. Returns the offsets
/// where that was harmless.
///
/// # Panics
/// If a change led to anything but the same contents, or an error that says what to do.
fn change_each(
    dir: &Path,
    file: &Path,
    step: usize,
    changed: impl Fn(usize, u8) -> u8,
) -> Vec<usize> {
    let intact = {
        let scratch = tempfile::tempdir().expect("temporary directory");
        copy(dir, scratch.path());
        read(scratch.path()).expect("intact")
    };
    let name = name(file);
    let bytes = fs::read(file).expect("file");
    let (mut found, mut harmless) = (0, Vec::new());
    for place in (0..used(&name, &bytes)).step_by(step) {
        let scratch = tempfile::tempdir().expect("temporary directory");
        copy(dir, scratch.path());
        let mut damaged = bytes.clone();
        damaged[place] = changed(place, bytes[place]);
        assert_ne!(damaged, bytes);
        fs::write(scratch.path().join(file.strip_prefix(dir).expect("below")), damaged)
            .expect("write");
        match read(scratch.path()) {
            Ok(contents) => {
                assert_eq!(
                    contents, intact,
                    "{name}, byte {place}: other contents, and no word of it"
                );
                harmless.push(place);
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("re-seed"), "{name}, byte {place}: {message}");
                assert!(
                    message.contains("palisade node --help"),
                    "{name}, byte {place}: {message}"
                );
                found += 1;
            }
        }
    }
    println!("{name}: {} bytes, {found} found, {} harmless", bytes.len(), harmless.len());
    harmless
}

/// Whether a file is of a kind in which no change of a byte may go unnoticed.
fn holds_data(name: &str) -> bool {
    [".journal", ".log", ".sst"].iter().any(|extension| name.ends_with(extension))
        || ["SYNCED", "CURRENT"].contains(&name)
        || name.starts_with("MANIFEST-")
}

#[test]
fn a_changed_byte_is_found_or_harmless() {
    let dir = tempfile::tempdir().expect("temporary directory");
    killed(dir.path());
    let mut kinds = BTreeSet::new();
    for file in files(dir.path()) {
        let (name, bytes) = (name(&file), fs::metadata(&file).expect("file").len() as usize);
        let step = match holds_data(&name) {
            // Tables are checked block by block, so a share of their bytes is enough to meet every
            // block.
            true if name.ends_with(".sst") && !everything() => 7,
            true => 1,
            false => bytes.div_ceil(SAMPLED).max(1),
        };
        // A high bit makes a length long, a low bit makes it slightly wrong. Each place gets
        // another bit, or all bits.
        for turn in 0..if everything() { 8 } else { 1 } {
            let harmless = change_each(dir.path(), &file, step, |place, byte| {
                byte ^ 1 << ((place + turn) % 8)
            });
            if holds_data(&name) {
                assert_eq!(harmless, [0; 0], "{name}: changes here were missed");
                kinds.insert(name.trim_matches(|c: char| c.is_ascii_digit()).to_owned());
            }
        }
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [".journal", ".log", ".sst", "CURRENT", "MANIFEST-", "SYNCED"]
    );
}

/// Regression: RocksDB's reader never returned from a record whose type was changed to one of
/// recycled files.
#[test]
fn a_changed_record_type_does_not_hang() {
    let dir = tempfile::tempdir().expect("temporary directory");
    killed(dir.path());
    for file in files(dir.path()) {
        if name(&file).starts_with("MANIFEST-") {
            let harmless = change_each(dir.path(), &file, 1, |_, byte| byte ^ 1 << 2);
            assert_eq!(harmless, [0; 0], "changes here were missed");
        }
    }
}

/// A shortened file is found as well, whether it was cut in the middle of a record or between two.
#[test]
fn a_shortened_file_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    killed(dir.path());
    for file in files(dir.path()) {
        let bytes = fs::read(&file).expect("file");
        let bytes = &bytes[..used(&name(&file), &bytes)];
        let step = if name(&file).ends_with(".sst") { 97 } else { 5 };
        let cuts = (0..bytes.len()).step_by(step).chain(bytes.len().checked_sub(1));
        for keep in cuts.filter(|_| holds_data(&name(&file))) {
            let scratch = tempfile::tempdir().expect("temporary directory");
            copy(dir.path(), scratch.path());
            let place = scratch.path().join(file.strip_prefix(dir.path()).expect("below"));
            fs::write(place, &bytes[..keep]).expect("write");
            let missed =
                |_| panic!("{}, cut at {keep} of {}: it was missed", name(&file), bytes.len());
            let error = read(scratch.path()).map_or_else(|error| error.to_string(), missed);
            assert!(
                error.contains("palisade node --help"),
                "{}, cut at {keep}: {error}",
                name(&file)
            );
        }
    }
}

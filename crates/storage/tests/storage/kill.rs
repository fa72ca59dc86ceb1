//! Writing processes are killed, or their writes fail. Every acknowledged write must be there
//! afterwards.
//!
//! The writer is this test program itself, started again with [`DIR`] set. Its one case then writes
//! until it is stopped.

use palisade_storage::*;
use routing::ShardId;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells the child where to write.
const DIR: &str = "PALISADE_TEST_WRITE_TO";
const SHARDS: u32 = 3;
const WRITES_MAX: u64 = 1_000_000;

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number"))
}

/// The child's nth write: one entry per shard, one record, and now and then a truncation of the
/// log.
fn writes(number: u64) -> Vec<ShardWrite> {
    let write = |shard| ShardWrite {
        shard: ShardId(shard),
        entries: vec![(number, payload(shard, number))],
        truncate_to: number.is_multiple_of(64).then(|| number - 32),
        hard_state: Some(number.to_le_bytes().to_vec()),
        table: vec![(vec![0], Some(number.to_le_bytes().to_vec()))],
        ..Default::default()
    };
    (0..SHARDS).map(write).collect()
}

/// Up to 100 KiB. That is more than RocksDB hands to the file at once, so that a kill can fall
/// between the parts.
fn payload(shard: u32, number: u64) -> Vec<u8> {
    let size_bytes = if number.is_multiple_of(7) { 100_000 } else { (number % 900) as usize + 12 };
    let mut bytes = vec![number as u8; size_bytes];
    bytes[..4].copy_from_slice(&shard.to_le_bytes());
    bytes[4..12].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of the last write that each shard has. Everything up to it must be there as it was
/// written.
fn check(engine: &RocksEngine) -> u64 {
    let last = (0..SHARDS).map(|shard| {
        let found = engine.recover(ShardId(shard)).expect("recover");
        for (index, bytes) in &found.entries {
            assert!(
                *bytes == payload(shard, *index),
                "shard {shard}, entry {index} has other bytes than were written"
            );
        }
        let last = found.entries.last().map_or(0, |(index, _)| *index);
        let expected = (last > 0).then(|| last.to_le_bytes().to_vec());
        assert_eq!(
            found.hard_state, expected,
            "shard {shard}: entries and hard state are of one write"
        );
        let table = found.table.first().map_or(0, |(_, value)| number(value));
        assert!(
            table <= last,
            "shard {shard}: the table is of write {table}, the log ends at {last}"
        );
        let first = found.entries.first().map_or(last + 1, |(index, _)| *index);
        assert!(
            first <= table + 1,
            "shard {shard}: the log begins at {first}, after the table of write {table}"
        );
        last
    });
    let last: Vec<u64> = last.collect();
    assert!(
        last.iter().all(|number| *number == last[0]),
        "a write is in all its shards or in none: {last:?}"
    );
    last[0]
}

#[test]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let engine = RocksEngine::open(Path::new(&dir)).expect("open");
    let mut out = std::io::stdout();
    let mut say = |line: String| {
        writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent listens")
    };
    for number in check(&engine) + 1..WRITES_MAX {
        match engine.write(&writes(number)) {
            Ok(()) => say(format!("\nwritten {number}")),
            Err(error) => {
                say(format!("\nfailed {error}"));
                match engine.write(&writes(number)) {
                    Ok(()) => say("\nnot refused".into()),
                    Err(error) => say(format!("\nrefused {error}")),
                }
                return;
            }
        }
    }
}

fn spawn(dir: &Path, mut command: Command) -> Child {
    command.args(["--exact", "kill::writer", "--nocapture"]).env(DIR, dir);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the writer starts")
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("this test program has a path")
}

#[test]
fn no_acknowledged_write_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut acknowledged = 0;
    for round in 0..12u64 {
        let mut child = spawn(dir.path(), Command::new(this_program()));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Each round kills after another number of writes, the first round during the first ones.
        let kill_after = 1 + round * round * 5;
        let mut heard = 0;
        for line in lines {
            let line = line.expect("a line");
            let Some(number) = line.strip_prefix("written ") else { continue };
            acknowledged = number.parse().expect("a number");
            heard += 1;
            if heard == kill_after {
                // Later lines in the pipe were acknowledged too, so reading continues.
                child.kill().expect("kill");
            }
        }
        child.wait().expect("wait");
        assert!(
            heard >= kill_after,
            "round {round}: the writer stopped by itself after {heard} writes"
        );
        if round % 2 == 0 {
            let engine = RocksEngine::open(dir.path()).expect("a killed writer leaves no damage");
            let found = check(&engine);
            assert!(
                found >= acknowledged,
                "round {round}: {acknowledged} was acknowledged, and the last found is {found}"
            );
        }
    }
}

/// A limit on the size of files makes the disk refuse in the middle of a write.
#[test]
fn after_a_failed_write_all_are_refused_and_none_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(RocksEngine::open(dir.path()).expect("a file for the journal is made before the limit"));
    // The journal may not grow beyond this. The limit is in blocks of 512 bytes or of 1 KiB.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 2000; exec "$0" "$@""#]).arg(this_program());
    let mut child = spawn(dir.path(), command);
    let (mut acknowledged, mut failed, mut refused) = (0, false, 0);
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.expect("a line");
        assert_ne!(line, "not refused");
        if let Some(number) = line.strip_prefix("written ") {
            assert!(!failed);
            acknowledged = number.parse().expect("a number");
        }
        failed |= line.starts_with("failed storage failed");
        refused +=
            u32::from(line.starts_with("refused ") && line.contains("an earlier write failed"));
    }
    child.wait().expect("wait");
    assert!(
        failed && refused == 1 && acknowledged > 0,
        "{acknowledged} written, failed: {failed}, refused: {refused}"
    );
    let engine =
        RocksEngine::open(dir.path()).expect("the part that was not acknowledged is dropped");
    assert!(check(&engine) >= acknowledged);
}

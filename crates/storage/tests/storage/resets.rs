//! Resets and lives: a snapshot replaces a shard, and replicas of another one begin and end, while
//! other shards are written and the process dies at any moment.
//!
//! The writer is this test program itself, started again with [`DIR`] set. Its one case then writes
//! until it is killed.

use palisade_storage::*;
use routing::ShardId;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Tells the child where to write.
const DIR: &str = "PALISADE_TEST_RESET_IN";
/// This shard is reset again and again, generation by generation.
const RESET: ShardId = ShardId(0);
/// This shard is written all the time.
const BUSY: ShardId = ShardId(1);
/// Replicas of this shard begin and end, birth by birth.
const MOVING: ShardId = ShardId(2);
/// So small that segments change many times, and are retired, while a snapshot is flushed.
const SEGMENT_BYTES: u64 = 16 << 10;
/// Log entries that follow each snapshot.
const FOLLOWING: u64 = 3;

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open_with_segments(dir, SEGMENT_BYTES).expect("opens")
}

/// The bytes that tell the generation, in all parts of a write.
fn generation(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("a number"))
}

fn snapshot(number: u64) -> ShardWrite {
    let record =
        |key: u64| (key.to_be_bytes().to_vec(), Some([generation(number), vec![7; 900]].concat()));
    ShardWrite {
        shard: RESET,
        reset: true,
        hard_state: Some(generation(number)),
        applied: Some(generation(number)),
        table: (0..40 + number % 7).map(record).collect(),
        ..Default::default()
    }
}

/// The log after the snapshot of this generation. Its first entry follows the snapshot.
fn following(number: u64, nth: u64) -> ShardWrite {
    ShardWrite {
        shard: RESET,
        entries: vec![(100 * number + nth, generation(number))],
        hard_state: Some(generation(number)),
        ..Default::default()
    }
}

fn busy(number: u64) -> ShardWrite {
    ShardWrite {
        shard: BUSY,
        entries: vec![(number, [generation(number), vec![9; 500]].concat())],
        hard_state: Some(generation(number)),
        truncate_to: number.is_multiple_of(16).then(|| number - 8),
        ..Default::default()
    }
}

/// The writes of a life: some log, a checkpoint that covers its beginning, and history.
fn life(birth: u32) -> Vec<ShardWrite> {
    let of = generation(birth.into());
    let log = |index| ShardWrite {
        shard: MOVING,
        entries: vec![(index, [of.clone(), vec![8; 300]].concat())],
        hard_state: Some(of.clone()),
        ..Default::default()
    };
    let record =
        HistoryRecord { name: "name".into(), index: 1, tenure: of.clone(), ..Default::default() };
    let checkpoint = ShardWrite {
        shard: MOVING,
        truncate_to: Some(u64::from(birth % 3)),
        applied: Some(of.clone()),
        table: (0..birth as u8 % 9).map(|key| (vec![key], Some(of.clone()))).collect(),
        history: vec![record],
        ..Default::default()
    };
    (1..=3).map(log).chain([checkpoint]).chain((4..=6).map(log)).collect()
}

/// The birth of the last life that was destroyed, and of the one that is hosted. All that the shard
/// has is of the latter.
fn check_lives(engine: &RocksEngine) -> (u32, Option<u32>) {
    let Lives { hosted, destroyed } = engine.lives().get(&MOVING).copied().unwrap_or_default();
    let found = engine.recover(MOVING).expect("recovers");
    let (history, _) = engine.history_since(MOVING, 0, None, 10).expect("a page");
    let all = found.entries.iter().map(|(_, bytes)| bytes);
    let all = all.chain(&found.hard_state).chain(&found.applied);
    let all = all.chain(found.table.iter().map(|(_, value)| value));
    for bytes in all.chain(history.iter().map(|record| &record.tenure)) {
        assert_eq!(Some(number(bytes)), hosted.map(u64::from), "bytes of another life");
    }
    assert_eq!(found.hard_state.is_some(), !found.entries.is_empty(), "the log is of one piece");
    (destroyed.unwrap_or(0), hosted)
}

/// The generation of the shard that is reset, and the last entry of the busy one.
fn check(engine: &RocksEngine) -> (u64, u64) {
    let found = engine.recover(RESET).expect("recovers");
    let of = found.applied.as_deref().map_or(0, number);
    assert_eq!(
        found.hard_state.as_deref().map_or(0, number),
        of,
        "the hard state is of another generation than the table"
    );
    assert_eq!(
        found.table.len() as u64,
        if of == 0 { 0 } else { 40 + of % 7 },
        "a record of another generation"
    );
    for (key, value) in &found.table {
        assert_eq!(number(value), of, "the table's record {key:?}");
    }
    for (at, (index, bytes)) in found.entries.iter().enumerate() {
        assert_eq!(
            (*index, number(bytes)),
            (100 * of + 1 + at as u64, of),
            "the log does not follow its snapshot"
        );
    }
    let busy = engine.recover(BUSY).expect("recovers");
    (of, busy.entries.last().map_or(0, |(index, _)| *index))
}

#[test]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let engine = Arc::new(open(Path::new(&dir)));
    let (reset, last) = check(&engine);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{line}").and_then(|()| out.flush()).expect("the parent listens");
    };
    let resets = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            for number in reset + 1.. {
                engine.write(&[snapshot(number)]).expect("resets");
                say(format!("reset {number}"));
                (1..=FOLLOWING)
                    .for_each(|nth| engine.write(&[following(number, nth)]).expect("writes"));
            }
        })
    };
    let lives = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            let (destroyed, hosted) = check_lives(&engine);
            let last = hosted.unwrap_or(destroyed);
            engine.drop_shard(MOVING, last).expect("the life ends that the crash has left");
            for birth in last + 1.. {
                engine.host_shard(MOVING, birth).expect("a life begins");
                for write in life(birth) {
                    engine.write(&[write]).expect("writes");
                }
                engine.drop_shard(MOVING, birth).expect("a life ends");
                say(format!("ended {birth}"));
            }
        })
    };
    for number in last + 1.. {
        engine.write(&[busy(number)]).expect("writes");
        say(format!("busy {number}"));
    }
    resets.join().expect("the thread of resets");
    lives.join().expect("the thread of lives");
}

fn spawn(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test program has a path"));
    command.args(["--exact", "resets::writer", "--nocapture"]).env(DIR, dir);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the writer starts")
}

#[test]
fn resets_and_lives_are_whole_whenever_the_process_dies() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut reset, mut last, mut ended) = (0, 0, 0);
    for round in 0..20u64 {
        let mut child = spawn(dir.path());
        let mut heard = 0;
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("a line");
            let told = |what: &str| {
                line.strip_prefix(what).map(|number| number.parse::<u64>().expect("a number"))
            };
            reset = told("reset ").unwrap_or(reset);
            last = told("busy ").unwrap_or(last);
            ended = told("ended ").unwrap_or(ended);
            heard += u64::from(told("busy ").is_some());
            if heard == 5 + round * 7 {
                child.kill().expect("kill"); // later lines in the pipe were acknowledged, too
            }
        }
        child.wait().expect("wait");
        let engine = open(dir.path());
        let (destroyed, _) = check_lives(&engine);
        assert!(u64::from(destroyed) >= ended, "round {round}: {ended} ended, {destroyed} found");
        let (found, busy) = check(&engine);
        assert!(
            found >= reset && busy >= last,
            "round {round}: {reset} and {last} acknowledged, {found} and {busy} found"
        );
    }
    assert!(reset > 0, "no reset was acknowledged in all rounds");
    assert!(ended > 0, "no life's end was acknowledged in all rounds");
}

/// Resets, other writes, and both in one call, without a crash in between.
#[test]
fn resets_and_other_writes_of_one_call_happen_in_their_order() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path());
    let writes = [
        busy(1),
        snapshot(1),
        following(1, 1),
        busy(2),
        snapshot(2),
        snapshot(3),
        following(3, 1),
        busy(3),
    ];
    engine.write(&writes).expect("writes");
    assert_eq!(check(&engine), (3, 3));
    drop(engine);
    assert_eq!(check(&open(dir.path())), (3, 3));
}

/// Regression: while a large snapshot blocked other writes, the disk was thought to hang.
#[test]
fn a_reset_reports_that_it_is_loading() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path());
    assert!(!engine.is_loading());
    let record = |key: u64| (key.to_be_bytes().to_vec(), Some(vec![7; 300]));
    let large = ShardWrite {
        shard: RESET,
        reset: true,
        table: (0..40_000).map(record).collect(),
        ..Default::default()
    };
    let is_seen = (0..50).any(|_| {
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| engine.write(std::slice::from_ref(&large)).expect("resets"));
            let mut seen = false;
            while !reset.is_finished() && !seen {
                seen = engine.is_loading();
                std::thread::yield_now();
            }
            seen
        })
    });
    assert!(is_seen, "no reset of {} records was seen on its way", large.table.len());
    assert!(!engine.is_loading());
}

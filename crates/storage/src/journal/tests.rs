//! The journal by itself, with crashes at moments that are hard to meet from outside.

use super::*;
use std::path::Path;

/// So small that a segment has only a few records.
const SEGMENT_BYTES: u64 = 4 << 10;
const RESET: ShardId = ShardId(0);
const BUSY: ShardId = ShardId(1);

fn open(dir: &Path, oldest: u64) -> Journal {
    let known = Known { oldest, ..Known::default() };
    Journal::open(dir, SEGMENT_BYTES, &known, |_, _| Ok(())).expect("opens")
}

/// The busy shard writes until the journal has this many segments, and then truncates its log.
fn fill(journal: &mut Journal, segments: usize) {
    let mut last = 0;
    while journal.segments.len() < segments {
        last = journal.last() + 1;
        let write = ShardWrite {
            shard: BUSY,
            entries: vec![(last, vec![9; 900])],
            ..ShardWrite::default()
        };
        journal.append(&[&write]).expect("appends");
    }
    journal.truncate(BUSY, last);
}

/// Retires every segment that it can. Returns the ordinal of the oldest one that counts then.
fn retire(journal: &mut Journal) -> u64 {
    while journal.retire(0).expect("retires").is_some() {}
    journal.oldest
}

/// Regression: a restart found the shard's vote forgotten. The vote was only in an old segment,
/// because segments that began during a reset lack it, and a crash took the reset back. That old
/// segment was retired.
#[test]
fn a_segment_with_the_only_copy_of_a_hard_state_is_not_retired() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let dir = &dir.path().join("journal");
    let mut journal = open(dir, 0);
    let vote = ShardWrite { shard: RESET, hard_state: Some(vec![7]), ..ShardWrite::default() };
    fill(&mut journal, 3);
    journal.append(&[&vote]).expect("appends");
    journal.begin_reset(RESET);
    fill(&mut journal, 12);
    drop(journal); // the process dies, and the database has nothing of the reset

    let mut journal = open(dir, 0);
    journal.truncate(BUSY, u64::MAX);
    assert_eq!(journal.hard_state(RESET), Some(&[7][..]));
    let oldest = retire(&mut journal);
    assert_eq!(oldest, 3, "the segments before the one with the vote are not needed");
    assert!(!journal.is_long(), "the keeper has nothing to do for now");
    drop(journal);

    let mut journal = open(dir, oldest);
    assert_eq!(journal.hard_state(RESET), Some(&[7][..]), "the vote is forgotten");
    let segments = journal.segments.len();
    fill(&mut journal, segments + 1);
    journal.truncate(BUSY, u64::MAX);
    let oldest = retire(&mut journal);
    assert_eq!(journal.segments.len(), 1, "the new segment repeats the vote");
    drop(journal);
    assert_eq!(open(dir, oldest).hard_state(RESET), Some(&[7][..]));
}

//! The journal by itself, with the crashes that need a certain moment.

use super::*;

/// So small that a segment has a few records.
const SEGMENT_BYTES: u64 = 4 << 10;
const RESET: ShardId = ShardId(0);
const BUSY: ShardId = ShardId(1);

fn open(dir: &Path, oldest: u64) -> Journal {
    let known = Known { oldest, ..Known::default() };
    Journal::open(dir, SEGMENT_BYTES, &known, |_, _| Ok(())).expect("opens")
}

/// The busy shard writes until so many segments are there, and then lets go of its log.
fn fill(journal: &mut Journal, segments: usize) {
    let mut last = 0;
    while journal.segments.len() < segments {
        last = journal.last() + 1;
        let write = ShardWrite { shard: BUSY, entries: vec![(last, vec![9; 900])], ..ShardWrite::default() };
        journal.append(&[&write]).expect("appends");
    }
    journal.truncate(BUSY, last);
}

/// Retires all that it can. From which segment on the journal counts then.
fn retire(journal: &mut Journal) -> u64 {
    while journal.retire(0).expect("retires").is_some() {}
    journal.oldest
}

/// While a shard was reset, segments were begun without its former hard state. After a crash in that moment the former one
/// counts, and it stood in an old segment only: that was retired, and a restart found the shard's vote forgotten.
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

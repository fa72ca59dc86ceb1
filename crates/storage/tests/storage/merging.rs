//! The log writer merges writes of one shard into one call. The result must equal that of one call
//! each.

use palisade_storage::{Engine, MemoryEngine, RocksEngine, ShardWrite};
use proptest::prelude::*;
use routing::ShardId;

const SHARD: ShardId = ShardId(1);

/// A replica's next write to its log, in any state of the log.
#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    /// Replaces this many of the last entries by this many of a new leader.
    Replace(u64, u64),
    /// Truncates a part of the log.
    Truncate(u64),
    /// A snapshot this far ahead, and this many entries after it.
    Reset(u64, u64),
    Table(u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5u64).prop_map(Step::Append),
        3 => (1..6u64, 1..6u64).prop_map(|(back, count)| Step::Replace(back, count)),
        2 => (0..6u64).prop_map(Step::Truncate),
        1 => (1..9u64, 0..3u64).prop_map(|(ahead, count)| Step::Reset(ahead, count)),
        2 => (0..4u8, any::<Option<u8>>()).prop_map(|(key, value)| Step::Table(key, value)),
    ]
}

/// The writes of these steps. The log is `first..next`.
fn writes(steps: &[Step]) -> Vec<ShardWrite> {
    let (mut first, mut next) = (1u64, 1u64);
    let entries = |from: u64, count: u64, nth: usize| {
        (from..from + count).map(|i| (i, vec![nth as u8, i as u8])).collect()
    };
    let write = |(nth, step): (usize, &Step)| {
        let mut write =
            ShardWrite { shard: SHARD, hard_state: Some(vec![nth as u8]), ..Default::default() };
        match *step {
            Step::Append(count) => {
                write.entries = entries(next, count, nth);
                next += count;
            }
            Step::Replace(back, count) => {
                let from = next.saturating_sub(back).max(first);
                write.entries = entries(from, count, nth);
                write.delete_after = (from + count < next).then_some(from + count - 1);
                next = from + count;
            }
            Step::Truncate(count) => {
                first = (first + count).min(next);
                write.truncate_to = Some(first - 1);
            }
            Step::Reset(ahead, count) => {
                (first, next) = (next + ahead, next + ahead + count);
                write.reset = true;
                write.entries = entries(first, count, nth);
                write.applied = Some(vec![nth as u8]);
                write.table = vec![(vec![9], Some(vec![nth as u8]))];
            }
            Step::Table(key, value) => {
                write.table = vec![(vec![key], value.map(|value| vec![value]))]
            }
        }
        write
    };
    steps.iter().enumerate().map(write).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn merged_writes_come_to_the_same_as_single_ones(steps in prop::collection::vec(step(), 1..40), at_once in 1..12usize) {
        let dir = tempfile::tempdir().unwrap();
        let (single, merged) = (MemoryEngine::new(), RocksEngine::open_with_segments(dir.path(), 512).unwrap());
        for chunk in writes(&steps).chunks(at_once) {
            for write in chunk {
                single.write(std::slice::from_ref(write)).unwrap();
            }
            merged.write(chunk).unwrap();
            prop_assert_eq!(merged.recover(SHARD).unwrap(), single.recover(SHARD).unwrap());
        }
        drop(merged);
        let reopened = RocksEngine::open_with_segments(dir.path(), 512).unwrap();
        prop_assert_eq!(reopened.recover(SHARD).unwrap(), single.recover(SHARD).unwrap());
    }
}

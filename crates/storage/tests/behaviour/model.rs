//! Random writes, compared with a model of plain lists and maps.

use crate::store::*;
use palisade_storage::*;
use proptest::prelude::*;
use routing::ShardId;
use std::collections::BTreeMap;

/// One random step, with small numbers so that steps collide.
#[derive(Clone, Debug)]
enum Step {
    Append { shard: u32, count: u64 },
    Replace { shard: u32, back: u64, count: u64 },
    Truncate { shard: u32, keep: u64 },
    Table { shard: u32, key: u8, value: Option<u8> },
    Reset { shard: u32, first: u64 },
    Both { key: u8 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let shard = 0..3u32;
    prop_oneof![
        4 => (shard.clone(), 1..4u64).prop_map(|(shard, count)| Step::Append { shard, count }),
        2 => (shard.clone(), 1..5u64, 0..4u64).prop_map(|(shard, back, count)| Step::Replace { shard, back, count }),
        2 => (shard.clone(), 0..4u64).prop_map(|(shard, keep)| Step::Truncate { shard, keep }),
        4 => (shard.clone(), 0..6u8, any::<Option<u8>>()).prop_map(|(shard, key, value)| Step::Table { shard, key, value }),
        1 => (shard, 1..50u64).prop_map(|(shard, first)| Step::Reset { shard, first }),
        1 => (0..6u8).prop_map(|key| Step::Both { key }),
        1 => Just(Step::Reopen),
    ]
}

/// The first index of the log, the log as a plain list, and the table as a plain map.
type ModelShard = (u64, Vec<Vec<u8>>, BTreeMap<Vec<u8>, Vec<u8>>);

/// Compares the engine with a plain model.
pub fn random_writes_match_a_model<S: Store>() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        let mut store = S::new();
        let mut model: BTreeMap<u32, ModelShard> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let bytes = |at: u64| format!("{number}/{at}").into_bytes();
            match step {
                Step::Append { shard, count } => {
                    let (first, log, _) = model.entry(shard).or_insert((1, vec![], BTreeMap::new()));
                    let next = *first + log.len() as u64;
                    let entries: Vec<_> = (next..next + count).map(|index| (index, bytes(index))).collect();
                    log.extend(entries.iter().map(|(_, bytes)| bytes.clone()));
                    write(&store, ShardWrite { shard: ShardId(shard), entries, ..Default::default() });
                }
                Step::Replace { shard, back, count } => {
                    let (first, log, _) = model.entry(shard).or_insert((1, vec![], BTreeMap::new()));
                    log.truncate(log.len().saturating_sub(back as usize));
                    let next = *first + log.len() as u64;
                    let entries: Vec<_> = (next..next + count).map(|index| (index, bytes(index))).collect();
                    log.extend(entries.iter().map(|(_, bytes)| bytes.clone()));
                    let delete_after = Some(next + count - 1);
                    write(&store, ShardWrite { shard: ShardId(shard), entries, delete_after, ..Default::default() });
                }
                Step::Truncate { shard, keep } => {
                    let (first, log, _) = model.entry(shard).or_insert((1, vec![], BTreeMap::new()));
                    let dropped = log.len().saturating_sub(keep as usize);
                    log.drain(..dropped);
                    *first += dropped as u64;
                    write(&store, ShardWrite { shard: ShardId(shard), truncate_to: Some(*first - 1), ..Default::default() });
                }
                Step::Table { shard, key, value } => {
                    let (_, _, table) = model.entry(shard).or_insert((1, vec![], BTreeMap::new()));
                    match value {
                        Some(value) => table.insert(vec![key], vec![value]),
                        None => table.remove(&vec![key]),
                    };
                    let records = vec![(vec![key], value.map(|value| vec![value]))];
                    write(&store, ShardWrite { shard: ShardId(shard), table: records, ..Default::default() });
                }
                Step::Reset { shard, first } => {
                    model.insert(shard, (first, vec![], BTreeMap::new()));
                    write(&store, ShardWrite { shard: ShardId(shard), reset: true, ..Default::default() });
                }
                Step::Both { key } => {
                    let writes = [0, 2].map(|shard| {
                        let (_, _, table) = model.entry(shard).or_insert((1, vec![], BTreeMap::new()));
                        table.insert(vec![key], bytes(0));
                        ShardWrite { shard: ShardId(shard), table: vec![(vec![key], Some(bytes(0)))], ..Default::default() }
                    });
                    store.engine().write(&writes).expect("write");
                }
                Step::Reopen => store.reopen(),
            }
        }
        for (shard, (first, log, table)) in model {
            let found = recover(&store, ShardId(shard));
            let expected: Vec<_> = (first..).zip(log).collect();
            prop_assert_eq!(found.entries, expected);
            prop_assert_eq!(found.table, table.into_iter().collect::<Vec<_>>());
        }
    });
}

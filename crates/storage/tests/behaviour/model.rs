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
    NewLife { shard: u32, first: u64 },
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let shard = 0..3u32;
    prop_oneof![
        4 => (shard.clone(), 1..4u64).prop_map(|(shard, count)| Step::Append { shard, count }),
        2 => (shard.clone(), 1..5u64, 0..4u64).prop_map(|(shard, back, count)| Step::Replace { shard, back, count }),
        2 => (shard.clone(), 0..4u64).prop_map(|(shard, keep)| Step::Truncate { shard, keep }),
        4 => (shard.clone(), 0..6u8, any::<Option<u8>>()).prop_map(|(shard, key, value)| Step::Table { shard, key, value }),
        1 => (shard.clone(), 1..50u64).prop_map(|(shard, first)| Step::Reset { shard, first }),
        1 => (0..6u8).prop_map(|key| Step::Both { key }),
        1 => (shard, 1..50u64).prop_map(|(shard, first)| Step::NewLife { shard, first }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// One shard as plain lists and maps.
///
/// - `log` has the entries from `first` on, and those before it that a crash may bring back.
/// - `tables` are the states that a crash may leave. The last one is the present state.
#[derive(Clone, Debug)]
struct ModelShard {
    first: u64,
    log: BTreeMap<u64, Vec<u8>>,
    tables: Vec<Table>,
    birth: u32,
}

impl ModelShard {
    fn new(first: u64, birth: u32) -> ModelShard {
        ModelShard { first, log: BTreeMap::new(), tables: vec![Table::new()], birth }
    }

    /// The index after the last entry.
    fn next(&self) -> u64 {
        self.log.last_key_value().map_or(self.first, |(last, _)| self.first.max(last + 1))
    }

    fn change_table(&mut self, change: impl FnOnce(&mut Table)) {
        let mut table = self.tables.last().expect("the present state").clone();
        change(&mut table);
        self.tables.push(table);
    }

    /// Takes over from where a crash has left the engine, if it is a legal place.
    fn check_after_crash(&mut self, found: &Recovered) -> Result<(), TestCaseError> {
        let first = found.entries.first().map_or(self.next(), |(index, _)| *index);
        prop_assert!(first <= self.first, "a crash has truncated the log up to {}", first);
        self.log = self.log.split_off(&first);
        self.first = first;
        let table: Table = found.table.iter().cloned().collect();
        prop_assert!(self.tables.contains(&table), "the table was never like this: {:?}", table);
        self.tables = vec![table];
        self.check(found)
    }

    fn check(&self, found: &Recovered) -> Result<(), TestCaseError> {
        let expected: Vec<_> =
            self.log.range(self.first..).map(|(index, bytes)| (*index, bytes.clone())).collect();
        prop_assert_eq!(&found.entries, &expected);
        let table = self.tables.last().expect("the present state").clone();
        prop_assert_eq!(&found.table, &table.into_iter().collect::<Vec<_>>());
        Ok(())
    }
}

/// Compares the engine with a plain model, with lives that end and crashes in between.
pub fn random_writes_match_a_model<S: Store>() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        let mut store = S::new();
        let mut model = vec![ModelShard::new(1, 1); 3];
        for shard in 0..3 {
            store.engine().host_shard(ShardId(shard), 1).expect("the first life begins");
        }
        for (number, step) in steps.into_iter().enumerate() {
            let bytes = |at: u64| format!("{number}/{at}").into_bytes();
            match step {
                Step::Append { shard, count } => {
                    let of = &mut model[shard as usize];
                    let next = of.next();
                    let entries: Vec<_> = (next..next + count).map(|index| (index, bytes(index))).collect();
                    of.log.extend(entries.clone());
                    write(&store, ShardWrite { shard: ShardId(shard), entries, ..Default::default() });
                }
                Step::Replace { shard, back, count } => {
                    let of = &mut model[shard as usize];
                    let next = of.next().saturating_sub(back).max(of.first);
                    let entries: Vec<_> = (next..next + count).map(|index| (index, bytes(index))).collect();
                    of.log.split_off(&next);
                    of.log.extend(entries.clone());
                    let delete_after = Some(next + count - 1);
                    write(&store, ShardWrite { shard: ShardId(shard), entries, delete_after, ..Default::default() });
                }
                Step::Truncate { shard, keep } => {
                    let of = &mut model[shard as usize];
                    of.first = of.next().saturating_sub(keep).max(of.first);
                    let truncate_to = Some(of.first - 1);
                    write(&store, ShardWrite { shard: ShardId(shard), truncate_to, ..Default::default() });
                }
                Step::Table { shard, key, value } => {
                    model[shard as usize].change_table(|table| {
                        match value {
                            Some(value) => table.insert(vec![key], vec![value]),
                            None => table.remove(&vec![key]),
                        };
                    });
                    let table = vec![(vec![key], value.map(|value| vec![value]))];
                    write(&store, ShardWrite { shard: ShardId(shard), table, ..Default::default() });
                }
                Step::Reset { shard, first } => {
                    let of = &mut model[shard as usize];
                    *of = ModelShard::new(first, of.birth);
                    write(&store, ShardWrite { shard: ShardId(shard), reset: true, ..Default::default() });
                }
                Step::Both { key } => {
                    let writes = [0, 2u32].map(|shard| {
                        model[shard as usize].change_table(|table| {
                            table.insert(vec![key], bytes(0));
                        });
                        ShardWrite { shard: ShardId(shard), table: vec![(vec![key], Some(bytes(0)))], ..Default::default() }
                    });
                    store.engine().write(&writes).expect("write");
                }
                Step::NewLife { shard, first } => {
                    let of = &mut model[shard as usize];
                    store.engine().drop_shard(ShardId(shard), of.birth).expect("a life ends");
                    prop_assert!(store.engine().host_shard(ShardId(shard), of.birth).is_err());
                    *of = ModelShard::new(first, of.birth + 1);
                    store.engine().host_shard(ShardId(shard), of.birth).expect("a life begins");
                }
                Step::Reopen => {
                    store.reopen();
                    for of in &mut model {
                        of.log = of.log.split_off(&of.first);
                        of.tables.drain(..of.tables.len() - 1);
                    }
                }
                Step::Crash => {
                    store.crash();
                    for (shard, of) in (0..).zip(&mut model) {
                        of.check_after_crash(&recover(&store, ShardId(shard)))?;
                    }
                }
            }
        }
        for (shard, of) in (0..).zip(model) {
            let lives = store.engine().lives()[&ShardId(shard)];
            prop_assert_eq!(lives, Lives { hosted: Some(of.birth), destroyed: (of.birth > 1).then(|| of.birth - 1) });
            of.check(&recover(&store, ShardId(shard)))?;
        }
    });
}

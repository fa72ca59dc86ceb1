//! The promises of every engine, as one suite: the same cases run on RocksDB and in memory.
//!
//! A case gets a [`Store`]: an engine that can be closed and opened again. The cases know nothing
//! of how bytes are kept.

use palisade_storage::*;
use proptest::prelude::*;
use routing::ShardId;
use std::collections::BTreeMap;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// An engine and the place where it keeps its bytes.
trait Store {
    fn new() -> Self;
    fn engine(&self) -> &dyn Engine;
    /// Closes the engine and opens it again.
    fn reopen(&mut self);
}

struct Memory(MemoryEngine);

impl Store for Memory {
    fn new() -> Self {
        Memory(MemoryEngine::new())
    }
    fn engine(&self) -> &dyn Engine {
        &self.0
    }
    fn reopen(&mut self) {
        self.0.flush();
        self.0.crash();
    }
}

struct Rocks {
    engine: Option<RocksEngine>,
    dir: tempfile::TempDir,
}

impl Store for Rocks {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        // So small that logs outlive their segments.
        Rocks {
            engine: Some(RocksEngine::open_with_segments(dir.path(), 2048).expect("a new store")),
            dir,
        }
    }
    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref().expect("open")
    }
    fn reopen(&mut self) {
        self.engine = None;
        self.engine =
            Some(RocksEngine::open_with_segments(self.dir.path(), 2048).expect("the same store"));
    }
}

macro_rules! suite {
    ($($case:ident)*) => {
        mod rocks { $(#[test] fn $case() { super::$case::<super::Rocks>() })* }
        mod memory { $(#[test] fn $case() { super::$case::<super::Memory>() })* }
    };
}

suite! {
    an_unknown_shard_is_empty
    everything_written_is_recovered
    a_write_replaces_and_deletes
    a_replaced_tail_is_gone
    truncation_drops_up_to_and_including
    a_reset_wipes_all_but_history
    a_reset_and_its_replacement_come_in_one_write
    shards_do_not_touch_each_other
    the_last_write_of_a_shard_in_one_call_wins
    what_was_written_is_read_at_once
    a_log_outlives_its_segments
    a_tail_that_outlived_its_segment_is_replaced
    a_gap_in_the_log_is_damage
    an_empty_write_is_fine
    history_is_newest_first_by_token
    history_of_similar_names_is_apart
    history_pages_resume
    history_pages_stay_in_their_shard
    old_days_are_dropped
    boots_count_up
    the_nodes_own_records_stay
    a_stranger_is_refused
    random_writes_match_a_model
}

fn entries(range: std::ops::RangeInclusive<u64>, what: &str) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| (index, format!("{what} {index}").into_bytes())).collect()
}

fn write(store: &impl Store, write: ShardWrite) {
    store.engine().write(&[write]).expect("write");
}

/// Recovers a shard. Its table, read alone, must be the same.
fn recover(store: &impl Store, shard: ShardId) -> Recovered {
    let found = store.engine().recover(shard).expect("recover");
    let Recovered { applied, table, .. } = found.clone();
    let alone = store.engine().table(shard).expect("the table");
    assert_eq!(alone, Recovered { applied, table, ..Recovered::default() });
    found
}

fn tenure(day: u32, name: &str, token: u64, index: u64) -> HistoryRecord {
    HistoryRecord {
        day,
        name: name.into(),
        token,
        index,
        tenure: format!("{name} {token}").into_bytes(),
    }
}

fn history(store: &impl Store, name: &str, limit: usize) -> Vec<u64> {
    store
        .engine()
        .history(A, name, limit)
        .expect("history")
        .iter()
        .map(|record| record.token)
        .collect()
}

fn an_unknown_shard_is_empty<S: Store>() {
    let store = S::new();
    write(&store, ShardWrite { shard: B, entries: entries(1..=1, "b"), ..Default::default() });
    assert_eq!(recover(&store, A), Recovered::default());
    assert_eq!(history(&store, "x", 10), [0; 0]);
    assert_eq!(store.engine().history_since(A, 0, None, 10).expect("page"), (vec![], None));
}

fn everything_written_is_recovered<S: Store>() {
    let mut store = S::new();
    let record = tenure(20_000, "name", 7, 3);
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: vec![(1, b"one".to_vec()), (2, vec![]), (3, vec![0; 200_000])],
            hard_state: Some(b"hard".to_vec()),
            applied: Some(b"applied".to_vec()),
            table: vec![
                (b"k2".to_vec(), Some(b"v2".to_vec())),
                (vec![], Some(vec![])),
                (vec![255], Some(vec![1])),
            ],
            history: vec![record.clone()],
            ..Default::default()
        },
    );
    let expected = Recovered {
        entries: vec![(1, b"one".to_vec()), (2, vec![]), (3, vec![0; 200_000])],
        hard_state: Some(b"hard".to_vec()),
        applied: Some(b"applied".to_vec()),
        table: vec![(vec![], vec![]), (b"k2".to_vec(), b"v2".to_vec()), (vec![255], vec![1])],
    };
    for _ in 0..3 {
        assert_eq!(recover(&store, A), expected);
        assert_eq!(
            store.engine().history(A, "name", 1).expect("history"),
            std::slice::from_ref(&record)
        );
        store.reopen();
    }
}

fn a_write_replaces_and_deletes<S: Store>() {
    let mut store = S::new();
    let set = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
    write(
        &store,
        ShardWrite {
            shard: A,
            hard_state: Some(vec![1]),
            table: vec![set(b"a", b"1"), set(b"b", b"1")],
            ..Default::default()
        },
    );
    let second = vec![set(b"b", b"2"), (b"a".to_vec(), None), (b"never".to_vec(), None)];
    write(
        &store,
        ShardWrite { shard: A, hard_state: Some(vec![2]), table: second, ..Default::default() },
    );
    store.reopen();
    let found = recover(&store, A);
    assert_eq!(found.table, [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(found.hard_state, Some(vec![2]));
}

fn a_replaced_tail_is_gone<S: Store>() {
    let mut store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=9, "old"), ..Default::default() });
    // There are two ways to name the tail: after the last new entry, and after the last one kept.
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(6..=7, "new"),
            delete_after: Some(7),
            ..Default::default()
        },
    );
    let mut expected = entries(1..=5, "old");
    expected.extend(entries(6..=7, "new"));
    assert_eq!(recover(&store, A).entries, expected);
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(4..=4, "newer"),
            delete_after: Some(3),
            ..Default::default()
        },
    );
    store.reopen();
    let mut expected = entries(1..=3, "old");
    expected.extend(entries(4..=4, "newer"));
    assert_eq!(recover(&store, A).entries, expected);
    write(&store, ShardWrite { shard: A, delete_after: Some(0), ..Default::default() });
    assert_eq!(recover(&store, A).entries, []);
    // No entry is after the highest possible index.
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(1..=2, "x"),
            delete_after: Some(u64::MAX),
            ..Default::default()
        },
    );
    assert_eq!(recover(&store, A).entries.len(), 2);
}

fn truncation_drops_up_to_and_including<S: Store>() {
    let mut store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=9, "e"), ..Default::default() });
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(10..=11, "e"),
            truncate_to: Some(4),
            ..Default::default()
        },
    );
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(5..=11, "e"));
    write(&store, ShardWrite { shard: A, truncate_to: Some(11), ..Default::default() });
    assert_eq!(recover(&store, A).entries, []);
    // Later entries follow it. An entry that its own write truncates does not come back.
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(12..=14, "e"),
            truncate_to: Some(12),
            ..Default::default()
        },
    );
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(13..=14, "e"));
    write(&store, ShardWrite { shard: A, truncate_to: Some(u64::MAX), ..Default::default() });
    assert_eq!(recover(&store, A).entries, []);
}

fn full_write(shard: ShardId, what: &str) -> ShardWrite {
    ShardWrite {
        shard,
        entries: entries(1..=3, what),
        hard_state: Some(what.into()),
        applied: Some(what.into()),
        table: vec![(b"key".to_vec(), Some(what.into()))],
        history: vec![tenure(1, what, 1, 1)],
        ..Default::default()
    }
}

fn a_reset_wipes_all_but_history<S: Store>() {
    let mut store = S::new();
    write(&store, full_write(A, "a"));
    write(&store, full_write(B, "b"));
    let other = recover(&store, B);
    write(&store, ShardWrite { shard: A, reset: true, ..Default::default() });
    store.reopen();
    assert_eq!(recover(&store, A), Recovered::default());
    assert_eq!(history(&store, "a", 10), [1]);
    assert_eq!(recover(&store, B), other);
}

fn a_reset_and_its_replacement_come_in_one_write<S: Store>() {
    let mut store = S::new();
    write(&store, full_write(A, "old"));
    let table = vec![(b"other".to_vec(), Some(b"new".to_vec()))];
    let snapshot = ShardWrite {
        reset: true,
        entries: entries(50..=51, "new"),
        table: table.clone(),
        ..full_write(A, "new")
    };
    write(&store, snapshot);
    store.reopen();
    let found = recover(&store, A);
    assert_eq!(found.entries, entries(50..=51, "new"));
    assert_eq!((found.hard_state, found.applied), (Some(b"new".to_vec()), Some(b"new".to_vec())));
    assert_eq!(found.table, [(b"other".to_vec(), b"new".to_vec())]);
}

fn shards_do_not_touch_each_other<S: Store>() {
    let mut store = S::new();
    // Neighbours on both sides, and the highest possible shard.
    let shards = [0, 1, 2, 255, 256, u32::MAX - 1].map(ShardId);
    let writes: Vec<_> =
        shards.iter().map(|shard| full_write(*shard, &format!("of {shard}"))).collect();
    store.engine().write(&writes).expect("write");
    for wiped in shards {
        let gone = ShardWrite {
            shard: wiped,
            reset: true,
            delete_after: Some(0),
            truncate_to: Some(u64::MAX),
            ..Default::default()
        };
        write(&store, gone);
        store.engine().drop_history_before(wiped, u32::MAX).expect("drop");
        for shard in shards.into_iter().filter(|shard| *shard > wiped) {
            let found = recover(&store, shard);
            assert_eq!(
                found.entries,
                entries(1..=3, &format!("of {shard}")),
                "shard {shard} after shard {wiped} was wiped"
            );
            assert_eq!(found.table.len(), 1);
            assert_eq!(
                store.engine().history(shard, &format!("of {shard}"), 9).expect("history").len(),
                1
            );
        }
    }
    store.reopen();
    assert!(shards.iter().all(|shard| recover(&store, *shard) == Recovered::default()));
}

fn the_last_write_of_a_shard_in_one_call_wins<S: Store>() {
    let store = S::new();
    let first = ShardWrite { shard: A, entries: entries(1..=5, "first"), ..Default::default() };
    let second = ShardWrite {
        shard: A,
        entries: entries(2..=2, "second"),
        delete_after: Some(2),
        ..Default::default()
    };
    store.engine().write(&[first, second]).expect("write");
    assert_eq!(recover(&store, A).entries, [(1, b"first 1".to_vec()), (2, b"second 2".to_vec())]);
}

fn what_was_written_is_read_at_once<S: Store>() {
    let mut store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=3, "a"), ..Default::default() });
    write(&store, ShardWrite { shard: A, truncate_to: Some(1), ..Default::default() });
    assert_eq!(recover(&store, A).entries, entries(2..=3, "a"));
    write(&store, ShardWrite { shard: B, entries: entries(1..=1, "b"), ..Default::default() });
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(2..=3, "a"));
}

fn a_gap_in_the_log_is_damage<S: Store>() {
    let store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=3, "a"), ..Default::default() });
    write(&store, ShardWrite { shard: A, entries: entries(5..=6, "a"), ..Default::default() });
    let error = store.engine().recover(A).expect_err("a gap");
    assert!(
        matches!(&error, StorageError::Damaged(what) if what.contains("shard 0") && what.contains("entry 5")),
        "{error}"
    );
}

fn an_empty_write_is_fine<S: Store>() {
    let mut store = S::new();
    store.engine().write(&[]).expect("nothing");
    store
        .engine()
        .write(&[ShardWrite { shard: A, entries: entries(1..=1, "a"), ..Default::default() }])
        .expect("write");
    store
        .engine()
        .write(&[ShardWrite { shard: B, ..Default::default() }])
        .expect("nothing of a shard");
    store.reopen();
    assert_eq!(recover(&store, A).entries.len(), 1);
}

/// One shard is idle while another writes for long. The idle shard's log is kept, and both hard
/// states.
fn a_log_outlives_its_segments<S: Store>() {
    let mut store = S::new();
    let idle = ShardWrite { hard_state: Some(b"idle".to_vec()), ..full_write(A, "idle") };
    write(&store, idle);
    for round in 0..3u64 {
        for index in round * 400 + 1..=round * 400 + 400 {
            let hard_state = Some(index.to_le_bytes().to_vec());
            let truncate_to = (index % 50 == 0).then(|| index - 10);
            let entries = entries(index..=index, "busy");
            write(
                &store,
                ShardWrite { shard: B, entries, hard_state, truncate_to, ..Default::default() },
            );
        }
        store.reopen();
        let found = recover(&store, A);
        assert_eq!(found.entries, entries(1..=3, "idle"));
        assert_eq!(found.hard_state, Some(b"idle".to_vec()));
        let last = round * 400 + 400;
        assert_eq!(recover(&store, B).entries, entries(last - 9..=last, "busy"));
        assert_eq!(recover(&store, B).hard_state, Some(last.to_le_bytes().to_vec()));
    }
}

/// A new leader's entries replace old ones that were moved to the database, and a truncation
/// reaches those as well.
fn a_tail_that_outlived_its_segment_is_replaced<S: Store>() {
    let mut store = S::new();
    let go_on = |store: &S, from: u64| {
        for index in from..from + 400 {
            write(
                store,
                ShardWrite {
                    shard: B,
                    entries: entries(index..=index, "b"),
                    truncate_to: Some(index),
                    ..Default::default()
                },
            );
        }
    };
    write(&store, ShardWrite { shard: A, entries: entries(1..=9, "old"), ..Default::default() });
    go_on(&store, 1);
    write(
        &store,
        ShardWrite {
            shard: A,
            entries: entries(6..=7, "new"),
            delete_after: Some(7),
            ..Default::default()
        },
    );
    let mut expected = entries(1..=5, "old");
    expected.extend(entries(6..=7, "new"));
    assert_eq!(recover(&store, A).entries, expected);
    store.reopen();
    assert_eq!(recover(&store, A).entries, expected);
    go_on(&store, 401);
    store.reopen();
    assert_eq!(recover(&store, A).entries, expected, "also once those are moved");
    write(&store, ShardWrite { shard: A, truncate_to: Some(6), ..Default::default() });
    assert_eq!(recover(&store, A).entries, entries(7..=7, "new"));
    write(
        &store,
        ShardWrite {
            shard: A,
            reset: true,
            entries: entries(3..=3, "after"),
            ..Default::default()
        },
    );
    go_on(&store, 801);
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(3..=3, "after"));
}

fn history_is_newest_first_by_token<S: Store>() {
    let mut store = S::new();
    // Token 9 ended long after 12 and 10, because a shared grant may outlive younger ones.
    let records = [(5, 12), (5, 10), (9, 9), (2, 3), (2, 1), (7, 8), (7, 11)];
    let history_records =
        records.iter().map(|(day, token)| tenure(*day, "n", *token, *token)).collect();
    write(&store, ShardWrite { shard: A, history: history_records, ..Default::default() });
    write(
        &store,
        ShardWrite { shard: A, history: vec![tenure(8, "other", 99, 1)], ..Default::default() },
    );
    store.reopen();
    assert_eq!(history(&store, "n", 100), [12, 11, 10, 9, 8, 3, 1]);
    for limit in 0..8 {
        assert_eq!(history(&store, "n", limit), [12, 11, 10, 9, 8, 3, 1][..limit.min(7)]);
    }
}

fn history_of_similar_names_is_apart<S: Store>() {
    let store = S::new();
    let names = ["a", "a/", "ab", "b", "ü", "a\u{7f}"];
    let records = names.iter().zip(1..).map(|(name, token)| tenure(1, name, token, 1)).collect();
    write(&store, ShardWrite { shard: A, history: records, ..Default::default() });
    for (name, token) in names.iter().zip(1..) {
        assert_eq!(history(&store, name, 10), [token], "{name:?}");
    }
    assert_eq!(history(&store, "", 10), [0; 0]);
}

fn history_pages_resume<S: Store>() {
    let store = S::new();
    let records: Vec<_> = (1..=25)
        .map(|token| tenure(token as u32 % 3, &format!("n{}", token % 4), token, 100 + token))
        .collect();
    write(&store, ShardWrite { shard: A, history: records.clone(), ..Default::default() });
    let mut expected: Vec<_> = records.into_iter().filter(|record| record.index > 110).collect();
    expected.sort_by(|a, b| (a.day, &a.name, a.token).cmp(&(b.day, &b.name, b.token)));
    for limit in [1, 2, 5, 15, 16, 100] {
        let (mut found, mut cursor, mut calls) = (Vec::new(), None, 0);
        loop {
            let (page, next) = store.engine().history_since(A, 110, cursor, limit).expect("page");
            assert!(page.len() <= limit);
            found.extend(page);
            calls += 1;
            assert!(calls < 100, "no end");
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(found, expected, "limit {limit}");
    }
}

fn history_pages_stay_in_their_shard<S: Store>() {
    let store = S::new();
    let of = |shard| ShardWrite {
        shard,
        history: vec![tenure(1, "n", 1, 1), tenure(2, "n", 2, 2)],
        ..Default::default()
    };
    store.engine().write(&[of(A), of(B)]).expect("write");
    assert_eq!(
        store.engine().history_since(B, 0, Some(vec![]), 10).expect("page").0.len(),
        2,
        "a cursor below the shard"
    );
    assert_eq!(
        store.engine().history_since(A, 0, Some(vec![255; 30]), 10).expect("page"),
        (vec![], None),
        "a cursor above it"
    );
}

fn old_days_are_dropped<S: Store>() {
    let mut store = S::new();
    let records = (1..=9).map(|day| tenure(day, "n", u64::from(day), u64::from(day))).collect();
    write(&store, ShardWrite { shard: A, history: records, ..Default::default() });
    store.engine().drop_history_before(A, 4).expect("drop");
    assert_eq!(history(&store, "n", 100), [9, 8, 7, 6, 5, 4]);
    write(
        &store,
        ShardWrite { shard: A, history: vec![tenure(9, "m", 50, 50)], ..Default::default() },
    );
    store.reopen();
    assert_eq!(history(&store, "n", 100), [9, 8, 7, 6, 5, 4]);
    assert_eq!(store.engine().history_since(A, 0, None, 100).expect("page").0.len(), 7);
    store.engine().drop_history_before(A, 0).expect("drop nothing");
    assert_eq!(history(&store, "n", 100).len(), 6);
}

fn boots_count_up<S: Store>() {
    let mut store = S::new();
    let identity = Identity { fingerprint: [7; 16], node: 3 };
    for boot in 1..=4 {
        assert_eq!(store.engine().claim(&identity).expect("own store"), boot);
        store.reopen();
    }
}

fn the_nodes_own_records_stay<S: Store>() {
    let mut store = S::new();
    assert_eq!(store.engine().node_record(b"a").expect("read"), None);
    let records = |pairs: &[(&str, &str)]| -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs
            .iter()
            .map(|(name, bytes)| (name.as_bytes().to_vec(), bytes.as_bytes().to_vec()))
            .collect()
    };
    store.engine().put_node_records(&records(&[("a", "1"), ("b", "2")])).expect("put");
    store.engine().put_node_records(&records(&[("a", "3")])).expect("put");
    write(&store, ShardWrite { shard: A, reset: true, ..Default::default() });
    store.reopen();
    for (name, expected) in [("a", Some("3")), ("b", Some("2")), ("", None), ("ab", None)] {
        let found = store.engine().node_record(name.as_bytes()).expect("read");
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{name:?}");
    }
}

fn a_stranger_is_refused<S: Store>() {
    let mut store = S::new();
    let identity = Identity { fingerprint: [7; 16], node: 3 };
    store.engine().claim(&identity).expect("claim");
    store.reopen();
    let other_node =
        store.engine().claim(&Identity { node: 4, ..identity.clone() }).expect_err("another node");
    assert!(
        matches!(&other_node, StorageError::Identity(what) if what.contains("node 3") && what.contains("--id 3")),
        "{other_node}"
    );
    let other_cluster = store
        .engine()
        .claim(&Identity { fingerprint: [8; 16], ..identity.clone() })
        .expect_err("another cluster");
    assert!(
        matches!(&other_cluster, StorageError::Identity(what) if what.contains(&"07".repeat(16))),
        "{other_cluster}"
    );
    assert_eq!(
        store.engine().claim(&identity).expect("own store"),
        2,
        "a refusal counts as no boot"
    );
}

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
fn random_writes_match_a_model<S: Store>() {
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

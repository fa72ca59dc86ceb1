//! The cases of logs, hard states and lock tables.

use crate::store::*;
use palisade_storage::*;
use routing::ShardId;

pub fn an_unknown_shard_is_empty<S: Store>() {
    let store = S::new();
    write(&store, ShardWrite { shard: B, entries: entries(1..=1, "b"), ..Default::default() });
    assert_eq!(recover(&store, A), Recovered::default());
    assert_eq!(history(&store, "x", 10), [0; 0]);
    assert_eq!(store.engine().history_since(A, 0, None, 10).expect("page"), (vec![], None));
}

pub fn everything_written_is_recovered<S: Store>() {
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

pub fn a_write_replaces_and_deletes<S: Store>() {
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

pub fn a_replaced_tail_is_gone<S: Store>() {
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

pub fn truncation_drops_up_to_and_including<S: Store>() {
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

pub fn full_write(shard: ShardId, what: &str) -> ShardWrite {
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

pub fn a_reset_wipes_all_but_history<S: Store>() {
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

pub fn a_reset_and_its_replacement_come_in_one_write<S: Store>() {
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

pub fn shards_do_not_touch_each_other<S: Store>() {
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

pub fn the_last_write_of_a_shard_in_one_call_wins<S: Store>() {
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

pub fn what_was_written_is_read_at_once<S: Store>() {
    let mut store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=3, "a"), ..Default::default() });
    write(&store, ShardWrite { shard: A, truncate_to: Some(1), ..Default::default() });
    assert_eq!(recover(&store, A).entries, entries(2..=3, "a"));
    write(&store, ShardWrite { shard: B, entries: entries(1..=1, "b"), ..Default::default() });
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(2..=3, "a"));
}

pub fn a_gap_in_the_log_is_damage<S: Store>() {
    let store = S::new();
    write(&store, ShardWrite { shard: A, entries: entries(1..=3, "a"), ..Default::default() });
    write(&store, ShardWrite { shard: A, entries: entries(5..=6, "a"), ..Default::default() });
    let error = store.engine().recover(A).expect_err("a gap");
    assert!(
        matches!(&error, StorageError::Damaged(what) if what.contains("shard 0") && what.contains("entry 5")),
        "{error}"
    );
}

pub fn an_empty_write_is_fine<S: Store>() {
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
pub fn a_log_outlives_its_segments<S: Store>() {
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
pub fn a_tail_that_outlived_its_segment_is_replaced<S: Store>() {
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

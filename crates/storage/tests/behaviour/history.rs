//! The cases of history.

use crate::store::*;
use palisade_storage::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub fn history_is_newest_first_by_token<S: Store>() {
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

pub fn history_of_similar_names_is_apart<S: Store>() {
    let store = S::new();
    let names = ["a", "a/", "ab", "b", "ü", "a\u{7f}"];
    let records = names.iter().zip(1..).map(|(name, token)| tenure(1, name, token, 1)).collect();
    write(&store, ShardWrite { shard: A, history: records, ..Default::default() });
    for (name, token) in names.iter().zip(1..) {
        assert_eq!(history(&store, name, 10), [token], "{name:?}");
    }
    assert_eq!(history(&store, "", 10), [0; 0]);
}

pub fn history_pages_resume<S: Store>() {
    let store = S::new();
    let records: Vec<_> = (1..=25)
        .map(|token| tenure(token as u32 % 3, &format!("n{}", token % 4), token, 100 + token))
        .collect();
    write(&store, ShardWrite { shard: A, history: records.clone(), ..Default::default() });
    let mut expected: Vec<_> = records.into_iter().filter(|record| record.index > 110).collect();
    expected.sort_by_key(|record| record.token);
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
        found.sort_by_key(|record| record.token);
        assert_eq!(found, expected, "limit {limit}");
    }
}

pub fn history_pages_stay_in_their_shard<S: Store>() {
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

pub fn old_days_are_dropped<S: Store>() {
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

/// Regression: a part of an entry, which a peer sent before it broke off, took the place of the row
/// with all of the entry's tenures.
pub fn a_part_of_an_entry_from_a_peer_takes_nothing_away<S: Store>() {
    let mut store = S::new();
    let of = |tokens: std::ops::RangeInclusive<u64>| tokens.map(|token| tenure(1, "n", token, 40));
    write(&store, ShardWrite { shard: A, history: of(1..=9).collect(), ..Default::default() });
    write(&store, ShardWrite { shard: A, received: of(1..=3).collect(), ..Default::default() });
    store.reopen();
    assert_eq!(history_of(&store, "n"), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let (page, _) = store.engine().history_since(A, 39, None, 100).expect("page");
    assert!((1..=9).all(|token| page.iter().any(|record| record.token == token)), "{page:?}");
}

/// Tenures come behind those that are in an index, between them, and again, also in other parts.
pub fn a_name_is_found_wherever_its_tenures_come<S: Store>() {
    let mut store = S::new();
    let mut tokens = Vec::new();
    let mut ended = |store: &mut S, day: u32, index: u64, token: u64| {
        let ended = vec![tenure(day, "n", token, index), tenure(day, "m", 1000 + token, index)];
        // What comes late comes from a peer, in parts of entries.
        let write_of = match index < 50 && token > 4 {
            true => ShardWrite { shard: A, received: ended, ..Default::default() },
            false => ShardWrite { shard: A, history: ended, ..Default::default() },
        };
        write(store, write_of);
        tokens.push(token);
        tokens.sort_unstable_by(|a, b| b.cmp(a));
        tokens.dedup();
        assert_eq!(history_of(store, "n"), tokens);
    };
    for (day, index, token) in [(1, 10, 1), (1, 20, 2), (2, 30, 3), (2, 40, 4)] {
        ended(&mut store, day, index, token);
    }
    for (day, index, token) in
        [(2, 50, 5), (1, 15, 6), (2, 40, 9), (2, 40, 4), (2, 40, 7), (1, 1, 20), (3, 60, 10)]
    {
        // After a start, the first tenures have the whole index written.
        store.reopen();
        ended(&mut store, day, index, token);
        store.reopen();
        assert_eq!(history_of(&store, "n").len(), history_of(&store, "m").len());
    }
    // Tenures of one entry, in other parts than before.
    let received = [4, 7, 9].map(|token| tenure(2, "n", token, 40)).into();
    write(&store, ShardWrite { shard: A, received, ..Default::default() });
    store.reopen();
    assert_eq!(history_of(&store, "n"), [20, 10, 9, 7, 6, 5, 4, 3, 2, 1]);
}

fn history_of(store: &impl Store, name: &str) -> Vec<u64> {
    history(store, name, 100)
}

/// One random step, with small numbers so that steps collide.
#[derive(Clone, Debug)]
enum Step {
    /// Entries on, days on, and tenures: the name, and how long before the entry its token was given.
    End {
        on: u64,
        days: u32,
        tenures: Vec<(u8, u64)>,
    },
    /// Ends all tenures of the last entries again.
    Again {
        entries: u64,
    },
    /// A peer sends tenures of the last entries, sorted by name, and breaks off after so many.
    Receive {
        entries: u64,
        records: usize,
    },
    Drop {
        days: u32,
    },
    Reopen,
    Raise,
}

fn step() -> impl Strategy<Value = Step> {
    let tenures = prop::collection::vec((0..6u8, 0..30u64), 1..12);
    prop_oneof![
        8 => (1..4u64, 0..2u32, tenures).prop_map(|(on, days, tenures)| Step::End { on, days, tenures }),
        2 => (1..20u64).prop_map(|entries| Step::Again { entries }),
        2 => (1..20u64, 1..30usize).prop_map(|(entries, records)| Step::Receive { entries, records }),
        1 => (0..3u32).prop_map(|days| Step::Drop { days }),
        4 => Just(Step::Reopen),
        1 => Just(Step::Raise),
    ]
}

/// Compares history with a plain map, through starts, and with tenures that come again.
pub fn random_history_matches_a_model<S: Store>() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..50))| {
        let mut store = S::new();
        let identity = Identity { fingerprint: [7; 16], node: 3 };
        store.engine().claim(&identity).expect("claim");
        let mut model: BTreeMap<u64, HistoryRecord> = BTreeMap::new();
        let (mut index, mut day, mut order) = (0, 5, 0);
        let put = |store: &S, history: Vec<HistoryRecord>| {
            write(store, ShardWrite { shard: A, history, ..Default::default() });
        };
        for step in steps {
            match step {
                Step::End { on, days, tenures } => {
                    (index, day) = (index + on, day + days);
                    let records: Vec<_> = tenures.into_iter().map(|(name, back)| {
                        order += 1;
                        // No two tenures have the same token.
                        let token = (100 + index).saturating_sub(back) * 1000 + order;
                        tenure(day, &format!("n{name}"), token, index)
                    }).collect();
                    model.extend(records.iter().map(|record| (record.token, record.clone())));
                    put(&store, records);
                }
                Step::Again { entries } => {
                    let mut again: Vec<_> = model.values()
                        .filter(|record| record.index + entries > index).cloned().collect();
                    again.sort_by_key(|record| record.index);
                    for entry in again.chunk_by(|a, b| a.index == b.index) {
                        put(&store, entry.to_vec());
                    }
                }
                Step::Receive { entries, records } => {
                    let mut received: Vec<_> = model.values()
                        .filter(|record| record.index + entries > index).cloned().collect();
                    received.sort_by_key(|record| (record.day, record.name.clone()));
                    received.truncate(records);
                    write(&store, ShardWrite { shard: A, received, ..Default::default() });
                }
                Step::Drop { days } => {
                    let first = day.saturating_sub(days);
                    store.engine().drop_history_before(A, first).expect("drop");
                    model.retain(|_, record| record.day >= first);
                }
                Step::Reopen => store.reopen(),
                Step::Raise => {
                    store.engine().raise_format(*FORMATS.end()).expect("raise");
                }
            }
            for name in (0..6).map(|name| format!("n{name}")) {
                let mut expected: Vec<_> =
                    model.values().rev().filter(|record| record.name == name).cloned().collect();
                let found = store.engine().history(A, &name, 100).expect("history");
                prop_assert_eq!(&found, &expected);
                expected.truncate(3);
                prop_assert_eq!(store.engine().history(A, &name, 3).expect("history"), expected);
            }
            let (after, mut found, mut cursor) = (index / 2, BTreeMap::new(), None);
            loop {
                let (page, next) =
                    store.engine().history_since(A, after, cursor, 7).expect("page");
                prop_assert!(page.len() <= 7);
                found.extend(page.into_iter().map(|record| (record.token, record)));
                if next.is_none() { break; }
                cursor = next;
            }
            let expected: BTreeMap<_, _> = model.iter().filter(|(_, record)| record.index > after)
                .map(|(token, record)| (*token, record.clone())).collect();
            prop_assert_eq!(found, expected);
        }
    });
}

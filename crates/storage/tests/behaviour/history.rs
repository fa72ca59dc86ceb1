//! The cases of history.

use crate::store::*;
use palisade_storage::*;

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

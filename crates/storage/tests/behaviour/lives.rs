//! The cases of lives: replicas that are hosted, destroyed, and hosted again.

use crate::log_and_table::full_write;
use crate::store::*;
use palisade_storage::*;
use routing::ShardId;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn host(store: &impl Store, shard: ShardId, birth: u32) {
    store.engine().host_shard(shard, birth).expect("a life begins");
}

fn drop_shard(store: &impl Store, shard: ShardId, birth: u32) {
    store.engine().drop_shard(shard, birth).expect("a life ends");
}

fn lives(store: &impl Store, shard: ShardId) -> (Option<u32>, Option<u32>) {
    let lives = store.engine().lives().get(&shard).copied().unwrap_or_default();
    (lives.hosted, lives.destroyed)
}

#[track_caller]
fn assert_gone(store: &impl Store, shard: ShardId) {
    assert_eq!(recover(store, shard), Recovered::default());
    assert_eq!(store.engine().history_since(shard, 0, None, 10).expect("page"), (vec![], None));
}

#[track_caller]
fn assert_refused(result: Result<(), StorageError>, words: &str) {
    let error = result.expect_err("a life that may not begin or end");
    assert!(
        matches!(error, StorageError::Refused(_)) && error.to_string().contains(words),
        "{error}"
    );
}

pub fn a_destroyed_replica_is_gone_for_good<S: Store>() {
    let mut store = S::new();
    host(&store, A, 7);
    write(&store, full_write(A, "a"));
    write(&store, full_write(B, "b"));
    store.reopen(); // so that the database has it on disk
    write(&store, full_write(A, "later"));
    let other = recover(&store, B);
    drop_shard(&store, A, 7);
    for _ in 0..3 {
        assert_gone(&store, A);
        assert_eq!(lives(&store, A), (None, Some(7)));
        assert_eq!(recover(&store, B), other);
        drop_shard(&store, A, 7);
        for birth in [0, 6, 7] {
            assert_refused(store.engine().host_shard(A, birth), "under a higher birth");
        }
        store.crash();
    }
    host(&store, A, 8);
    assert_gone(&store, A);
    write(&store, full_write(A, "anew"));
    store.reopen();
    assert_eq!(recover(&store, A).entries, entries(1..=3, "anew"));
    assert_eq!(lives(&store, A), (Some(8), Some(7)));
}

pub fn one_life_is_here_at_a_time<S: Store>() {
    let mut store = S::new();
    // A life that never was here never begins.
    drop_shard(&store, A, 3);
    assert_refused(store.engine().host_shard(A, 3), "birth 3 was destroyed");
    host(&store, A, 5);
    host(&store, A, 5);
    write(&store, full_write(A, "a"));
    let found = recover(&store, A);
    assert_refused(store.engine().host_shard(A, 6), "drop birth 5 first");
    assert_refused(store.engine().drop_shard(A, 6), "drop birth 5 first");
    // Orders to destroy an earlier life come late.
    drop_shard(&store, A, 3);
    drop_shard(&store, A, 4);
    store.crash();
    assert_eq!(lives(&store, A), (Some(5), Some(3)));
    assert_eq!(recover(&store, A).entries, found.entries);
    write(&store, full_write(A, "a refusal does not close the store"));
}

/// The next life has entries at the indexes of the former one, and less of them. The records of all
/// lives and of another shard take turns.
pub fn lives_in_one_segment_are_told_apart<S: Store>() {
    let mut store = S::new();
    let of = |shard, count, what: &str| ShardWrite {
        shard,
        entries: entries(1..=count, what),
        hard_state: Some(what.into()),
        ..Default::default()
    };
    for (birth, count) in [(10, 5), (20, 3), (30, 2)] {
        let life = format!("life {birth}");
        host(&store, A, birth);
        store.engine().write(&[of(A, count, &life), of(B, 2, &life)]).expect("write");
        store.crash();
        assert_eq!(recover(&store, A).entries, entries(1..=count, &life));
        assert_eq!(recover(&store, A).hard_state, Some(life.clone().into()));
        drop_shard(&store, A, birth);
        write(&store, of(B, 3, &life));
        store.crash();
        assert_gone(&store, A);
        assert_eq!(recover(&store, B).entries, entries(1..=3, &life));
        // A life may end without a record, and another may have entries and no hard state.
        host(&store, A, birth + 1);
        drop_shard(&store, A, birth + 1);
        host(&store, A, birth + 2);
        write(&store, ShardWrite { shard: A, entries: entries(4..=4, "x"), ..Default::default() });
        store.crash();
        let expected = Recovered { entries: entries(4..=4, "x"), ..Default::default() };
        assert_eq!(recover(&store, A), expected);
        drop_shard(&store, A, birth + 2);
    }
}

/// The replica's entries were moved to the database, its hard state is repeated from segment to
/// segment, and its last reset has one of its own.
pub fn a_drop_reaches_what_outlived_its_segment<S: Store>() {
    let mut store = S::new();
    let go_on = |store: &S, from: u64| {
        for index in from..from + 400 {
            let (entries, truncate_to) = (entries(index..=index, "b"), Some(index));
            write(store, ShardWrite { shard: B, entries, truncate_to, ..Default::default() });
        }
    };
    for (round, reset) in [(0, false), (1, true)] {
        let birth = round as u32 + 1;
        host(&store, A, birth);
        write(&store, ShardWrite { reset, ..full_write(A, "old") });
        go_on(&store, round * 1200 + 1);
        assert_eq!(recover(&store, A).entries, entries(1..=3, "old"));
        drop_shard(&store, A, birth);
        assert_gone(&store, A);
        go_on(&store, round * 1200 + 401);
        store.crash();
        assert_gone(&store, A);
        go_on(&store, round * 1200 + 801);
        store.reopen();
        assert_gone(&store, A);
    }
    host(&store, A, 9);
    write(&store, ShardWrite { shard: A, entries: entries(2..=2, "new"), ..Default::default() });
    store.crash();
    assert_eq!(recover(&store, A).entries, entries(2..=2, "new"));
}

pub fn data_of_before_births_belong_to_the_life_that_is_hosted<S: Store>() {
    let mut store = S::new();
    write(&store, full_write(A, "a"));
    let found = recover(&store, A);
    assert_eq!(lives(&store, A), (None, None));
    host(&store, A, 0);
    store.reopen();
    assert_eq!(recover(&store, A), found);
    drop_shard(&store, A, 0);
    assert_gone(&store, A);
    write(&store, full_write(B, "b"));
    drop_shard(&store, B, 0);
    assert_gone(&store, B);
}

/// Otherwise peers could not tell an older copy of the directory, in which the replica is alive.
pub fn a_drop_counts_as_a_record<S: Store>() {
    let mut store = S::new();
    host(&store, A, 1);
    write(&store, full_write(A, "a"));
    let before = store.engine().last_record();
    drop_shard(&store, A, 1);
    let after = store.engine().last_record();
    assert!(after > before, "{after} after {before}");
    store.crash();
    assert_eq!(store.engine().last_record(), after);
}

/// The next life would take what a destroyed replica writes late for its own.
pub fn a_write_between_two_lives_is_refused<S: Store>() {
    let store = S::new();
    host(&store, A, 1);
    drop_shard(&store, A, 1);
    for reset in [false, true] {
        let late = ShardWrite { reset, ..full_write(A, "late") };
        let written = catch_unwind(AssertUnwindSafe(|| store.engine().write(&[late])));
        assert!(written.is_err(), "reset: {reset}");
    }
    host(&store, A, 2);
    assert_gone(&store, A);
    write(&store, full_write(A, "in time"));
}

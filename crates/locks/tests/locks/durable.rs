//! Checkpoints, snapshots and the state hash.

use crate::driver::{Driver, ask};
use palisade_locks::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A table with every kind of row.
fn rich() -> Driver {
    let mut d = Driver::new();
    for id in 0..300 {
        d.hold(ask(id, "churn"));
        d.release("churn", id as u64 + 1);
        d.pass(7);
    }
    d.hold(ask(1_000, "private").owner("bob").ttl(900));
    d.renew("private", 301);
    d.hold(ask(1_001, "of session").session("s1"));
    d.heartbeat("s1");
    d.hold(ask(1_002, "semaphore").permits(2, 5).session("s1"));
    d.hold(ask(1_003, "semaphore").permits(3, 5));
    d.queue(ask(1_004, "semaphore").permits(1, 5).session("s2"));
    d.queue(ask(1_005, "private").session("s1"));
    d.hold(ask(1_006, "shared").shared());
    d.hold(ask(1_007, "shared").shared());
    d.queue(ask(1_008, "shared"));
    d.hold(ask(1_009, "gone").session("s3"));
    d.close("s3");
    d.hold(ask(1_010, "late"));
    d.expire(LeaseId(307), 0);
    d.hold(ask(1_011, "broken"));
    d.break_hold("broken", d.table.last_token().0);
    d
}

/// The same with everything that version 2 of the records added.
fn richer() -> Driver {
    let mut d = rich();
    d.hold(ask(1_100, "broken of session").session("s1"));
    d.break_hold("broken of session", d.table.last_token().0);
    d.hold(ask(1_101, "claimed"));
    d.queue(ask(1_102, "claimed").claim(700));
    d.queue(ask(1_103, "claimed").claim(800));
    d.release("claimed", d.table.last_token().0);
    d.cancel(1_104, "never seen");
    d
}

fn write(disk: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: Vec<Change>) {
    for Change { key, value } in changes {
        match value {
            Some(value) => drop(disk.insert(key, value)),
            None => drop(disk.remove(&key)),
        }
    }
}

#[test]
fn an_old_snapshot_still_loads() {
    let golden = include_bytes!("../golden/snapshot-v1.bin");
    let mut d = Driver {
        table: LockTable::restore(golden).expect("version 1 is readable for ever"),
        ..rich()
    };
    for name in ["private", "of session", "semaphore", "shared"] {
        let expected: Vec<_> =
            rich().holders(name).iter().map(|held| (held.token, held.renewals)).collect();
        let found: Vec<_> =
            d.holders(name).iter().map(|held| (held.token, held.renewals)).collect();
        assert_eq!(found, expected, "{name}");
    }
    // Renewals of version 1 have no shard time. They count as new, so that no lease ends early.
    assert!(d.table.leases().all(|live| live.renewed_ms == d.table.shard_ms()));
    assert_eq!(d.table.waiters().count(), rich().table.waiters().count());
    assert!(matches!(d.release("churn", 300), Outcome::Released { already: true }));
}

#[test]
fn the_bytes_of_a_snapshot_never_change() {
    let golden = include_bytes!("../golden/snapshot-v2.bin");
    let d = richer();
    let table = LockTable::restore(golden).expect("version 2 is readable for ever");
    assert_eq!(table.state_hash(), d.table.state_hash());
    assert_eq!(
        table.snapshot(),
        golden,
        "the bytes of version 2 changed: give them a new version instead"
    );
    assert_eq!(
        table.state_hash(),
        GOLDEN_HASH,
        "the hash of a table changed: replicas of two versions would disagree"
    );
}

const GOLDEN_HASH: u64 = 0x22aa_8b13_33b4_68ae;

#[test]
fn a_lock_that_came_and_went_costs_no_record() {
    let mut d = rich();
    d.table.checkpoint();
    d.hold(ask(2_001, "brief").session("s9"));
    d.queue(ask(2_002, "brief"));
    d.cancel(2_002, "brief");
    d.release("brief", d.table.last_token().0);
    let kinds: Vec<_> = d.table.checkpoint().iter().map(|change| change.key[0]).collect();
    assert_eq!(
        kinds,
        [1, 2, 5],
        "the header, the session, which stays, and the ended grant's block"
    );
    d.pass(REQUEST_MEMORY_MS);
    for _ in 0..200 {
        d.heartbeat("none");
    }
    let changes = d.table.checkpoint();
    assert!(
        changes.iter().all(|change| change.value.is_none() || change.key[0] == 1),
        "the rest is forgotten"
    );
}

/// Regression: `cluster status` hashed the whole table on the shard's thread. With 300,000 locks,
/// 40 of them stopped the shard's writes.
#[test]
fn the_state_hash_reads_what_changed_since_the_last_checkpoint() {
    let mut d = rich();
    for id in 0..5_000 {
        d.hold(ask(10_000 + id, &format!("n{id}")));
        d.hold(ask(20_000 + id, "brief"));
        d.release("brief", d.table.last_token().0);
    }
    assert!(d.table.state_hash_rows() > 10_000);
    d.table.checkpoint();
    let at_rest = d.table.state_hash_rows();
    assert!(at_rest < 2 * 2 * 128, "{at_rest} rows, of the last and not full block of what ended");
    d.renew("n7", d.tokens("n7")[0]);
    d.release("n8", d.tokens("n8")[0]);
    assert_eq!(d.table.state_hash_rows() - at_rest, 2, "the renewed grant, and one that ended");
    assert_eq!(d.table.state_hash(), d.table.state_hash_from_scratch());
}

#[test]
fn a_heartbeat_writes_one_record_however_much_it_keeps() {
    let mut d = Driver::new();
    for id in 0..1_000 {
        d.hold(ask(id, &format!("n{id}")).session("s"));
    }
    d.table.checkpoint();
    d.heartbeat("s");
    assert_eq!(d.table.dirty_len(), 1);
    assert_eq!(d.table.checkpoint().len(), 1);
}

#[test]
fn ended_grants_are_written_by_the_block() {
    let mut d = Driver::new();
    for id in 0..1_280 {
        d.hold(ask(id, "a"));
        d.release("a", id as u64 + 1);
    }
    assert_eq!(d.table.checkpoint().len(), 1 + 1_280 / 128);
}

#[test]
fn a_restored_table_writes_itself_whole() {
    let d = rich();
    let mut restored = LockTable::restore(&d.table.snapshot()).expect("restores");
    let mut disk = BTreeMap::new();
    let announced = restored.dirty_len();
    let changes = restored.checkpoint();
    assert_eq!(changes.len(), announced);
    write(&mut disk, changes);
    let loaded = LockTable::load(disk).expect("loads");
    assert_eq!(loaded.state_hash(), d.table.state_hash());
    assert_eq!(loaded.snapshot(), d.table.snapshot());
}

#[test]
fn records_load_in_any_order() {
    let mut d = rich();
    let records: Vec<_> = d
        .table
        .checkpoint()
        .into_iter()
        .rev()
        .map(|change| (change.key, change.value.expect("set")))
        .collect();
    assert_eq!(LockTable::load(records).expect("loads").state_hash(), d.table.state_hash());
}

#[test]
fn a_table_without_records_is_empty() {
    let table = LockTable::load([]).expect("loads");
    assert_eq!(table.state_hash(), LockTable::new().state_hash());
    assert_eq!(table.dirty_len(), 1, "its header");
}

#[test]
fn a_missing_record_is_noticed_where_another_needs_it() {
    let mut d = rich();
    let records: Vec<_> =
        d.table.checkpoint().into_iter().map(|c| (c.key, c.value.expect("set"))).collect();
    for kind in [1, 2, 5, 6] {
        let some = records.iter().filter(|(key, _)| key[0] != kind).cloned();
        assert!(LockTable::load(some).is_err(), "kind {kind}");
    }
}

#[test]
fn keys_are_short_and_begin_with_their_kind() {
    for change in rich().table.checkpoint() {
        assert!(change.key.len() <= 600 && (1..=6).contains(&change.key[0]));
    }
}

#[test]
fn every_difference_shows_in_the_hash() {
    let base = rich();
    let mut hashes = vec![base.table.state_hash()];
    let edits: [&dyn Fn(&mut Driver); 13] = [
        &|d| drop(d.renew("private", 301)),
        &|d| drop(d.heartbeat("s1")),
        &|d| drop(d.cancel(1_005, "private")),
        &|d| drop(d.release("private", 301)),
        &|d| drop(d.close("s1")),
        &|d| drop(d.close("unknown")),
        &|d| drop(d.hold(ask(2_001, "new"))),
        &|d| assert_eq!(d.queue(ask(2_001, "private")), 2),
        &|d| {
            d.pass(1);
            d.heartbeat("none");
        },
        &|d| drop(d.cancel(9_999, "never seen")),
        &|d| drop(d.break_hold("semaphore", 303)),
        &|d| assert_eq!(d.queue(ask(2_001, "private").claim(200)), 2),
        &|d| assert_eq!(d.queue(ask(2_001, "private").claim(300)), 2),
    ];
    for edit in edits {
        let mut d = rich();
        edit(&mut d);
        hashes.push(d.table.state_hash());
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 14);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_snapshots_are_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = include_bytes!("../golden/snapshot-v2.bin").to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(LockTable::restore(&bytes).is_err());
        prop_assert!(LockTable::restore(&bytes[..at]).is_err());
    }

    /// Records with damage that no checksum reveals. A table that loads from them must work.
    #[test]
    fn records_of_any_bytes_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let table = LockTable::restore(include_bytes!("../golden/snapshot-v2.bin")).expect("restores");
        let mut table = table;
        let mut records: Vec<_> = table.checkpoint().into_iter().map(|c| (c.key, c.value.expect("set"))).collect();
        for (which, at, to) in damage {
            let which = which.index(records.len());
            let (key, value) = &mut records[which];
            let at = at.index(key.len() + value.len());
            match at.checked_sub(key.len()) {
                None => key[at] = to,
                Some(at) => value[at] = to,
            }
        }
        if let Ok(table) = LockTable::load(records) {
            let mut d = Driver { table, ..Driver::new() };
            d.pass(100_000_000);
            for session in ["s1", "s2"] {
                d.heartbeat(session);
                d.close(session);
            }
            let leases: Vec<_> = d.table.leases().collect();
            for event in leases {
                d.expire(event.lease, event.renewal_seq);
            }
            for id in 0..1_000 {
                d.acquire(ask(id, "churn").wait());
            }
            let copy = LockTable::restore(&d.table.snapshot()).expect("its own bytes are good");
            prop_assert_eq!(copy.state_hash(), d.table.state_hash());
        }
    }
}

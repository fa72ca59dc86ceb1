//! Rules of acquiring.

use crate::driver::{Driver, ask};
use palisade_locks::*;

#[test]
fn a_free_lock_is_granted_with_the_next_token() {
    let mut d = Driver::new();
    let first = d.hold(ask(1, "a"));
    let second = d.hold(ask(2, "b"));
    assert_eq!((first.token, second.token, d.table.last_token()), (Token(1), Token(2), Token(2)));
    assert_eq!(
        (first.owner.as_str(), first.ttl_ms, first.acquired_wall_ms),
        ("ann", 5_000, d.at.wall_ms)
    );
    assert_eq!(first.expires_wall_ms, d.at.wall_ms + 5_000);
    assert_eq!(d.holders("a"), [first]);
    let counts = Counts { locks: 2, grants: 2, waiters: 0, sessions: 0 };
    assert_eq!(d.table.counts(), counts);
}

#[test]
fn a_private_lease_begins_with_its_grant() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a").ttl(700));
    let alive = LeaseEvent::Alive { lease: grant.lease, ttl_ms: 700, renewal_seq: 0 };
    assert_eq!(d.effects.leases, [alive]);
    assert_eq!(d.effects.leases, [alive]);
    assert_eq!(d.table.leases().map(|live| live.lease).collect::<Vec<_>>(), [grant.lease]);
}

#[test]
fn a_held_lock_is_refused_with_its_holder() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").owner("bob"));
    assert_eq!(d.acquire(ask(2, "a")), Outcome::Held { token: Token(1), owner: "bob".into() });
    assert_eq!(d.table.last_token(), Token(1), "a refusal costs no token");
}

#[test]
fn a_retry_gets_the_same_grant() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    d.pass(100);
    let again = Grant { rest_ms: grant.rest_ms - 100, ..grant };
    assert_eq!(d.acquire(ask(1, "a")), Outcome::Granted(again), "it is not renewed by that");
    assert_eq!(d.effects, Effects::default());
}

#[test]
fn a_retry_is_found_among_many_shared_holders() {
    let mut d = Driver::new();
    let grants: Vec<_> = (0..20).map(|id| d.hold(ask(id, "a").shared())).collect();
    assert_eq!(d.acquire(ask(7, "a").shared()), Outcome::Granted(grants[7].clone()));
}

#[test]
fn a_request_id_in_use_for_another_name_conflicts() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    d.hold(ask(3, "c"));
    d.release("c", 2);
    for id in [1, 2, 3] {
        assert!(matches!(d.acquire(ask(id, "b")), Outcome::Conflict(_)), "request {id}");
    }
    assert!(d.holders("b").is_empty());
}

#[test]
fn shared_holders_share_and_exclude_exclusive() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").shared());
    d.hold(ask(2, "a").shared());
    assert!(matches!(d.acquire(ask(3, "a")), Outcome::Held { token: Token(1), .. }));
    assert!(matches!(d.acquire(ask(4, "a").permits(1, 2)), Outcome::Held { .. }));
    assert_eq!(d.tokens("a"), [1, 2]);
}

#[test]
fn permits_add_up_to_their_limit() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").permits(2, 5));
    d.hold(ask(2, "a").permits(2, 5));
    assert!(matches!(d.acquire(ask(3, "a").permits(2, 5)), Outcome::Held { .. }));
    d.hold(ask(4, "a").permits(1, 5));
    d.release("a", 1);
    d.hold(ask(5, "a").permits(2, 5));
}

#[test]
fn permits_of_the_largest_numbers_do_not_overflow() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").permits(u32::MAX - 1, u32::MAX));
    assert!(matches!(d.acquire(ask(2, "a").permits(u32::MAX, u32::MAX)), Outcome::Held { .. }));
    d.hold(ask(3, "a").permits(1, u32::MAX));
}

#[test]
fn a_semaphore_of_another_limit_conflicts() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").permits(1, 3));
    assert!(matches!(d.acquire(ask(2, "a").permits(1, 4).wait()), Outcome::Conflict(_)));
    d.release("a", 1);
    d.hold(ask(3, "a").permits(1, 4));
}

#[test]
fn a_session_is_not_reentrant() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").session("s"));
    assert!(matches!(d.acquire(ask(2, "a").session("s")), Outcome::Held { token: Token(1), .. }));
    assert_eq!(d.queue(ask(3, "a").session("s")), 1);
}

#[test]
fn no_acquire_barges_past_a_queue() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").shared());
    d.queue(ask(2, "a"));
    assert!(
        matches!(d.acquire(ask(3, "a").shared()), Outcome::Held { .. }),
        "it fits, but someone waits"
    );
    assert_eq!(d.queue(ask(4, "a").shared()), 2);
}

#[test]
fn the_last_token_is_the_last() {
    let mut d = Driver::new();
    d.table = exhausted();
    assert_eq!(d.hold(ask(1, "a")).token, Token(TOKEN_MAX));
    assert!(matches!(d.acquire(ask(2, "b")), Outcome::Full(_)));
    assert_eq!(d.release("a", TOKEN_MAX), Outcome::Released { already: false });
    assert!(matches!(d.acquire(ask(3, "a").wait()), Outcome::Full(_)));
}

#[test]
fn a_waiter_is_not_granted_beyond_the_last_token() {
    let mut d = Driver::new();
    d.table = exhausted();
    // It queued while one token was left, and the holder got that token.
    let mut records = d.table.checkpoint();
    let mut queued = Driver::new();
    queued.at.shard_ms = 0;
    queued.hold(ask(1, "a"));
    queued.queue(ask(2, "a"));
    let header = records.remove(0);
    let records =
        queued.table.checkpoint().into_iter().filter(|change| change.key[0] != 1).chain([header]);
    // The waiter counter is part of the header. Set it to 1, for the one waiter.
    let records: Vec<_> = records
        .map(|change| {
            let mut value = change.value.expect("set");
            if change.key[0] == 1 {
                let token_bytes =
                    value[1..].iter().position(|byte| byte & 0x80 == 0).expect("a varint ends") + 1;
                value[1 + token_bytes] = 1;
            }
            (change.key, value)
        })
        .collect();
    d.table = LockTable::load(records).expect("loads");
    d.hold(ask(3, "b"));
    assert_eq!(d.table.last_token(), Token(TOKEN_MAX));
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    assert_eq!((d.handed(), d.table.queue_len("a")), (vec![], 1));
    assert_eq!(d.cancel(2, "a"), Outcome::Cancelled);
    assert_eq!(d.table.counts().locks, 1);
}

/// A table with one token left.
fn exhausted() -> LockTable {
    let mut header = vec![1];
    let mut token = TOKEN_MAX - 1;
    while token >= 0x80 {
        header.push(token as u8 | 0x80);
        token >>= 7;
    }
    header.push(token as u8);
    header.extend([0; 6]);
    let mut key = vec![0; 9];
    key[0] = 1;
    let mut table = LockTable::load([(key, header)]).expect("loads");
    // A restored table writes all of its records to the next checkpoint.
    table = LockTable::restore(&table.snapshot()).expect("restores");
    table
}

//! Rules of waiting.

use crate::driver::{Driver, ask};
use palisade_locks::*;

#[test]
fn waiters_are_granted_in_order_of_arrival() {
    let mut d = Driver::new();
    d.hold(ask(0, "a"));
    for id in 1..=20 {
        assert_eq!(d.queue(ask(id, "a")), id as u32);
    }
    for id in 1..=20 {
        assert_eq!(d.release("a", id as u64), Outcome::Released { already: false });
        assert_eq!(d.handed(), [id]);
        assert_eq!(d.tokens("a"), [id as u64 + 1]);
    }
    assert_eq!(d.table.queue_len("a"), 0);
}

#[test]
fn the_lock_is_handed_over_in_the_same_apply() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").owner("bob").ttl(900));
    d.pass(250);
    d.release("a", 1);
    let grant = &d.effects.granted[0];
    assert_eq!((grant.owner.as_str(), grant.token, grant.waited_ms), ("bob", Token(2), 250));
    assert_eq!((grant.acquired_wall_ms, grant.expires_wall_ms), (d.at.wall_ms, d.at.wall_ms + 900));
    assert_eq!(d.holders("a"), d.effects.granted);
    let gone = LeaseEvent::Gone { lease: LeaseId(1) };
    let alive = LeaseEvent::Alive { lease: LeaseId(2), ttl_ms: 900, renewal_seq: 0 };
    assert_eq!(d.effects.leases, [gone, alive]);
}

#[test]
fn several_shared_heads_are_granted_in_a_row() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    for id in [2, 3] {
        d.queue(ask(id, "a").shared());
    }
    d.queue(ask(4, "a"));
    d.queue(ask(5, "a").shared());
    d.release("a", 1);
    assert_eq!(d.handed(), [2, 3], "not 5, which arrived after an exclusive one");
    d.release("a", 2);
    assert_eq!(d.handed(), [0u128; 0]);
    d.release("a", 3);
    assert_eq!(d.handed(), [4]);
    d.release("a", 4);
    assert_eq!(d.handed(), [5]);
}

#[test]
fn a_head_that_asks_for_many_permits_is_not_starved() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").permits(2, 3));
    d.queue(ask(2, "a").permits(3, 3));
    d.queue(ask(3, "a").permits(1, 3));
    d.release("a", 1);
    assert_eq!(d.handed(), [2]);
    d.release("a", 2);
    assert_eq!(d.handed(), [3]);
}

#[test]
fn a_queued_retry_keeps_its_place() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    for id in [2, 3, 4] {
        d.queue(ask(id, "a"));
    }
    assert_eq!(d.queue(ask(3, "a")), 3, "a retry is not new");
    d.cancel(2, "a");
    d.release("a", 1);
    assert_eq!(d.handed(), [3]);
}

#[test]
fn a_queued_retry_that_will_not_wait_leaves_the_queue() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").shared());
    d.queue(ask(2, "a"));
    d.queue(ask(3, "a").shared());
    assert_eq!(d.acquire(ask(2, "a")), Outcome::Held { token: Token(1), owner: "ann".into() });
    assert_eq!(d.dropped(), [(2, DropReason::Cancelled)]);
    assert_eq!(d.handed(), [3], "nothing stands in its way any more");
}

#[test]
fn a_cancelled_waiter_is_not_granted() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    d.queue(ask(3, "a"));
    assert_eq!(d.cancel(2, "a"), Outcome::Cancelled);
    assert_eq!(d.dropped(), [(2, DropReason::Cancelled)]);
    d.release("a", 1);
    assert_eq!(d.handed(), [3]);
}

#[test]
fn cancelling_the_head_lets_the_next_in() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").shared());
    d.queue(ask(2, "a"));
    d.queue(ask(3, "a").shared());
    d.queue(ask(4, "a").shared());
    assert_eq!(d.cancel(2, "a"), Outcome::Cancelled);
    assert_eq!(d.handed(), [3, 4]);
}

#[test]
fn a_cancel_that_comes_after_the_grant_answers_with_it() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    d.release("a", 1);
    let grant = d.effects.granted[0].clone();
    assert_eq!(d.cancel(2, "a"), Outcome::Granted(grant));
    assert_eq!(d.cancel(2, "b"), Outcome::NotWaiting);
    d.release("a", 2);
    assert_eq!(d.cancel(2, "a"), Outcome::NotWaiting);
    assert_eq!(d.cancel(99, "a"), Outcome::NotWaiting);
}

#[test]
fn a_queue_is_bounded() {
    let mut d = Driver::new();
    d.hold(ask(0, "a"));
    for id in 1..=WAITERS_PER_NAME_MAX {
        assert_eq!(d.queue(ask(id.into(), "a")), id);
    }
    assert!(matches!(d.acquire(ask(1 << 20, "a").wait()), Outcome::Full(_)));
    assert_eq!(d.queue(ask(1, "a")), WAITERS_PER_NAME_MAX, "a retry is not new");
    d.release("a", 1);
    assert_eq!(d.queue(ask(1 << 20, "a")), WAITERS_PER_NAME_MAX);
}

#[test]
fn waiters_are_listed_longest_waiting_first() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b"));
    d.queue(ask(3, "b"));
    d.queue(ask(4, "a"));
    d.cancel(3, "b");
    d.queue(ask(5, "b"));
    let waiters: Vec<_> = d.table.waiters().collect();
    assert_eq!(waiters, [("a", RequestId(4)), ("b", RequestId(5))]);
}

#[test]
fn a_late_copy_of_a_cancelled_acquire_is_never_granted() {
    let mut d = Driver::new();
    assert_eq!(d.cancel(1, "a"), Outcome::NotWaiting, "the cancel overtook its acquire");
    assert_eq!(d.acquire(ask(1, "a")), Outcome::CancelledBefore);
    assert_eq!(d.acquire(ask(1, "a").wait()), Outcome::CancelledBefore);
    assert_eq!(
        d.acquire(ask(1, "b")),
        Outcome::Conflict(
            "the request id is in use for another name: choose a fresh one for each acquire"
        )
    );
    d.hold(ask(2, "a"));
    d.queue(ask(3, "a"));
    assert_eq!(d.cancel(3, "a"), Outcome::Cancelled);
    assert_eq!(d.cancel(3, "a"), Outcome::NotWaiting);
    d.release("a", 1);
    assert_eq!(d.acquire(ask(3, "a").wait()), Outcome::CancelledBefore);
    let mut copy = Driver {
        table: LockTable::restore(&d.table.snapshot()).expect("restores"),
        ..Driver::new()
    };
    copy.at = d.at;
    assert_eq!(copy.table.state_hash(), d.table.state_hash());
    assert_eq!(copy.acquire(ask(1, "a")), Outcome::CancelledBefore);
    d.pass(REQUEST_MEMORY_MS - 1);
    assert_eq!(d.acquire(ask(1, "a")), Outcome::CancelledBefore);
    d.pass(1);
    assert_eq!(d.hold(ask(1, "a")).token, Token(2), "it is remembered for half a minute");
}

#[test]
fn a_cancel_after_the_grant_or_its_end_changes_nothing() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    assert_eq!(d.cancel(1, "a"), Outcome::Granted(grant), "the caller holds it, and must know");
    d.release("a", 1);
    let before = d.table.state_hash();
    assert_eq!(d.cancel(1, "a"), Outcome::NotWaiting);
    assert_eq!(d.table.state_hash(), before);
    assert!(matches!(d.acquire(ask(1, "a")), Outcome::AlreadyEnded { token: Token(1), .. }));
}

#[test]
fn an_acquire_that_was_not_given_up_may_queue_again() {
    let mut d = Driver::new();
    assert_eq!(d.leave(2, "a"), Outcome::NotWaiting);
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    assert_eq!(d.leave(2, "a"), Outcome::Cancelled);
    d.queue(ask(2, "a"));
    d.release("a", 1);
    assert_eq!(d.handed(), [2]);
}

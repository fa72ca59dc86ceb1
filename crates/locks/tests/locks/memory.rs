//! Rules of the memory of ended grants and sessions, and of shard time.

use crate::driver::{Driver, ask};
use palisade_locks::*;

#[test]
fn an_ended_grant_is_forgotten_after_the_memory_window() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.release("a", 1);
    d.pass(REQUEST_MEMORY_MS - 1);
    assert_eq!(d.release("a", 1), Outcome::Released { already: true });
    assert!(matches!(d.acquire(ask(1, "a")), Outcome::AlreadyEnded { .. }));
    d.pass(1);
    assert_eq!(d.release("a", 1), Outcome::NotOwner { current: Token(0) });
    assert_eq!(d.hold(ask(1, "a")).token, Token(2), "its request id is free again");
}

#[test]
fn an_ended_session_is_forgotten_after_the_memory_window() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").session("s"));
    d.close("s");
    d.pass(REQUEST_MEMORY_MS - 1);
    assert_eq!(d.acquire(ask(2, "a").session("s")), Outcome::SessionLost);
    d.pass(1);
    d.hold(ask(3, "a").session("s"));
    d.close("s");
    assert_eq!(d.acquire(ask(4, "a").session("s")), Outcome::SessionLost, "lost a second time");
}

#[test]
fn many_that_ended_at_once_are_forgotten_on_time() {
    let mut d = Driver::new();
    for id in 0..500 {
        d.hold(ask(id, &format!("n{id}")).session("s"));
    }
    d.close("s");
    d.pass(REQUEST_MEMORY_MS);
    // More items are due than one command forgets. Those that are left must not be found.
    assert_eq!(d.release("n499", 500), Outcome::NotOwner { current: Token(0) });
    assert_eq!(d.hold(ask(499, "other")).token, Token(501));
    assert!(matches!(d.acquire(ask(499, "other")), Outcome::Granted(_)));
    d.release("other", 501);
    for _ in 0..200 {
        d.heartbeat("none");
    }
    assert!(matches!(
        d.acquire(ask(499, "other")),
        Outcome::AlreadyEnded { token: Token(501), .. }
    ));
}

#[test]
fn shard_time_never_goes_back() {
    let mut d = Driver::new();
    d.at.shard_ms = 100_000;
    d.hold(ask(1, "a"));
    d.at.shard_ms = 50;
    d.queue(ask(2, "a"));
    assert_eq!(d.table.shard_ms(), 100_000);
    d.release("a", 1);
    assert_eq!(d.effects.granted[0].waited_ms, 0);
    d.at.shard_ms = 100_000 + REQUEST_MEMORY_MS - 1;
    assert_eq!(
        d.release("a", 1),
        Outcome::Released { already: true },
        "it ended at 100 s, not at 50 ms"
    );
}

#[test]
fn wall_time_decides_nothing() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.at.wall_ms = 0;
    d.release("a", 1);
    d.at.wall_ms = u64::MAX;
    assert_eq!(d.release("a", 1), Outcome::Released { already: true });
    assert_eq!(d.hold(ask(2, "a")).expires_wall_ms, u64::MAX);
}

#[test]
fn memory_is_bounded_and_the_oldest_is_forgotten_first() {
    let mut d = Driver::new();
    let over = 1_000;
    for id in 0..(REQUEST_MEMORY_MAX + over) as u128 {
        d.hold(ask(id, "a"));
        d.release("a", id as u64 + 1);
    }
    let first_kept = over as u64 + 1;
    assert_eq!(d.release("a", first_kept - 1), Outcome::NotOwner { current: Token(0) });
    assert_eq!(d.release("a", first_kept), Outcome::Released { already: true });
    let copy = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

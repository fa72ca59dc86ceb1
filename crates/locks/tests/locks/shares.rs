//! Rules of the share that one identity has of what is remembered.

use crate::driver::{Driver, ask};
use palisade_locks::*;

/// More than a shard remembers.
const FLOOD: u64 = REQUEST_MEMORY_MAX as u64 + 1_000;
const SHARE: u64 = REQUEST_MEMORY_SHARE as u64;

/// Ann has released "a" (token 1), given up request 2 for "b", and closed a session that never began.
fn ann_has_left() -> Driver {
    let mut d = Driver::new();
    d.by("ann").hold(ask(1, "a"));
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    assert_eq!(d.cancel(2, "b"), Outcome::NotWaiting);
    assert_eq!(d.close("s"), Outcome::Closed { released: 0 });
    d
}

/// The answers to late copies of all that.
fn expect_anns_memory(d: &mut Driver) {
    d.by("ann");
    assert_eq!(d.release("a", 1), Outcome::Released { already: true });
    let again = Outcome::AlreadyEnded { token: Token(1), end: EndKind::Released };
    assert_eq!(d.acquire(ask(1, "a")), again);
    assert_eq!(d.acquire(ask(2, "b")), Outcome::CancelledBefore);
    assert_eq!(d.acquire(ask(3, "c").session("s")), Outcome::SessionLost);
}

fn give_up(id: u64) -> Command<'static> {
    Command::CancelWait { name: "x", request_id: RequestId(id.into()), given_up: true }
}

fn is_full(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Full(_))
}

/// Regression: one identity that gave up requests which it had never made pushed out what others
/// needed.
#[test]
fn one_identity_cannot_fill_what_is_remembered_with_requests_that_it_gives_up() {
    let mut d = ann_has_left();
    d.by("mallory");
    let refused = (0..FLOOD).filter(|id| is_full(&d.apply(give_up(1_000 + id)))).count() as u64;
    expect_anns_memory(&mut d);
    assert_eq!(refused, FLOOD - SHARE);

    // A leader refuses it too, but neither what leaves no tombstone nor the same of others.
    let fresh = give_up(1);
    assert!(d.by("mallory").over_quota(fresh.clone()).is_some_and(|refusal| is_full(&refusal)));
    let known = give_up(1_000);
    assert_eq!(d.over_quota(known.clone()), None);
    assert_eq!(d.apply(known), Outcome::NotWaiting);
    let held = d.hold(ask(50, "m"));
    assert_eq!(d.cancel(50, "m"), Outcome::Granted(held.clone()));
    assert_eq!(d.release("m", held.token.0), Outcome::Released { already: false });
    assert_eq!(d.release("m", held.token.0), Outcome::Released { already: true });
    assert_eq!(d.leave(51, "m"), Outcome::NotWaiting);
    for other in ["bob", ""] {
        assert_eq!(d.by(other).over_quota(give_up(2)), None);
        assert_eq!(d.apply(give_up(2)), Outcome::NotWaiting);
    }

    // The share is restored, from a snapshot and from checkpoints.
    let restored = LockTable::restore(&d.table.snapshot()).expect("restores");
    let records = d.table.checkpoint().into_iter().map(|c| (c.key, c.value.expect("set")));
    let loaded = LockTable::load(records).expect("loads");
    for table in [restored, loaded] {
        assert_eq!(table.state_hash(), d.table.state_hash());
        let mut copy = Driver { table, at: d.at, ..Driver::new() };
        assert!(copy.by("mallory").over_quota(fresh.clone()).is_some());
        assert!(is_full(&copy.apply(fresh.clone())));
    }

    // On an idle shard nothing is forgotten before the next command.
    d.by("mallory").pass(REQUEST_MEMORY_MS);
    assert_eq!(d.over_quota(fresh.clone()), None);
    assert_eq!(d.apply(fresh), Outcome::NotWaiting);
}

/// A wait that cannot be buried is not ended, because a late copy of it would wait again.
#[test]
fn an_identity_at_its_share_keeps_a_wait_that_it_gives_up() {
    let mut d = Driver::new();
    d.by("bob").hold(ask(1, "x"));
    d.by("mallory").queue(ask(2, "x"));
    (0..SHARE).for_each(|id| drop(d.apply(give_up(1_000 + id))));
    assert!(d.over_quota(give_up(2)).is_some_and(|refusal| is_full(&refusal)));
    assert!(is_full(&d.apply(give_up(2))));
    assert_eq!(d.table.queue_len("x"), 1);
    d.pass(REQUEST_MEMORY_MS);
    assert_eq!(d.apply(give_up(2)), Outcome::Cancelled);
    assert_eq!(d.acquire(ask(2, "x")), Outcome::CancelledBefore);
}

/// Regression: the same with sessions that never began.
#[test]
fn one_identity_cannot_fill_what_is_remembered_with_sessions_that_it_closes() {
    let mut d = ann_has_left();
    d.by("mallory").hold(ask(10, "m").session("live"));
    let refused = (0..FLOOD).filter(|n| is_full(&d.close(&format!("s{n}")))).count() as u64;
    expect_anns_memory(&mut d);
    assert_eq!(refused, FLOOD - SHARE);
    let fresh = Command::CloseSession { session: "fresh" };
    assert!(d.by("mallory").over_quota(fresh).is_some_and(|refusal| is_full(&refusal)));
    assert_eq!(d.close("s0"), Outcome::Closed { released: 0 });
    for live in ["live", "s0"] {
        assert_eq!(d.over_quota(Command::CloseSession { session: live }), None);
    }
    assert_eq!(d.close("live"), Outcome::Closed { released: 1 });
    assert_eq!(d.acquire(ask(11, "m").session("live")), Outcome::SessionLost);
    assert_eq!(d.by("bob").close("fresh"), Outcome::Closed { released: 0 });
}

/// Regression: the same with locks that the identity holds and releases. No release is refused.
#[test]
fn one_identity_cannot_fill_what_is_remembered_with_ends_of_its_own_locks() {
    let mut d = ann_has_left();
    d.by("mallory");
    let mut last = 0;
    for id in 0..FLOOD {
        last = d.hold(ask(u128::from(1_000 + id), "m")).token.0;
        assert_eq!(d.release("m", last), Outcome::Released { already: false });
    }
    expect_anns_memory(&mut d);
    // Its own memory is what is lost.
    assert_eq!(d.by("mallory").release("m", last), Outcome::NotOwner { current: Token(0) });
    // An identity below its share still pushes out what is oldest.
    let held = d.by("ann").hold(ask(4, "a"));
    d.release("a", held.token.0);
    assert_eq!(d.release("a", held.token.0), Outcome::Released { already: true });
    let copy = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(copy.state_hash(), d.table.state_hash());
    // Once nothing of others is in its way, it pushes out its own again.
    d.pass(REQUEST_MEMORY_MS);
    let held = d.by("mallory").hold(ask(5, "m"));
    d.release("m", held.token.0);
    assert_eq!(d.release("m", held.token.0), Outcome::Released { already: true });
}

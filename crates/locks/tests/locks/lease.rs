//! Rules of leases and sessions.

use crate::driver::{Driver, ask};
use palisade_locks::*;

#[test]
fn a_renewal_gives_another_ttl_and_keeps_the_token() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    d.pass(1_000);
    let expires_wall_ms = d.at.wall_ms + 5_000;
    assert_eq!(d.renew("a", 1), Outcome::Renewed { ttl_ms: 5_000, expires_wall_ms, renewals: 1 });
    assert_eq!(
        d.effects.leases,
        [LeaseEvent::Alive { lease: grant.lease, ttl_ms: 5_000, renewal_seq: 1 }]
    );
    assert_eq!(d.holders("a"), [Grant { renewals: 1, expires_wall_ms, ..grant }]);
}

#[test]
fn a_renewal_by_the_wrong_token_or_name_is_refused() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b"));
    assert_eq!(d.renew("a", 2), Outcome::NotOwner { current: Token(1) });
    assert_eq!(d.renew("a", 77), Outcome::NotOwner { current: Token(1) });
    assert_eq!(d.renew("free", 1), Outcome::NotOwner { current: Token(0) });
    assert_eq!(d.renew("a", 0), Outcome::NotOwner { current: Token(1) });
    assert_eq!(d.effects, Effects::default());
}

#[test]
fn a_lease_dies_only_by_the_life_that_is_named() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    d.renew("a", 1);
    assert_eq!(d.expire(grant.lease, 0), Outcome::Expired(false), "renewed since");
    assert_eq!(d.expire(grant.lease, 2), Outcome::Expired(false), "not there yet");
    assert_eq!(d.tokens("a"), [1]);
    assert_eq!(d.expire(grant.lease, 1), Outcome::Expired(true));
    assert_eq!(d.effects.leases, [LeaseEvent::Gone { lease: grant.lease }]);
    assert_eq!(d.effects.ended[0].end, EndKind::Expired);
    assert_eq!(d.expire(grant.lease, 1), Outcome::Expired(false), "gone already");
    assert_eq!(d.table.counts(), Counts::default());
}

#[test]
fn an_expired_lock_goes_to_the_next_waiter() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    d.expire(grant.lease, 0);
    assert_eq!(d.handed(), [2]);
    assert_eq!(d.renew("a", 1), Outcome::LeaseExpired { current: Token(2) });
    assert_eq!(d.release("a", 1), Outcome::LeaseExpired { current: Token(2) });
    assert_eq!(d.tokens("a"), [2]);
}

#[test]
fn a_session_begins_with_its_first_grant_and_keeps_its_terms() {
    let mut d = Driver::new();
    let first = d.hold(ask(1, "a").session("s").owner("bob").ttl(2_000));
    let second = d.hold(ask(2, "b").session("s").owner("eve").ttl(9_000));
    assert_eq!(d.effects.leases, [], "the lease is there already");
    assert_eq!((first.lease, first.session.as_str()), (second.lease, "s"));
    assert_eq!((second.owner.as_str(), second.ttl_ms), ("bob", 2_000));
    assert_eq!(d.table.counts(), Counts { locks: 2, grants: 2, waiters: 0, sessions: 1 });
    assert_eq!(d.table.leases().count(), 1);
}

#[test]
fn one_heartbeat_renews_all_that_a_session_holds() {
    let mut d = Driver::new();
    let lease = d.hold(ask(1, "a").session("s")).lease;
    d.heartbeat("s");
    d.hold(ask(2, "b").session("s"));
    d.pass(10);
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(_)));
    assert_eq!(d.effects.leases, [LeaseEvent::Alive { lease, ttl_ms: 5_000, renewal_seq: 2 }]);
    let renewals = |d: &Driver, name| d.holders(name)[0].renewals;
    assert_eq!((renewals(&d, "a"), renewals(&d, "b")), (2, 1), "since each grant");
    assert_eq!(d.holders("b")[0].expires_wall_ms, d.at.wall_ms + 5_000);
}

#[test]
fn renewing_one_grant_renews_its_session() {
    let mut d = Driver::new();
    let lease = d.hold(ask(1, "a").session("s")).lease;
    d.hold(ask(2, "b").session("s"));
    assert!(matches!(d.renew("b", 2), Outcome::Renewed { renewals: 1, .. }));
    assert_eq!(d.effects.leases, [LeaseEvent::Alive { lease, ttl_ms: 5_000, renewal_seq: 1 }]);
    assert_eq!(d.expire(lease, 0), Outcome::Expired(false));
    assert_eq!(d.holders("a")[0].renewals, 1);
}

#[test]
fn a_session_outlives_its_last_grant_by_heartbeats() {
    let mut d = Driver::new();
    let lease = d.hold(ask(1, "a").session("s")).lease;
    d.release("a", 1);
    assert_eq!(d.effects.leases, [], "the session's lease is not the grant's");
    assert_eq!(d.table.counts().sessions, 1);
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(_)));
    assert_eq!(d.hold(ask(2, "b").session("s")).lease, lease);
    d.release("b", 2);
    assert_eq!(d.expire(lease, 1), Outcome::Expired(true));
    assert_eq!(d.table.counts().sessions, 0);
}

#[test]
fn breaking_a_grant_does_not_end_its_session() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").session("s"));
    d.hold(ask(2, "b").session("s"));
    assert!(matches!(d.break_hold("a", 1), Outcome::Broken(_)));
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(_)));
    assert_eq!(d.tokens("b"), [2]);
}

#[test]
fn an_expired_session_loses_all_it_holds_by_token_and_its_waiters() {
    let mut d = Driver::new();
    d.hold(ask(1, "z").session("s"));
    d.hold(ask(2, "m").session("other"));
    d.hold(ask(3, "a").session("s"));
    d.queue(ask(4, "z"));
    d.queue(ask(5, "m").session("s"));
    d.queue(ask(6, "m"));
    d.queue(ask(7, "z").session("s"));
    assert_eq!(d.expire(LeaseId(1), 0), Outcome::Expired(true));
    let ended: Vec<_> = d.effects.ended.iter().map(|ended| (ended.token.0, ended.end)).collect();
    assert_eq!(ended, [(1, EndKind::Expired), (3, EndKind::Expired)]);
    assert_eq!(d.dropped(), [(5, DropReason::SessionEnded), (7, DropReason::SessionEnded)]);
    assert_eq!(d.handed(), [4]);
    assert_eq!(d.effects.leases[0], LeaseEvent::Gone { lease: LeaseId(1) });
    assert_eq!(d.heartbeat("s"), Outcome::SessionLost);
    assert_eq!(d.acquire(ask(8, "new").session("s")), Outcome::SessionLost);
    d.release("m", 2);
    assert_eq!(d.handed(), [6]);
}

#[test]
fn a_session_never_hands_a_lock_to_its_own_waiter_as_it_ends() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").session("s"));
    d.queue(ask(2, "a").session("s"));
    d.queue(ask(3, "a").session("s"));
    assert_eq!(d.close("s"), Outcome::Closed { released: 1 });
    assert_eq!((d.handed(), d.table.counts()), (vec![], Counts::default()));
}

#[test]
fn closing_releases_all_and_is_idempotent() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").session("s"));
    d.hold(ask(2, "b").session("s"));
    assert_eq!(d.close("s"), Outcome::Closed { released: 2 });
    assert!(d.effects.ended.iter().all(|ended| ended.end == EndKind::Released));
    assert_eq!(d.close("s"), Outcome::Closed { released: 0 });
    assert_eq!(d.effects, Effects::default());
    assert_eq!(d.release("a", 1), Outcome::Released { already: true });
    assert_eq!(d.acquire(ask(3, "c").session("s")), Outcome::SessionLost);
}

#[test]
fn closing_comes_before_an_acquire_that_was_on_its_way() {
    let mut d = Driver::new();
    assert_eq!(d.close("s"), Outcome::Closed { released: 0 });
    assert_eq!(d.acquire(ask(1, "a").session("s")), Outcome::SessionLost);
}

#[test]
fn a_heartbeat_of_an_unknown_session_is_lost() {
    let mut d = Driver::new();
    assert_eq!(d.heartbeat("s"), Outcome::SessionLost);
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").session("s"));
    assert_eq!(d.heartbeat("s"), Outcome::SessionLost, "it waits, but has nothing to keep alive");
}

#[test]
fn a_queued_acquire_begins_its_session_only_when_granted() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").session("s").owner("bob").ttl(800));
    assert_eq!((d.table.counts().sessions, d.table.leases().count()), (0, 1));
    d.release("a", 1);
    assert_eq!(d.effects.granted[0].owner, "bob");
    let alive = LeaseEvent::Alive { lease: LeaseId(2), ttl_ms: 800, renewal_seq: 0 };
    assert_eq!(d.effects.leases[1], alive);
    assert_eq!(d.table.counts().sessions, 1);
}

#[test]
fn closing_an_unbegun_session_drops_its_waiters() {
    let mut d = Driver::new();
    d.hold(ask(1, "a").shared());
    d.queue(ask(2, "a").session("s"));
    d.queue(ask(3, "a").shared());
    assert_eq!(d.close("s"), Outcome::Closed { released: 0 });
    assert_eq!(d.dropped(), [(2, DropReason::SessionEnded)]);
    assert_eq!(d.handed(), [3]);
    assert_eq!(d.acquire(ask(2, "a").session("s")), Outcome::SessionLost);
}

#[test]
fn a_session_without_waiters_or_lease_leaves_nothing() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").session("s"));
    d.cancel(2, "a");
    assert_eq!(
        d.hold(ask(3, "b").session("s")).token,
        Token(2),
        "it was never known, so it is not lost"
    );
}

#[test]
fn leases_are_listed_by_id() {
    let mut d = Driver::new();
    d.hold(ask(1, "c"));
    d.hold(ask(2, "a").session("s"));
    d.hold(ask(3, "b"));
    d.release("c", 1);
    d.hold(ask(4, "c"));
    d.renew("c", 4);
    let lives: Vec<_> = d.table.leases().map(|live| (live.lease.0, live.renewal_seq)).collect();
    assert_eq!(lives, [(2, 0), (3, 0), (4, 1)]);
}

#[test]
fn the_rest_of_a_lease_follows_shard_time_and_never_the_wall_clock() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.pass(1_000);
    d.renew("a", 1);
    d.pass(3_000);
    let rest = |d: &Driver| {
        d.holders("a").iter().map(|held| (held.rest_ms, held.expires_wall_ms)).next().expect("held")
    };
    assert_eq!(rest(&d), (2_000, d.at.wall_ms + 2_000));
    // Another leader with a wall clock that is an hour ahead.
    d.at.wall_ms += 3_600_000;
    assert_eq!(rest(&d), (2_000, d.at.wall_ms + 2_000));
    d.pass(5_000);
    assert_eq!(rest(&d), (0, d.at.wall_ms), "due, and still held");
    let renewed_ms = 2_000;
    assert_eq!(
        d.table.leases().collect::<Vec<_>>(),
        [LiveLease { lease: LeaseId(1), ttl_ms: 5_000, renewal_seq: 1, renewed_ms }]
    );
}

#[test]
fn a_late_stamp_does_not_make_a_lease_older() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    // A new leader's clock is behind, so its stamp counts as the last one.
    d.at.shard_ms = 10;
    d.renew("a", 1);
    assert_eq!(d.table.leases().next().map(|live| live.renewed_ms), Some(1_000));
}

fn alive(outcome: Outcome) -> SessionAlive {
    match outcome {
        Outcome::HeartbeatOk(alive) => alive,
        other => panic!("the session is alive: {other:?}"),
    }
}

#[test]
fn a_heartbeat_of_a_sessions_former_life_is_lost() {
    let mut d = Driver::new();
    let first = d.hold(ask(1, "a").session("s")).lease;
    assert_eq!(alive(d.beat("s", first.0, 0)).life, first);
    d.expire(first, 1);
    assert_eq!(d.beat("s", first.0, 0), Outcome::SessionLost);
    d.pass(REQUEST_MEMORY_MS);
    let second = d.hold(ask(2, "b").session("s")).lease;
    assert_ne!(first, second);
    let before = d.table.state_hash();
    assert_eq!(
        d.beat("s", first.0, 0),
        Outcome::SessionLost,
        "the grants of the former life are gone"
    );
    assert_eq!(d.table.state_hash(), before, "the new life is not renewed by the old one");
    assert_eq!(alive(d.beat("s", second.0, 0)).life, second);
    assert_eq!(alive(d.heartbeat("s")).life, second, "any life");
}

#[test]
fn a_session_is_told_of_its_broken_grants_until_it_has_seen_them() {
    let mut d = Driver::new();
    for id in 1..=3 {
        d.hold(ask(id, &format!("n{id}")).session("s").ttl(7_000));
    }
    let told = |d: &mut Driver, seen| {
        let alive = alive(d.beat("s", 1, seen));
        (
            alive.broken_count,
            alive.broken.iter().map(|token| token.0).collect::<Vec<_>>(),
            alive.broken_overflow,
        )
    };
    assert_eq!(told(&mut d, 0), (0, vec![], false));
    d.break_hold("n2", 2);
    d.break_hold("n1", 1);
    assert_eq!(told(&mut d, 0), (2, vec![2, 1], false));
    assert_eq!(told(&mut d, 1), (2, vec![1], false));
    assert_eq!(told(&mut d, 2), (2, vec![], false));
    assert!(told(&mut d, 3).2, "it claims more breaks than there were");
    d = Driver { table: LockTable::restore(&d.table.snapshot()).expect("restores"), ..d };
    assert_eq!(told(&mut d, 0), (2, vec![2, 1], false));
    assert_eq!(alive(d.heartbeat("s")).ttl_ms, 7_000);
    d.release_by(1, "n3", 3);
    assert_eq!(told(&mut d, 2), (2, vec![], false), "its own release is no break");
}

/// Another process releases a session's grant by its token. Only the heartbeat tells the session of
/// it. A count of grants did not: grants on their way to the session, and those that it was letting
/// go, hid the loss.
#[test]
fn a_session_is_told_of_its_grants_that_another_released() {
    let mut d = Driver::new();
    for id in 1..=4 {
        d.hold(ask(id, &format!("n{id}")).session("s"));
    }
    d.hold(ask(5, "other").session("t"));
    let told = |d: &mut Driver, seen| {
        let alive = alive(d.beat("s", 1, seen));
        (alive.broken_count, alive.broken)
    };
    d.release("n2", 2);
    assert_eq!(told(&mut d, 0), (1, vec![Token(2)]));
    assert_eq!(d.release("n2", 2), Outcome::Released { already: true });
    d.release_by(1, "n1", 1);
    assert_eq!(d.release("n1", 1), Outcome::Released { already: true });
    assert_eq!(told(&mut d, 0), (1, vec![Token(2)]), "the second had no part in it");
    d = Driver { table: LockTable::restore(&d.table.snapshot()).expect("restores"), ..d };
    d.release_by(5, "n3", 3);
    assert_eq!(told(&mut d, 1), (2, vec![Token(3)]), "another session is another");
    d.apply(Command::Release { name: "n4", token: Token(4), by: None });
    assert_eq!(told(&mut d, 2), (2, vec![]), "an entry of an earlier version means what it meant");
}

#[test]
fn more_breaks_than_are_remembered_put_all_in_doubt() {
    let mut d = Driver::new();
    let many = BROKEN_MEMORY_MAX as u64 + 2;
    for id in 1..=many {
        let name = format!("n{id}");
        d.hold(ask(id.into(), &name).session("s"));
        d.break_hold(&name, id);
    }
    let all = alive(d.beat("s", 1, 0));
    assert_eq!(
        (all.broken_count, all.broken.len(), all.broken_overflow),
        (many, BROKEN_MEMORY_MAX, true)
    );
    assert_eq!(all.broken.last(), Some(&Token(many)));
    assert!(!alive(d.beat("s", 1, 2)).broken_overflow);
    let copy = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

#[test]
fn a_grant_out_of_the_queue_must_be_claimed_and_has_its_full_ttl_then() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").claim(400));
    d.release("a", 1);
    let granted = d.effects.granted[0].clone();
    assert_eq!((granted.ttl_ms, granted.claim_within_ms, granted.rest_ms), (5_000, 400, 400));
    let alive = |ttl_ms, renewal_seq| LeaseEvent::Alive { lease: LeaseId(2), ttl_ms, renewal_seq };
    assert_eq!(d.effects.leases[1], alive(400, 0));
    assert_eq!(d.table.leases().next().map(|live| live.ttl_ms), Some(400), "for a new leader, too");
    // A retry of the same acquire claims nothing, because a gateway may have sent it for a dead
    // client.
    assert_eq!(d.acquire(ask(2, "a").claim(400).wait()), Outcome::Granted(granted));
    assert_eq!(d.effects.leases, []);
    let copy = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(
        (copy.holders("a", d.at), copy.state_hash()),
        (d.holders("a"), d.table.state_hash())
    );
    d.pass(100);
    assert!(matches!(d.renew("a", 2), Outcome::Renewed { ttl_ms: 5_000, .. }));
    assert_eq!(d.effects.leases, [alive(5_000, 1)]);
    assert_eq!((d.holders("a")[0].claim_within_ms, d.holders("a")[0].rest_ms), (0, 5_000));
    assert_eq!(d.expire(LeaseId(2), 0), Outcome::Expired(false), "the lease was claimed before");
}

#[test]
fn a_session_that_begins_out_of_the_queue_is_claimed_by_a_heartbeat() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").session("s").claim(400));
    d.release("a", 1);
    assert_eq!(d.effects.granted[0].claim_within_ms, 400);
    assert!(matches!(d.beat("s", 2, 0), Outcome::HeartbeatOk(_)));
    assert_eq!(
        d.effects.leases,
        [LeaseEvent::Alive { lease: LeaseId(2), ttl_ms: 5_000, renewal_seq: 1 }]
    );
    // The session has a lease, so its next grant needs no claim.
    d.hold(ask(3, "b"));
    d.queue(ask(4, "b").session("s").claim(400));
    d.release("b", 3);
    assert_eq!((d.effects.granted[0].claim_within_ms, d.effects.leases.len()), (0, 1));
}

#[test]
fn a_grant_at_once_needs_no_claim_and_a_claim_is_no_longer_than_the_ttl() {
    let mut d = Driver::new();
    assert_eq!(d.hold(ask(1, "a").claim(400)).claim_within_ms, 0);
    d.queue(ask(2, "a").ttl(1_000).claim(1_000));
    d.release("a", 1);
    assert_eq!((d.effects.granted[0].claim_within_ms, d.effects.granted[0].rest_ms), (0, 1_000));
}

#[test]
fn an_unclaimed_lock_goes_to_the_next_in_line() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a").claim(400));
    d.queue(ask(3, "a").claim(400));
    d.release("a", 1);
    assert_eq!(d.expire(LeaseId(2), 0), Outcome::Expired(true));
    assert_eq!(d.handed(), [3]);
    assert_eq!(d.renew("a", 2), Outcome::LeaseExpired { current: Token(3) });
}

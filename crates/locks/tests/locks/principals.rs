//! Rules of identities: the rights and the knowledge of other identities, and the count of quotas.

use crate::driver::{Driver, ask};
use palisade_locks::*;

const SESSION: &str = "s-ann";

/// Ann holds "a" (token 1), "b" in a session (2) and "c" in mode shared (3), and waits for "bob's".
/// Bob holds that (4), and waits for "a". Ann's token 5 was released and 6 has expired.
fn two_identities() -> Driver {
    let mut d = Driver::new();
    d.by("ann");
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b").session(SESSION));
    d.hold(ask(3, "c").shared());
    d.by("bob").hold(ask(4, "bob's"));
    d.by("ann").hold(ask(5, "released"));
    assert_eq!(d.release("released", 5), Outcome::Released { already: false });
    let expired = d.hold(ask(6, "expired"));
    assert_eq!(d.expire(expired.lease, 0), Outcome::Expired(true));
    d.queue(ask(7, "bob's"));
    d.queue(ask(8, "bob's").session("s-waits-only"));
    d.by("bob").queue(ask(9, "a"));
    d
}

/// The answer to a token that was never issued.
fn wrong_token(d: &mut Driver, name: &str) -> Outcome {
    d.renew(name, TOKEN_MAX)
}

/// Numbers that look random and are the same in each run.
struct Guesses(u64);

impl Guesses {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64* of Vigna
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

/// Sessions of ann's: with a lease, only waiting, and one that only another shard knows.
const SESSIONS: [&str; 3] = [SESSION, "s-waits-only", "s-elsewhere"];
/// Requests of ann's that have ended, and one that never was.
const OVER: [u128; 3] = [5, 6, 50];

/// First the ids of sessions and ended requests are fresh for mallory, too. Then mallory has ended
/// and cancelled them: for another identity these ids are free, and this is its own use of them.
#[test]
fn a_hundred_thousand_guesses_of_another_identity_change_nothing_and_tell_nothing() {
    let mut d = two_identities();
    let mut guesses = Guesses(19);
    let right = guess(&mut d, &mut guesses, false);
    for session in SESSIONS {
        assert_eq!(d.close(session), Outcome::Closed { released: 0 });
    }
    for id in OVER {
        assert_eq!(d.cancel(id, "free"), Outcome::NotWaiting);
    }
    let right = right + guess(&mut d, &mut guesses, true);
    assert!(right > 4_000, "{right} right tokens: hardly any guess was right");

    // The owner still can do all of it.
    d.by("ann");
    assert!(matches!(d.renew("a", 1), Outcome::Renewed { .. }));
    assert!(matches!(d.heartbeat(SESSION), Outcome::HeartbeatOk(_)));
    assert_eq!(d.release("released", 5), Outcome::Released { already: true });
    assert!(matches!(d.renew("expired", 6), Outcome::LeaseExpired { .. }));
    assert_eq!(d.cancel(7, "bob's"), Outcome::Cancelled);
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    assert_eq!(d.handed(), [9]);
    assert_eq!(d.close(SESSION), Outcome::Closed { released: 1 });
}

/// Makes 50,000 guesses as mallory. `used`: mallory has ended the sessions, and cancelled the
/// requests that are over. Returns the number of guesses with a right token.
fn guess(d: &mut Driver, guesses: &mut Guesses, used: bool) -> usize {
    let names = ["a", "b", "c", "bob's", "released", "expired", "free"];
    d.by("mallory");
    let before = (d.table.state_hash(), d.table.counts(), d.table.snapshot());
    let holdings = ["ann", "bob"].map(|principal| d.table.holdings(principal));
    let held = Outcome::Held { token: Token(1), owner: "ann".into() };
    let mut right = 0;
    for _ in 0..50_000 {
        let name = names[guesses.below(names.len() as u64) as usize];
        let token = guesses.below(12);
        let in_use = [1, 2, 3, 4, 7, 8, 9][guesses.below(7) as usize];
        let over = OVER[guesses.below(3) as usize];
        let session = SESSIONS[guesses.below(3) as usize];
        right += usize::from(d.tokens(name).contains(&token));
        match guesses.below(7) {
            0 => assert_eq!(d.renew(name, token), wrong_token(d, name)),
            1 => {
                let life = guesses.below(8);
                assert_eq!(d.release_by(life, name, token), wrong_token(d, name));
            }
            2 => {
                let life = guesses.below(8);
                assert_eq!(d.beat(session, life, guesses.below(3)), Outcome::SessionLost);
            }
            3 if used => assert_eq!(d.close(session), Outcome::Closed { released: 0 }),
            3 | 4 => {
                let id = if guesses.below(2) == 0 { in_use } else { over };
                let given_up = guesses.below(2) == 0 && (used || id == in_use);
                let request_id = RequestId(id);
                let cancelled = d.apply(Command::CancelWait { name, request_id, given_up });
                assert_eq!(cancelled, Outcome::NotWaiting);
            }
            5 => {
                let asks = |id, name| {
                    [ask(id, name), ask(id, name).wait(), ask(id, name).session(session)]
                };
                let how = guesses.below(3) as usize;
                let refused = d.acquire(asks(in_use, name)[how]);
                assert!(matches!(refused, Outcome::Conflict(_)), "{in_use} of {name}");
                if used {
                    let refused = d.acquire(asks(over, name)[how]);
                    assert!(match name {
                        "free" => refused == Outcome::CancelledBefore,
                        _ => matches!(refused, Outcome::Conflict(_)),
                    });
                } else {
                    assert_eq!(d.acquire(ask(over, "a")), held);
                }
            }
            _ if used => {
                let joins = ask(1_000, "free").session(session);
                assert_eq!(d.acquire(joins), Outcome::SessionLost);
            }
            _ => assert_eq!(d.acquire(ask(1_000, "a").session(session)), held),
        }
        assert_eq!(d.effects, Effects::default());
    }
    assert_eq!((d.table.state_hash(), d.table.counts(), d.table.snapshot()), before);
    assert_eq!(["ann", "bob"].map(|principal| d.table.holdings(principal)), holdings);
    assert_eq!(d.table.holdings("mallory"), Holdings::default());
    right
}

#[test]
fn an_ended_token_of_another_identity_is_as_wrong_as_any() {
    let mut d = two_identities();
    d.by("mallory");
    for (name, token) in [("released", 5), ("expired", 6)] {
        assert_eq!(d.release(name, token), Outcome::NotOwner { current: Token(0) });
        assert_eq!(d.renew(name, token), Outcome::NotOwner { current: Token(0) });
    }
}

#[test]
fn a_retry_of_another_identity_is_refused_and_does_not_learn_the_grant() {
    let mut d = two_identities();
    d.by("mallory");
    assert!(matches!(d.acquire(ask(1, "a")), Outcome::Conflict(_)), "of a grant");
    assert!(matches!(d.acquire(ask(7, "bob's")), Outcome::Conflict(_)), "of a waiter");
    // A request that has ended says nothing: for mallory its id is a fresh one.
    let own = d.hold(ask(5, "released"));
    assert_eq!(
        d.by("ann").acquire(ask(5, "released")),
        Outcome::AlreadyEnded { token: Token(5), end: EndKind::Released }
    );
    d.by("mallory").release("released", own.token.0);
    let again = d.acquire(ask(5, "released"));
    assert_eq!(again, Outcome::AlreadyEnded { token: own.token, end: EndKind::Released });
    let copy = LockTable::restore(&d.table.snapshot()).expect("one id, remembered for two");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

#[test]
fn a_cancel_of_another_identity_buries_nothing() {
    let mut d = Driver::new();
    assert_eq!(d.by("mallory").cancel(1, "a"), Outcome::NotWaiting);
    let held = d.by("ann").hold(ask(1, "a"));
    assert_eq!(held.principal, "ann");
    // It buried the request for mallory only.
    d.release("a", held.token.0);
    assert_eq!(d.by("mallory").acquire(ask(1, "a")), Outcome::CancelledBefore);
    let copy = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

#[test]
fn a_session_closed_by_another_identity_before_it_began_still_begins() {
    let mut d = Driver::new();
    assert_eq!(d.by("mallory").close("s"), Outcome::Closed { released: 0 });
    d.by("ann").hold(ask(1, "a").session("s"));
    assert_eq!(d.by("mallory").acquire(ask(2, "b").session("s")), Outcome::SessionLost);
    d.by("ann").close("s");
    assert_eq!(d.acquire(ask(3, "b").session("s")), Outcome::SessionLost);
    let copy = LockTable::restore(&d.table.snapshot()).expect("one session id, ended for two");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

/// Another identity that knew the id of a session could take it on a shard where its owner had no
/// lock yet. There the owner was refused for as long as the other one kept its session alive.
#[test]
fn one_session_id_may_be_in_use_by_several_identities_at_once() {
    let mut d = Driver::new();
    let life = |d: &mut Driver, principal, id, name| {
        d.by(principal);
        d.quota(0, 1, 0);
        d.hold(ask(id, name).session("s")).lease.0
    };
    let mallorys = life(&mut d, "mallory", 1, "m");
    let anns = life(&mut d, "ann", 2, "a");
    d.queue(ask(3, "m").session("s"));
    // Bob only waits in his, and it has no lease.
    d.by("bob").queue(ask(4, "m").session("s"));
    let owners = ["mallory", "ann", "bob"];
    let sessions = |d: &Driver| owners.map(|principal| d.table.holdings(principal).sessions);
    assert_eq!(sessions(&d), [1, 1, 1]);

    let restored = LockTable::restore(&d.table.snapshot()).expect("one id, in use by three");
    assert_eq!(restored.state_hash(), d.table.state_hash());
    d.table = restored;
    let records = d.table.checkpoint().into_iter().map(|c| (c.key, c.value.expect("set")));
    d.table = LockTable::load(records).expect("loads");
    assert_eq!(sessions(&d), [1, 1, 1]);

    // Each identity reaches its own only.
    d.by("ann");
    assert_eq!(d.beat("s", mallorys, 0), Outcome::SessionLost);
    assert!(matches!(d.beat("s", anns, 0), Outcome::HeartbeatOk(alive) if alive.life.0 == anns));
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(alive) if alive.life.0 == anns));
    assert_eq!(d.by("bob").heartbeat("s"), Outcome::SessionLost, "it has no lease yet");
    assert_eq!(d.by("mallory").close("s"), Outcome::Closed { released: 1 });
    assert_eq!(d.handed(), [3]);
    assert_eq!(d.effects.granted[0].lease.0, anns);
    assert_eq!(sessions(&d), [0, 1, 1]);
    assert_eq!(d.acquire(ask(5, "b").session("s")), Outcome::SessionLost);
    assert_eq!(d.by("ann").close("s"), Outcome::Closed { released: 2 });
    assert_eq!(d.handed(), [4]);
    assert_eq!(d.by("bob").close("s"), Outcome::Closed { released: 1 });
    assert_eq!(sessions(&d), [0, 0, 0]);
    let copy = LockTable::restore(&d.table.snapshot()).expect("one id, ended for three");
    assert_eq!(copy.state_hash(), d.table.state_hash());
}

/// While identities are off, one of several sessions has to be chosen, on all replicas the same.
#[test]
fn without_identities_the_session_of_the_first_principal_is_found() {
    let mut d = Driver::new();
    for (id, principal, name) in [(1, "bob", "b"), (2, "ann", "a"), (3, "cid", "c")] {
        d.by(principal).hold(ask(id, name).session("s"));
    }
    let restored = LockTable::restore(&d.table.snapshot()).expect("restores");
    for table in [d.table, restored] {
        let mut d = Driver { table, ..Driver::new() };
        assert_eq!(d.hold(ask(4, "x").session("s")).principal, "ann");
        assert_eq!(d.close("s"), Outcome::Closed { released: 2 });
        assert_eq!(d.hold(ask(5, "x").session("s")).principal, "bob");
    }
}

#[test]
fn a_break_may_end_a_grant_of_any_identity_and_is_recorded_with_both() {
    let mut d = two_identities();
    let Outcome::Broken(tenure) = d.by("root").break_hold("a", 1) else { panic!("not broken") };
    assert_eq!(
        (tenure.grant.principal.as_str(), tenure.broken_by_principal.as_str()),
        ("ann", "root")
    );
    assert_eq!(d.effects.ended[0].tenure(), Ok(*tenure));
    assert_eq!(d.handed(), [9]);
    assert_eq!(d.effects.granted[0].principal, "bob");
}

#[test]
fn every_identity_may_touch_grants_from_before_identities() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b").session("s"));
    assert!(matches!(d.by("ann").renew("a", 1), Outcome::Renewed { .. }));
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    assert_eq!(d.by("bob").release("a", 1), Outcome::Released { already: true });
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(_)));
    assert_eq!(d.by("ann").close("s"), Outcome::Closed { released: 1 });
}

/// A lock taken in such a session belonged to no identity: any could release it, and it counted for
/// no quota, for as long as the session was kept alive.
#[test]
fn a_session_from_before_identities_takes_no_more_locks() {
    let mut d = Driver::new();
    let held = d.hold(ask(1, "a").session("s"));
    d.by("bob").hold(ask(2, "b"));
    d.by("ann").quota(1, 0, 0);
    for refused in [ask(3, "c"), ask(4, "b"), ask(5, "b").wait()] {
        assert_eq!(d.acquire(refused.session("s")), Outcome::SessionLost);
    }
    // A retry of the time before is no new lock.
    assert_eq!(d.hold(ask(1, "a").session("s")), held);
    assert!(matches!(d.renew("a", 1), Outcome::Renewed { .. }));
    assert!(matches!(d.heartbeat("s"), Outcome::HeartbeatOk(_)));
    // Identities are off again.
    assert_eq!(d.by("").hold(ask(6, "c").session("s")).principal, "");
    assert_eq!(d.by("ann").close("s"), Outcome::Closed { released: 2 });
}

#[test]
fn without_identities_nothing_is_compared() {
    let mut d = two_identities();
    d.by("");
    assert!(matches!(d.acquire(ask(1, "a")), Outcome::Granted(_)));
    assert_eq!(d.hold(ask(20, "joined").session(SESSION)).principal, "ann");
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    assert_eq!(d.release("released", 5), Outcome::Released { already: true });
}

#[test]
fn a_quota_bounds_locks_and_a_retry_of_a_grant_is_not_refused() {
    let mut d = Driver::new();
    d.by("ann").quota(2, 0, 0);
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b"));
    let has = Holdings { locks: 2, sessions: 0, waits: 0 };
    let refusal =
        || Outcome::OverQuota { principal: "ann".into(), bound: Bound::Locks, quota: 2, has };
    let hash = d.table.state_hash();
    assert_eq!(d.acquire(ask(3, "c")), refusal());
    assert_eq!(d.acquire(ask(3, "c").wait()), refusal());
    assert_eq!((d.table.state_hash(), d.table.counts().grants), (hash, 2));
    assert_eq!(d.hold(ask(2, "b")).token, Token(2), "a retry gets its grant");
    // The quota is of one identity.
    d.by("bob").quota(1, 0, 0);
    d.hold(ask(4, "d"));
    d.by("ann").release("a", 1);
    d.quota(2, 0, 0);
    d.hold(ask(3, "c"));
}

#[test]
fn a_wait_counts_as_a_lock_so_that_its_turn_never_exceeds_the_quota() {
    let mut d = Driver::new();
    d.by("bob");
    for (id, name) in [(1, "x"), (2, "y")] {
        d.hold(ask(id, name));
    }
    d.by("ann").quota(3, 0, 2);
    d.hold(ask(10, "a"));
    d.queue(ask(11, "x"));
    d.queue(ask(12, "y"));
    let Outcome::OverQuota { bound: Bound::Locks, quota: 3, has, .. } = d.acquire(ask(13, "b"))
    else {
        panic!("a fourth")
    };
    assert_eq!(has, Holdings { locks: 1, sessions: 0, waits: 2 });
    d.by("bob").release("x", 1);
    d.release("y", 2);
    assert_eq!(d.table.holdings("ann"), Holdings { locks: 3, sessions: 0, waits: 0 });
    // A wait that ends without a grant gives its place back.
    d.by("ann").release("a", 3);
    d.by("bob").hold(ask(20, "z"));
    d.by("ann").quota(3, 0, 1);
    d.queue(ask(14, "z"));
    d.by("bob").hold(ask(21, "w"));
    d.by("ann").quota(0, 0, 1);
    let refused = d.acquire(ask(15, "w").wait());
    assert!(matches!(refused, Outcome::OverQuota { bound: Bound::Waits, .. }), "{refused:?}");
    d.cancel(14, "z");
    d.queue(ask(15, "w"));
}

#[test]
fn a_quota_bounds_sessions_those_that_only_wait_included() {
    let mut d = Driver::new();
    d.by("bob").hold(ask(1, "x"));
    d.by("ann").quota(0, 2, 0);
    d.hold(ask(2, "a").session("s1"));
    d.queue(ask(3, "x").session("s2"));
    let refused = d.acquire(ask(4, "b").session("s3"));
    assert!(matches!(refused, Outcome::OverQuota { bound: Bound::Sessions, .. }), "{refused:?}");
    d.hold(ask(5, "b").session("s1"));
    d.hold(ask(6, "c"));
    d.cancel(3, "x");
    d.hold(ask(7, "d").session("s3"));
    d.close("s1");
    assert_eq!(d.table.holdings("ann"), Holdings { locks: 2, sessions: 1, waits: 0 });
}

#[test]
fn a_leader_refuses_what_the_table_would_refuse_and_nothing_else() {
    let mut d = Driver::new();
    d.by("ann").quota(1, 0, 0);
    let first = ask(1, "a").command();
    assert_eq!(d.over_quota(first.clone()), None);
    d.hold(ask(1, "a"));
    assert_eq!(d.over_quota(first), None, "the retry of a grant");
    let refusal = d.over_quota(ask(2, "b").command());
    assert!(refusal.is_some());
    assert_eq!(refusal, Some(d.acquire(ask(2, "b"))));
    d.by("bob").quota(1, 0, 0);
    assert_eq!(d.over_quota(ask(2, "b").command()), None);
    assert_eq!(d.table.over_quota(b"no command", d.at.shard_ms), None);
}

/// Regression: see the planted bug `QuotaNotRestored`.
#[test]
fn counts_come_back_with_a_snapshot_and_with_checkpoints() {
    let mut d = two_identities();
    let holdings =
        |table: &LockTable| ["ann", "bob", ""].map(|principal| table.holdings(principal));
    let expected = [
        Holdings { locks: 3, sessions: 2, waits: 2 },
        Holdings { locks: 1, sessions: 0, waits: 1 },
        Holdings::default(),
    ];
    assert_eq!(holdings(&d.table), expected);
    let restored = LockTable::restore(&d.table.snapshot()).expect("restores");
    assert_eq!(holdings(&restored), expected);
    let records = d.table.checkpoint().into_iter().map(|c| (c.key, c.value.expect("set")));
    assert_eq!(holdings(&LockTable::load(records).expect("loads")), expected);
}

#[test]
fn the_bytes_of_a_snapshot_with_identities_never_change() {
    let golden = include_bytes!("../golden/snapshot-v3.bin");
    let table = LockTable::restore(golden).expect("version 3 is readable for ever");
    let expected = two_identities().table;
    assert_eq!(table.state_hash(), expected.state_hash());
    assert_eq!(
        expected.snapshot(),
        golden,
        "the bytes of version 3 changed: give them a new version"
    );
}

#[test]
fn every_principal_shows_in_the_hash() {
    type Edit = dyn Fn(&mut Driver, &'static str);
    let hash = |by: &Edit, principal| {
        let mut d = Driver::new();
        by(&mut d, principal);
        d.table.state_hash()
    };
    let held = |d: &mut Driver, principal| drop(d.by(principal).hold(ask(1, "a")));
    let of_session = |d: &mut Driver, by| drop(d.by(by).hold(ask(1, "a").session("s")));
    let waiting = |d: &mut Driver, principal| {
        d.hold(ask(1, "a"));
        d.by(principal).queue(ask(2, "a"));
    };
    let ended = |d: &mut Driver, principal| {
        d.by(principal).hold(ask(1, "a"));
        d.release("a", 1);
    };
    let buried = |d: &mut Driver, principal| drop(d.by(principal).cancel(1, "a"));
    let closed = |d: &mut Driver, principal| drop(d.by(principal).close("s"));
    let all: [&Edit; 6] = [&held, &of_session, &waiting, &ended, &buried, &closed];
    let mut hashes = Vec::new();
    for by in all {
        hashes.extend(["", "ann", "bob"].map(|principal| hash(by, principal)));
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 18);
}

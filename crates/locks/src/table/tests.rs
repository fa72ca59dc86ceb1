//! Tests of the table's inside: no row and no index entry is left of ended grants.

use super::*;

fn acquire<'a>(id: u64, name: &'a str, session: &'a str, wait: bool) -> Command<'a> {
    Command::Acquire {
        request_id: RequestId(id.into()),
        name,
        owner: "ann",
        ttl_ms: 1_000,
        mode: if id.is_multiple_of(3) { Mode::Shared } else { Mode::Exclusive },
        wait,
        session,
        metadata: "",
        claim_ttl_ms: 0,
    }
}

#[test]
fn ended_grants_leave_no_rows_behind() {
    let mut table = LockTable::new();
    let mut effects = Effects::default();
    let mut at = Stamp::default();
    let names = ["a", "b", "c", "d"];
    let sessions = ["", "s", "t", "u", "waits only"];
    for id in 0..2_000u64 {
        let (name, session) = (names[id as usize % 4], sessions[id as usize % 5]);
        // No waiter of the last session is ever granted: its acquires are cancelled before.
        let occupied = !table.holders(name, at).is_empty();
        if session != "waits only" || occupied {
            table.apply(at, &acquire(id, name, session, true), &mut effects);
        }
        if session == "waits only" {
            table.apply(
                at,
                &Command::CancelWait {
                    name,
                    request_id: RequestId(id.into()),
                    given_up: id % 2 == 0,
                },
                &mut effects,
            );
        }
        if id % 2 == 1
            && let Some(grant) = table.holders(name, at).first()
        {
            table.apply(at, &Command::Release { name, token: grant.token, by: None }, &mut effects);
        }
        if id % 50 == 49 {
            table.checkpoint();
        }
        at.shard_ms += 11;
    }
    // The last session is not closed. It must go by itself, with its last waiter.
    for session in &sessions[1..4] {
        table.apply(at, &Command::CloseSession { session }, &mut effects);
    }
    for _ in 0..2_000 {
        let alive: Vec<_> = table.leases().collect();
        for event in alive {
            let LiveLease { lease, renewal_seq, .. } = event;
            table.apply(at, &Command::ExpireLease { lease, renewal_seq }, &mut effects);
        }
    }
    at.shard_ms += REQUEST_MEMORY_MS;
    for _ in 0..2_000 {
        table.apply(
            at,
            &Command::Heartbeat { session: "none", life: LeaseId(0), broken_seen: 0 },
            &mut effects,
        );
    }

    assert!(
        effects.granted.len() > 100,
        "{} handovers: hardly anything happened",
        effects.granted.len()
    );
    assert_eq!(table.counts(), Counts::default());
    let rows = [table.locks.len(), table.grants.len(), table.waiters.len(), table.sessions.len()];
    assert_eq!(rows, [0; 4]);
    assert_eq!([table.ended_grants.len(), table.ended_sessions.len()], [0; 2]);
    let indexes = [&table.names, &table.requests, &table.session_ids, &table.session_leases];
    assert_eq!(indexes.map(Index::len), [0; 4]);
    assert_eq!(table.tokens.len(), 0);
    table.checkpoint();
    let empty = LockTable::restore(&table.snapshot()).expect("restores").checkpoint();
    assert_eq!(empty.len(), 1, "only the header");
}

#[test]
fn identities_that_come_and_go_leave_no_counts() {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    let principals: Vec<String> = (0..1_000).map(|n| format!("ann-{n}")).collect();
    let mut each = |table: &mut LockTable, command: &dyn Fn(u64) -> Command<'static>| {
        for (n, principal) in (0..).zip(&principals) {
            let caller = Caller::of(principal);
            table.apply_as(Stamp::default(), caller, &command(n), &mut effects);
        }
    };
    each(&mut table, &|n| acquire(3 * n, "shared", "", false));
    each(&mut table, &|n| acquire(3 * n + 1, "shared", "s", true));
    each(&mut table, &|n| acquire(3 * n + 2, "shared", "", true));
    assert_eq!(table.principals.len(), 1_000);
    // Each has a session of its own, though all have one id.
    assert_eq!(table.holdings("ann-0"), Holdings { locks: 1, sessions: 1, waits: 2 });
    assert_eq!(table.holdings("ann-7"), Holdings { locks: 1, sessions: 1, waits: 2 });
    for id in [1, 2] {
        each(&mut table, &|n| Command::CancelWait {
            name: "shared",
            request_id: RequestId((3 * n + id).into()),
            given_up: true,
        });
    }
    each(&mut table, &|n| Command::Release { name: "shared", token: Token(n + 1), by: None });
    assert_eq!((table.principals.len(), table.counts()), (0, Counts::default()));
}

/// The token is in the window when the lock is granted, and has left it when the retries come.
#[test]
fn a_lock_held_while_many_come_and_go_is_found_by_token_and_request() {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    let mut at = Stamp { wall_ms: 1, shard_ms: 1 };
    let token_of = |outcome: &Outcome| match outcome {
        Outcome::Granted(grant) => grant.token,
        other => panic!("{other:?}"),
    };
    let held = token_of(&table.apply(at, &acquire(1, "held", "", false), &mut effects));
    let mut churn = |table: &mut LockTable, at: &mut Stamp, from: u64| {
        for id in from..from + 3_000 {
            let token = token_of(&table.apply(*at, &acquire(id, "other", "", false), &mut effects));
            table.apply(*at, &Command::Release { name: "other", token, by: None }, &mut effects);
            at.shard_ms += REQUEST_MEMORY_MS / 1_000;
        }
    };
    assert!(table.tokens.window_ref(held.0).is_some());
    churn(&mut table, &mut at, 10);
    assert!(table.tokens.window_ref(held.0).is_none(), "the window keeps an old token");

    let mut restored = LockTable::restore(&table.snapshot()).expect("restores");
    let mut effects = Effects::default();
    for table in [&mut table, &mut restored] {
        assert_eq!(token_of(&table.apply(at, &acquire(1, "held", "", false), &mut effects)), held);
        let release = Command::Release { name: "held", token: held, by: None };
        assert_eq!(table.apply(at, &release, &mut effects), Outcome::Released { already: false });
        assert_eq!(table.apply(at, &release, &mut effects), Outcome::Released { already: true });
        let again = table.apply(at, &acquire(1, "held", "", false), &mut effects);
        assert_eq!(again, Outcome::AlreadyEnded { token: held, end: EndKind::Released });
    }
    assert_eq!(table.state_hash(), restored.state_hash());
    // The grant is forgotten, so its request id is free for a new one.
    churn(&mut table, &mut at, 10_000);
    assert_ne!(token_of(&table.apply(at, &acquire(1, "held", "", false), &mut effects)), held);
}

/// One table lives long, so that its tokens stand in the window, leave it, and are forgotten in
/// both states. Its twin is restored time and again, and finds all of them in the index.
#[test]
fn a_table_and_its_often_restored_twin_answer_alike() {
    let names: Vec<String> = (0..64).map(|n| format!("name-{n}")).collect();
    let (mut table, mut twin) = (LockTable::new(), LockTable::new());
    let (mut effects, mut twins) = (Effects::default(), Effects::default());
    let mut at = Stamp::default();
    let (mut old, mut left_old, mut again) = (0, 0, 0);
    for step in 0..20_000u64 {
        let draw = |salt: u64, of: u64| crate::hash::hash_number(step << 8 | salt) % of;
        let id = step.saturating_sub(if draw(1, 3) == 0 { draw(2, 2_000) } else { 0 });
        // Some names are released at once, others are held for thousands of grants.
        let name =
            &names[(crate::hash::hash_number(id) % if id % 8 == 0 { 64 } else { 8 }) as usize];
        let token = table
            .holders(name, at)
            .first()
            .map_or(Token(1 + draw(3, 1 + step)), |grant| grant.token);
        let session = ["", "", "", "s"][id as usize % 4];
        let command = match draw(4, 8) {
            0..4 => acquire(id, name, session, id % 8 == 1),
            4 => Command::Renew { name, token },
            5 if draw(5, 50) == 0 => Command::CloseSession { session: "s" },
            5 => Command::Release {
                name,
                token: Token(1 + draw(6, 1 + table.last_token().0)),
                by: None,
            },
            _ => Command::Release { name, token, by: None },
        };
        let before = table.tokens.old_len();
        let outcome = table.apply(at, &command, &mut effects);
        assert_eq!(outcome, twin.apply(at, &command, &mut twins), "step {step}: {command:?}");
        old = old.max(table.tokens.old_len());
        left_old += before.saturating_sub(table.tokens.old_len());
        again += u64::from(matches!(outcome, Outcome::AlreadyEnded { .. }));
        assert_eq!(
            (&effects.granted, &effects.dropped, &effects.leases),
            (&twins.granted, &twins.dropped, &twins.leases)
        );
        (effects, twins) = (Effects::default(), Effects::default());
        if step % 400 == 399 {
            assert_eq!(table.state_hash(), twin.state_hash(), "step {step}");
            twin = LockTable::restore(&twin.snapshot()).expect("restores");
        }
        at.shard_ms += [5, 200][draw(7, 2) as usize];
    }
    assert!(
        old > 10 && left_old > 20 && again > 100,
        "{old}, {left_old}, {again}: hardly anything happened"
    );
}

/// Regression: 10 retries of each of 10,000 queued acquires took 9.5 s, because each one counted
/// the waiters before it for a number that was never read.
#[test]
fn a_retry_of_a_queued_acquire_does_not_walk_its_queue() {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    let mut ask = |table: &mut LockTable, id: u64| {
        table.apply(Stamp::default(), &acquire(id, "a", "", true), &mut effects)
    };
    ask(&mut table, 1);
    for id in 2..1_000 {
        assert_eq!(ask(&mut table, id), Outcome::Queued);
    }
    chain::WALKED.set(0);
    for id in 2..1_000 {
        assert_eq!(ask(&mut table, id), Outcome::Queued);
    }
    assert_eq!(chain::WALKED.get(), 0, "rows walked by 998 retries");
}

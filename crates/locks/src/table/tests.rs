//! What cannot be seen from outside: that nothing is left of what ended.

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
    }
}

#[test]
fn nothing_is_left_of_what_ended() {
    let mut table = LockTable::new();
    let mut effects = Effects::default();
    let mut at = Stamp::default();
    let names = ["a", "b", "c", "d"];
    let sessions = ["", "s", "t", "u", "waits only"];
    for id in 0..2_000u64 {
        let (name, session) = (names[id as usize % 4], sessions[id as usize % 5]);
        // Nobody of the last session is ever granted: its acquires are cancelled before.
        let occupied = !table.holders(name).is_empty();
        if session != "waits only" || occupied {
            table.apply(at, &acquire(id, name, session, true), &mut effects);
        }
        if session == "waits only" {
            table.apply(at, &Command::CancelWait { name, request_id: RequestId(id.into()) }, &mut effects);
        }
        if id % 2 == 1
            && let Some(grant) = table.holders(name).first()
        {
            table.apply(at, &Command::Release { name, token: grant.token }, &mut effects);
        }
        if id % 50 == 49 {
            table.checkpoint();
        }
        at.shard_ms += 11;
    }
    // The last session is not closed: with its last waiter it must be gone by itself.
    for session in &sessions[1..4] {
        table.apply(at, &Command::CloseSession { session }, &mut effects);
    }
    for _ in 0..2_000 {
        let alive: Vec<_> = table.leases().collect();
        for event in alive {
            if let LeaseEvent::Alive { lease, renewal_seq, .. } = event {
                table.apply(at, &Command::ExpireLease { lease, renewal_seq }, &mut effects);
            }
        }
    }
    at.shard_ms += REQUEST_MEMORY_MS;
    for _ in 0..2_000 {
        table.apply(at, &Command::Heartbeat { session: "none" }, &mut effects);
    }

    assert!(effects.granted.len() > 100, "{} handovers: hardly anything happened", effects.granted.len());
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

/// Its token stands in the window when it is granted, and has moved out of it when its retries come.
#[test]
fn a_lock_held_while_many_come_and_go_is_found_by_token_and_request() {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    let mut at = Stamp { wall_ms: 1, shard_ms: 1 };
    let acquire = |id: u128, name| Command::Acquire {
        request_id: RequestId(id),
        name,
        owner: "",
        ttl_ms: 60_000,
        mode: Mode::Exclusive,
        wait: false,
        session: "",
        metadata: "",
    };
    let token_of = |outcome: &Outcome| match outcome {
        Outcome::Granted(grant) => grant.token,
        other => panic!("{other:?}"),
    };
    let held = token_of(&table.apply(at, &acquire(1, "held"), &mut effects));
    let mut churn = |table: &mut LockTable, at: &mut Stamp, from: u128| {
        for id in from..from + 3_000 {
            let token = token_of(&table.apply(*at, &acquire(id, "other"), &mut effects));
            table.apply(*at, &Command::Release { name: "other", token }, &mut effects);
            at.shard_ms += REQUEST_MEMORY_MS / 1_000;
        }
    };
    assert!(table.tokens.recent_name(held.0).is_some());
    churn(&mut table, &mut at, 10);
    assert!(table.tokens.recent_name(held.0).is_none(), "the window keeps what it need not");

    let mut restored = LockTable::restore(&table.snapshot()).expect("restores");
    let mut effects = Effects::default();
    for table in [&mut table, &mut restored] {
        assert_eq!(token_of(&table.apply(at, &acquire(1, "held"), &mut effects)), held);
        let release = Command::Release { name: "held", token: held };
        assert_eq!(table.apply(at, &release, &mut effects), Outcome::Released { already: false });
        assert_eq!(table.apply(at, &release, &mut effects), Outcome::Released { already: true });
        let again = table.apply(at, &acquire(1, "held"), &mut effects);
        assert_eq!(again, Outcome::AlreadyEnded { token: held, end: EndKind::Released });
    }
    assert_eq!(table.state_hash(), restored.state_hash());
    // Forgotten: its request id is free for a new grant.
    churn(&mut table, &mut at, 10_000);
    assert_ne!(token_of(&table.apply(at, &acquire(1, "held"), &mut effects)), held);
}

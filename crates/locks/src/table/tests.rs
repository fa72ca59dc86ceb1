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
    let indexes = [&table.names, &table.tokens, &table.requests, &table.session_ids, &table.session_leases];
    assert_eq!(indexes.map(Index::len), [0; 5]);
    table.checkpoint();
    let empty = LockTable::restore(&table.snapshot()).expect("restores").checkpoint();
    assert_eq!(empty.len(), 1, "only the header");
}

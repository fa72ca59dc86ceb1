//! Whole replicas, three to a group: replication, failover, expiry, waiting, checkpoints and
//! snapshots.

use crate::cluster::*;
use locks::{Command, EndKind, Outcome, Token};
use palisade_shard::*;

fn holders(reply: Option<Reply>) -> Vec<u64> {
    match reply {
        Some(Reply::Read { answer: Answer::Check { holders, .. }, .. }) => {
            holders.iter().map(|g| g.token.0).collect()
        }
        other => panic!("no answer to check: {other:?}"),
    }
}

#[test]
fn the_preferred_replica_leads_and_serves() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    let first = token(&c.acquire(1, "a", 30_000));
    let second = token(&c.acquire(1, "b", 30_000));
    assert!(second > first);
    assert!(
        matches!(c.acquire(1, "a", 30_000), Reply::Done(Outcome::Held { token: Token(t), .. }) if t == first)
    );
    assert!(
        matches!(c.acquire(2, "c", 30_000), Reply::NotLeader { hint: Some(n), .. } if n.0 == 1)
    );
    c.run_ms(200);
    let hashes = [c.hash(1), c.hash(2), c.hash(3)];
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
}

#[test]
fn nothing_is_answered_before_a_quorum_has_it_on_disk() {
    let mut c = Cluster::new(3);
    c.elect();
    for id in [2, 3] {
        c.peers.get_mut(&id).unwrap().disk_works = false;
    }
    let request_id = c.request_id();
    let ticket = c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    c.settle();
    assert_eq!(c.reply(1, ticket), None, "only the leader's own disk has it");
    c.peers.get_mut(&2).unwrap().disk_works = true;
    c.settle();
    assert!(c.reply(1, ticket).is_some());

    c.peers.get_mut(&1).unwrap().disk_works = false;
    c.peers.get_mut(&3).unwrap().disk_works = true;
    let request_id = c.request_id();
    let ticket = c.submit(1, &acquire(request_id, "b", 30_000, false), None);
    c.settle();
    assert_eq!(
        c.reply(1, ticket),
        None,
        "the leader answers from its own log only when that is on disk"
    );
    c.peers.get_mut(&1).unwrap().disk_works = true;
    c.settle();
    assert!(c.reply(1, ticket).is_some());
}

#[test]
fn a_follower_acknowledges_only_what_is_on_its_disk() {
    let mut c = Cluster::new(3);
    c.elect();
    c.isolate(3);
    c.peers.get_mut(&2).unwrap().disk_works = false;
    let request_id = c.request_id();
    let ticket = c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    c.settle();
    assert_eq!(c.reply(1, ticket), None);
    // Power cut: had it acknowledged, the leader would now count on bytes that are gone.
    c.crash(2);
    c.peers.get_mut(&2).unwrap().disk_works = true;
    c.start(2);
    c.run_ms(500);
    assert!(token(&c.reply(1, ticket).expect("committed with the copy sent again")) > 0);
}

#[test]
fn failover_keeps_grants_and_raises_tokens() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 30_000));
    c.crash(1);
    let leader = c.elect();
    assert_ne!(leader, 1);
    assert!(
        matches!(c.acquire(leader, "a", 30_000), Reply::Done(Outcome::Held { token: Token(t), .. }) if t == held)
    );
    let renew = c.submit(leader, &Command::Renew { name: "a", token: Token(held) }, None);
    c.settle();
    assert!(matches!(c.reply(leader, renew), Some(Reply::Done(Outcome::Renewed { .. }))));
    assert!(token(&c.acquire(leader, "b", 30_000)) > held);
    c.start(1);
    c.run_ms(500);
    assert_eq!(c.hash(1), c.hash(leader));
}

#[test]
fn all_down_and_up_again_loses_nothing() {
    let mut c = Cluster::new(3);
    c.elect();
    let held: Vec<u64> = (0..50).map(|i| token(&c.acquire(1, &format!("n{i}"), 60_000))).collect();
    for id in 1..=3 {
        c.crash(id);
    }
    for id in 1..=3 {
        c.start(id);
    }
    let leader = c.elect();
    for (i, expected) in held.iter().enumerate() {
        let ticket = c.read(leader, &format!("n{i}"), true);
        c.settle();
        assert_eq!(holders(c.reply(leader, ticket)), [*expected]);
    }
    assert!(token(&c.acquire(leader, "new", 30_000)) > held[49]);
}

#[test]
fn a_lease_ends_after_its_ttl_and_not_before() {
    let mut c = Cluster::new(3);
    c.elect();
    let first = token(&c.acquire(1, "a", 1_000));
    let request_id = c.request_id();
    let wait = Wait { request_id, wait_ms: 60_000 };
    let ticket = c.submit(1, &acquire(request_id, "a", 1_000, true), Some(wait));
    c.settle();
    c.run_ms(950);
    assert_eq!(c.reply(1, ticket), None, "950 ms into a TTL of 1,000 ms");
    c.run_ms(100);
    assert!(token(&c.reply(1, ticket).expect("granted to the waiter")) > first);
}

#[test]
fn a_new_leader_gives_a_lease_what_is_left_of_it() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 10_000));
    let granted_ms = c.now_ms;
    c.run_ms(4_000);
    c.crash(1);
    let leader = c.elect();
    c.run_ms(granted_ms + 9_950 - c.now_ms);
    assert!(
        matches!(c.acquire(leader, "a", 1_000), Reply::Done(Outcome::Held { token: Token(t), .. }) if t == held)
    );
    // A follower hears with the next heartbeat what is committed: it observes the grant that much
    // later.
    c.run_ms(250);
    assert!(token(&c.acquire(leader, "a", 1_000)) > held);
}

/// Each new leader gave every lease its full TTL: with a move every five seconds a lock of ten was
/// held for ever.
#[test]
fn an_abandoned_lock_ends_in_time_however_often_leadership_moves() {
    let mut c = Cluster::new(3);
    let mut leader = c.elect();
    let held = token(&c.acquire(leader, "a", 10_000));
    let granted_ms = c.now_ms;
    while c.now_ms < granted_ms + 14_000 {
        c.run_ms(1_000);
        let to = leader % 3 + 1;
        c.peers.get_mut(&leader).unwrap().inbox.push(Input::Transfer { to: routing::NodeId(to) });
        c.run_ms(100);
        leader = c.leader().expect("leadership was handed on");
        assert_eq!(leader, to, "the move did not take place");
        let reply = c.acquire(leader, "a", 10_000);
        let is_held =
            matches!(reply, Reply::Done(Outcome::Held { token: Token(t), .. }) if t == held);
        // Time stands still while what was said travels.
        match c.now_ms - granted_ms {
            0..10_000 => assert!(is_held, "it ended early: {reply:?}"),
            10_000..11_500 => {} // each move may cost it a heartbeat
            late => return assert!(!is_held, "it is held after {late} ms"),
        }
    }
    panic!("nobody looked after its end");
}

/// What a restarted replica knows of shard time is that its table is as old as its checkpoint at
/// least: leases end late by that.
#[test]
fn a_lease_is_not_cut_short_by_replicas_that_have_forgotten_how_old_it_is() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 10_000));
    c.run_ms(3_000);
    (1..=3).for_each(|id| c.crash(id));
    c.run_ms(60_000);
    (1..=3).for_each(|id| c.start(id));
    let leader = c.elect();
    let since_ms = c.now_ms;
    assert!(
        matches!(c.acquire(leader, "a", 1_000), Reply::Done(Outcome::Held { token: Token(t), .. }) if t == held)
    );
    c.run_ms(10_100);
    assert!(
        token(&c.acquire(leader, "a", 1_000)) > held,
        "late by at most a TTL after {since_ms} ms"
    );
}

/// A `check` after a failover counted from the former leader's wall clock: it showed an expiry in
/// the past for a lock that lived.
#[test]
fn a_check_shows_what_is_left_of_a_lease_by_shard_time() {
    let mut c = Cluster::new(3);
    c.elect();
    token(&c.acquire(1, "a", 10_000));
    let granted_ms = c.now_ms;
    c.run_ms(4_000);
    c.crash(1);
    let leader = c.elect();
    let follower = 5 - leader;
    for (id, linearizable) in [(leader, true), (follower, false)] {
        let ticket = c.read(id, "a", linearizable);
        c.settle();
        let Some(Reply::Read { answer: Answer::Check { holders, .. }, .. }) = c.reply(id, ticket)
        else {
            panic!()
        };
        let left_ms = granted_ms + 10_000 - c.now_ms;
        let shown_ms = u64::from(holders[0].rest_ms);
        assert!(
            (left_ms..=left_ms + 200).contains(&shown_ms),
            "node {id} shows {shown_ms} of {left_ms} ms"
        );
        assert_eq!(holders[0].expires_wall_ms, c.now().wall_ms + shown_ms);
    }
}

#[test]
fn a_deposed_leader_expires_nothing_and_answers_nothing_as_done() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 2_000));
    c.isolate(1);
    let request_id = c.request_id();
    let stale = c.submit(1, &acquire(request_id, "b", 30_000, false), None);
    let read = c.read(1, "a", true);
    for _ in 0..10 {
        c.run_ms(1_000);
        let leader = [2, 3].into_iter().find(|id| c.status(*id).role == Role::Leader);
        if let Some(leader) = leader {
            c.submit(leader, &Command::Renew { name: "a", token: Token(held) }, None);
            c.settle();
        }
    }
    assert!(matches!(c.reply(1, stale), Some(Reply::Unknown)), "it may yet commit elsewhere");
    assert!(matches!(c.reply(1, read), Some(Reply::NoLeader)));
    c.cut.clear();
    c.run_ms(1_000);
    let leader = c.leader().expect("a leader");
    let ticket = c.read(leader, "a", true);
    c.settle();
    assert_eq!(
        holders(c.reply(leader, ticket)),
        [held],
        "renewed all along by the majority's leader"
    );
}

#[test]
fn waiters_are_served_in_order_and_keep_their_place_through_failover() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 60_000));
    let waits: Vec<Wait> =
        (0..5).map(|_| Wait { request_id: c.request_id(), wait_ms: 60_000 }).collect();
    for wait in &waits {
        c.submit(1, &acquire(wait.request_id, "a", 60_000, true), Some(*wait));
        c.settle();
    }
    c.crash(1);
    let leader = c.elect();
    // They come again in another order; places do not change.
    let mut tickets: Vec<_> = waits
        .iter()
        .rev()
        .map(|w| c.submit(leader, &acquire(w.request_id, "a", 60_000, true), Some(*w)))
        .collect();
    tickets.reverse();
    c.settle();
    let mut current = held;
    for ticket in tickets {
        assert_eq!(c.reply(leader, ticket), None);
        c.submit(leader, &Command::Release { name: "a", token: Token(current), by: None }, None);
        c.settle();
        current = token(&c.reply(leader, ticket).expect("next in line"));
    }
}

#[test]
fn a_wait_ends_at_its_deadline_and_a_silent_waiter_after_the_grace() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 60_000));
    let short = Wait { request_id: c.request_id(), wait_ms: 500 };
    let gone = Wait { request_id: c.request_id(), wait_ms: 60_000 };
    let short_ticket = c.submit(1, &acquire(short.request_id, "a", 60_000, true), Some(short));
    let gone_ticket = c.submit(1, &acquire(gone.request_id, "a", 60_000, true), Some(gone));
    c.settle();
    c.run_ms(600);
    assert_eq!(c.reply(1, short_ticket), Some(Reply::WaitTimeout));
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Detach { ticket: gone_ticket });
    c.run_ms(1_200);
    assert_eq!(c.status(1).counts.waiters, 0);
    c.submit(1, &Command::Release { name: "a", token: Token(held), by: None }, None);
    c.settle();
    assert!(token(&c.acquire(1, "a", 1_000)) > held);
}

#[test]
fn a_retry_takes_over_the_wait_of_the_attempt_before() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 60_000));
    let wait = Wait { request_id: c.request_id(), wait_ms: 60_000 };
    let first = c.submit(1, &acquire(wait.request_id, "a", 60_000, true), Some(wait));
    c.settle();
    let second = c.submit(1, &acquire(wait.request_id, "a", 60_000, true), Some(wait));
    c.settle();
    assert_eq!(c.reply(1, first), Some(Reply::Superseded));
    c.submit(1, &Command::Release { name: "a", token: Token(held), by: None }, None);
    c.settle();
    let granted = token(&c.reply(1, second).expect("granted"));
    let third = c.submit(1, &acquire(wait.request_id, "a", 60_000, true), Some(wait));
    c.settle();
    assert_eq!(token(&c.reply(1, third).expect("answered")), granted, "one request id, one token");
}

#[test]
fn what_its_caller_has_given_up_leaves_the_queue_without_being_done() {
    let mut c = Cluster::new(3);
    c.elect();
    // Without its followers the leader's entry stays in flight, and what comes behind it queues.
    c.crash(2);
    c.crash(3);
    let ids = [c.request_id(), c.request_id(), c.request_id()];
    c.submit(1, &acquire(ids[0], "a", 60_000, false), None);
    c.settle();
    let late = c.submit_until(1, &acquire(ids[1], "b", 60_000, false), None, c.now_ms + 100);
    let patient = c.submit(1, &acquire(ids[2], "c", 60_000, false), None);
    c.settle();
    c.run_ms(200);
    c.start(2);
    c.run_ms(300);
    assert_eq!(c.reply(1, late), Some(Reply::Busy));
    assert!(matches!(c.reply(1, patient), Some(Reply::Done(Outcome::Granted(_)))));
    let check = c.read(1, "b", true);
    c.settle();
    c.run_ms(100);
    assert!(holders(c.reply(1, check)).is_empty(), "it was not done");
}

/// Only the oldest were looked at: one that still waited had those behind it done for nobody.
#[test]
fn what_is_late_behind_one_that_still_waits_is_not_done() {
    let mut c = Cluster::new(3);
    c.elect();
    c.crash(2);
    c.crash(3);
    let ids = [c.request_id(), c.request_id(), c.request_id(), c.request_id()];
    c.submit(1, &acquire(ids[0], "a", 60_000, false), None);
    c.settle();
    let patient = c.submit(1, &acquire(ids[1], "b", 60_000, false), None);
    let late = c.submit_until(1, &acquire(ids[2], "c", 60_000, false), None, c.now_ms + 100);
    let last = c.submit(1, &acquire(ids[3], "d", 60_000, false), None);
    c.settle();
    c.run_ms(200);
    c.start(2);
    c.run_ms(300);
    assert_eq!(c.reply(1, late), Some(Reply::Busy));
    for ticket in [patient, last] {
        assert!(matches!(c.reply(1, ticket), Some(Reply::Done(Outcome::Granted(_)))));
    }
    let check = c.read(1, "c", true);
    c.settle();
    c.run_ms(100);
    assert!(holders(c.reply(1, check)).is_empty(), "it was not done");
}

#[test]
fn a_replica_that_fell_behind_a_truncated_log_comes_back_by_snapshot() {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 4 << 10;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    c.crash(3);
    for i in 0..1_000 {
        let held = token(&c.acquire(1, &format!("lock:{i}"), 600_000));
        if i % 2 == 0 {
            c.submit(
                1,
                &Command::Release { name: &format!("lock:{i}"), token: Token(held), by: None },
                None,
            );
        }
    }
    c.settle();
    assert!(c.status(1).first_index > 1, "the log was cut");
    c.start(3);
    c.run_ms(2_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    assert_eq!(c.hash(3), c.hash(1));
    // And it is durable there: down and up again, alone with one other.
    c.crash(3);
    c.start(3);
    c.run_ms(500);
    assert_eq!(c.status(3).snapshots_installed, 0);
    assert_eq!(c.hash(3), c.hash(1));
    c.crash(1);
    let leader = c.elect();
    assert!(matches!(c.acquire(leader, "lock:1", 1_000), Reply::Done(Outcome::Held { .. })));
}

#[test]
fn history_is_in_memory_or_in_the_engine_and_never_lost_or_doubled() {
    use storage::Engine;
    let mut c = Cluster::new(3);
    c.elect();
    let mut tokens = Vec::new();
    for _ in 0..300 {
        let held = token(&c.acquire(1, "a", 60_000));
        tokens.push(held);
        c.submit(1, &Command::Release { name: "a", token: Token(held), by: None }, None);
        c.settle();
    }
    for id in 1..=3 {
        c.crash(id);
    }
    for id in 1..=3 {
        c.start(id);
    }
    let leader = c.elect();
    let ticket = c.ticket();
    let query = Query::History { name: "a".into(), limit: usize::MAX };
    c.peers.get_mut(&leader).unwrap().inbox.push(Input::Read { ticket, query, linearizable: true });
    c.settle();
    let Some(Reply::Read { answer: Answer::History { ended, current }, .. }) =
        c.reply(leader, ticket)
    else {
        panic!("no answer");
    };
    assert!(current.is_empty());
    let stored = c.peers[&leader].engine.history(SHARD, "a", 1_000).expect("history");
    assert!(
        !stored.is_empty() && !ended.is_empty(),
        "{} stored, {} in memory",
        stored.len(),
        ended.len()
    );
    let mut found: Vec<u64> =
        stored.iter().map(|r| r.token).chain(ended.iter().map(|t| t.grant.token.0)).collect();
    found.sort_unstable();
    assert_eq!(found, tokens);
    assert!(ended.iter().all(|t| t.end == EndKind::Released));
}

/// With days of a wall clock, the records of a leader whose clock was behind were dropped at once,
/// and those of one whose clock was ahead kept for ever. A node with its own clock ahead dropped
/// all that it had.
#[test]
fn history_ages_by_shard_time_and_not_by_a_wall_clock() {
    use storage::Engine;
    const DAY_MS: u64 = 86_400_000;
    let mut c = Cluster::new(3);
    let mut leader = c.elect();
    for (name, day) in [("a", 0), ("b", 3), ("c", 3)] {
        let held = token(&c.acquire(leader, name, 60_000));
        c.submit(leader, &Command::Release { name, token: Token(held), by: None }, None);
        c.run_ms(11_000); // a checkpoint brings it to the engine
        for id in
            c.peers.keys().copied().filter(|id| c.peers[id].replica.is_some()).collect::<Vec<_>>()
        {
            let stored = c.peers[&id].engine.history(SHARD, name, 10).expect("history");
            assert_eq!(
                stored.iter().map(|record| record.day).collect::<Vec<_>>(),
                [day],
                "{name} on replica {id}"
            );
            assert_eq!(c.status(id).shard_ms / DAY_MS, u64::from(day));
        }
        match name {
            "a" => c.now_ms += 3 * DAY_MS,
            "b" => {
                // The next leader goes on from what was applied.
                c.crash(leader);
                leader = c.elect();
            }
            _ => {}
        }
    }
}

#[test]
fn many_operations_share_an_entry() {
    let mut c = Cluster::new(3);
    c.elect();
    let before = c.status(1);
    let tickets: Vec<_> = (0..200)
        .map(|i| {
            let request_id = c.request_id();
            c.submit(1, &acquire(request_id, &format!("n{i}"), 60_000, false), None)
        })
        .collect();
    c.settle();
    for ticket in tickets {
        assert!(token(&c.reply(1, ticket).expect("answered")) > 0);
    }
    let after = c.status(1);
    assert_eq!(after.commands_applied - before.commands_applied, 200);
    assert!(after.entries_applied - before.entries_applied <= 10, "{before:?} {after:?}");
}

#[test]
fn a_full_queue_answers_busy_and_does_nothing() {
    let mut c = Cluster::new(3);
    c.elect();
    let tickets: Vec<_> = (0..1_001)
        .map(|i| {
            let request_id = c.request_id();
            c.submit(1, &acquire(request_id, &format!("n{i}"), 60_000, false), None)
        })
        .collect();
    c.settle();
    assert_eq!(c.reply(1, tickets[1_000]), Some(Reply::Busy));
    let ticket = c.read(1, "n1000", true);
    c.settle();
    assert!(holders(c.reply(1, ticket)).is_empty());
}

#[test]
fn leadership_is_handed_on_request() {
    let mut c = Cluster::new(3);
    c.elect();
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: routing::NodeId(3) });
    c.run_ms(300);
    assert_eq!(c.leader(), Some(3));
}

#[test]
fn stray_and_damaged_peer_bytes_are_dropped() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 60_000));
    for bytes in [vec![], vec![0xff; 40], vec![8, 2, 16, 9, 24, 9], (0..255).collect()] {
        c.peers.get_mut(&1).unwrap().inbox.push(Input::Peer(bytes));
    }
    c.settle();
    let ticket = c.read(1, "a", true);
    c.settle();
    assert_eq!(holders(c.reply(1, ticket)), [held]);
}

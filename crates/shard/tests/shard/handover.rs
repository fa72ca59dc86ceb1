//! Leadership that goes to another replica because a host wants it.

use crate::cluster::*;
use palisade_shard::*;
use routing::NodeId;

fn tell(c: &mut Cluster, id: u64, input: Input) {
    c.peers.get_mut(&id).expect("a peer").inbox.push(input);
}

/// An operation was answered as unknown, although its leader could have waited for it. So a rolling
/// restart left a break in doubt for good.
#[test]
fn a_handover_leaves_no_operation_in_flight_in_doubt() {
    let mut c = Cluster::new(5);
    assert_eq!(c.elect(), 1);
    token(&c.acquire(1, "before", 30_000));
    // Only the successor acknowledges the entry.
    c.cut = vec![(3, 1), (4, 1), (5, 1)];
    let first = c.request_id();
    let in_flight = c.submit(1, &acquire(first, "in flight", 30_000, false), None);
    c.settle();
    assert_eq!(c.reply(1, in_flight), None, "two of five have it");
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    let second = c.request_id();
    let queued = c.submit(1, &acquire(second, "queued", 30_000, false), None);
    c.settle();
    assert_eq!(c.leader(), Some(1), "it finishes first");
    c.cut.clear();
    c.run_ms(300);
    assert_eq!(c.leader(), Some(2));
    let held = token(&c.reply(1, in_flight).expect("an answer"));
    let term = c.status(2).term;
    assert_eq!(c.reply(1, queued), Some(Reply::NotLeader { hint: Some(NodeId(2)), term }));
    let again = c.submit(2, &acquire(second, "queued", 30_000, false), None);
    c.settle();
    assert!(token(&c.reply(2, again).expect("an answer")) > held);
}

#[test]
fn operations_that_come_while_no_leader_is_known_are_told_the_successor() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    while c.leader() == Some(1) {
        assert!(c.round());
    }
    assert_eq!((c.leader(), c.status(1).leader), (None, None));
    let request_id = c.request_id();
    let command = acquire(request_id, "a", 30_000, false);
    let between = c.submit(1, &command, None);
    c.round();
    assert_eq!(c.reply(1, between), None, "it is kept");
    c.settle();
    let term = c.status(2).term;
    assert_eq!(c.reply(1, between), Some(Reply::NotLeader { hint: Some(NodeId(2)), term }));
}

/// A tick in the step of the successor's request for votes ended the handover, and the queue was
/// refused without a hint.
#[test]
fn a_tick_while_the_successor_is_elected_changes_nothing() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    let request_id = c.request_id();
    let kept = c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    let reply = loop {
        if let Some(reply) = c.reply(1, kept) {
            break reply;
        }
        tell(&mut c, 1, Input::Tick);
        assert!(c.round());
    };
    assert_eq!(reply, Reply::NotLeader { hint: Some(NodeId(2)), term: c.status(2).term });
}

#[test]
fn operations_are_refused_if_the_successor_does_not_become_leader() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    while c.leader() == Some(1) {
        assert!(c.round());
    }
    // It hears no vote.
    c.isolate(2);
    let request_id = c.request_id();
    let kept = c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    c.run_ms(300);
    assert_eq!(c.reply(1, kept), None);
    c.run_ms(200);
    assert_eq!(c.reply(1, kept), Some(Reply::NoLeader));
    c.elect();
}

#[test]
fn a_leader_leads_on_if_its_successor_is_gone() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    c.crash(2);
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    let request_id = c.request_id();
    let kept = c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    c.run_ms(200);
    assert_eq!(c.reply(1, kept), None, "nothing is proposed meanwhile");
    c.run_ms(1_000);
    assert_eq!(c.leader(), Some(1));
    token(&c.reply(1, kept).expect("an answer"));
}

#[test]
fn a_replica_that_stands_aside_votes_and_asks_for_no_votes() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    tell(&mut c, 2, Input::StandAside);
    c.settle();
    c.crash(1);
    for _ in 0..100 {
        c.run_ms(50);
        assert_ne!(c.status(2).role, Role::Candidate);
    }
    assert_eq!(c.leader(), Some(3), "by the vote of the other");
    tell(&mut c, 3, Input::StandAside);
    tell(&mut c, 2, Input::Campaign);
    c.settle();
    assert_eq!(c.leader(), Some(3));
    c.start(1);
    c.run_ms(500);
    c.crash(3);
    c.run_ms(3_000);
    assert_eq!(c.leader(), Some(1));
}

/// Regression: the preferred leader draws its election timeout from a smaller range, and panicked at
/// its first tick after it had to stand aside.
#[test]
fn a_preferred_leader_can_stand_aside() {
    let mut c = Cluster::new(3);
    c.election_seed = None;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    assert_eq!(c.elect(), 1);
    (1..=3).for_each(|id| tell(&mut c, id, Input::StandAside));
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    c.settle();
    assert_eq!(c.leader(), Some(2));
    c.crash(2);
    for _ in 0..100 {
        c.run_ms(50);
        assert_eq!((c.status(1).role, c.status(3).role), (Role::Follower, Role::Follower));
    }
}

/// If it refused, the other would propose nothing until its handover is given up.
#[test]
fn a_replica_that_stands_aside_takes_leadership_that_is_handed_to_it() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    tell(&mut c, 2, Input::StandAside);
    tell(&mut c, 1, Input::Transfer { to: NodeId(2) });
    c.settle();
    assert_eq!(c.leader(), Some(2));
    tell(&mut c, 2, Input::Transfer { to: NodeId(3) });
    c.settle();
    assert_eq!(c.leader(), Some(3));
}

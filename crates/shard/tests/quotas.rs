//! Quotas: refused before they are proposed, and decided where they are applied.

mod cluster;

use cluster::*;
use locks::{Caller, Command, Outcome, Quota, RequestId, Token};
use palisade_shard::*;

const ANN: Caller<'_> =
    Caller { principal: "ann", quota: Quota { locks: 1, sessions: 0, waits: 0 } };

fn is_refused(reply: Option<Reply>) -> bool {
    match reply.expect("an answer") {
        Reply::Done(Outcome::OverQuota { .. }) => true,
        Reply::Done(Outcome::Granted(_)) => false,
        other => panic!("{other:?}"),
    }
}

fn ask(c: &mut Cluster, leader: u64, id: u128, name: &str) -> Option<Reply> {
    let command = acquire(RequestId(id), name, 30_000, false);
    let ticket = c.submit_as(leader, ANN, &command);
    c.settle();
    c.reply(leader, ticket)
}

#[test]
fn an_acquire_over_its_quota_takes_no_place_in_the_log() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    let held = token(&ask(&mut c, leader, 1, "a").expect("an answer"));
    let before = c.status(leader).last_index;
    for id in 2..20 {
        assert!(is_refused(ask(&mut c, leader, id, "b")));
    }
    assert_eq!(c.status(leader).last_index, before);
    // A retry gets its grant, at the quota too.
    assert_eq!(token(&ask(&mut c, leader, 1, "a").expect("an answer")), held);
    let release = Command::Release { name: "a", token: Token(held), by: None };
    c.submit_as(leader, ANN, &release);
    assert!(!is_refused(ask(&mut c, leader, 20, "b")));
}

#[test]
fn acquires_under_way_at_once_are_decided_where_they_are_applied() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
    let commands = (1..).zip(&names).map(|(id, name)| acquire(RequestId(id), name, 30_000, false));
    let tickets: Vec<_> =
        commands.map(|command| c.submit_as(leader, ANN, &command)).collect::<Vec<_>>();
    c.settle();
    let refused: Vec<bool> =
        tickets.into_iter().map(|ticket| is_refused(c.reply(leader, ticket))).collect();
    assert_eq!(refused, [false, true, true, true, true, true, true, true, true, true]);
    c.run_ms(500);
    let hashes = [1, 2, 3].map(|id| c.hash(id));
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

/// Regression: see the planted bug `QuotaNotRestored`.
#[test]
fn a_quota_outlives_every_replica() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    assert!(!is_refused(ask(&mut c, leader, 1, "a")));
    for id in 1..=3 {
        c.crash(id);
    }
    for id in 1..=3 {
        c.start(id);
    }
    let leader = c.elect();
    assert!(is_refused(ask(&mut c, leader, 2, "b")));
}

//! Reads of one lock: which replica may answer, and how old it says that its answer is.

use crate::cluster::*;
use locks::Outcome;
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
fn linearizable_reads_on_followers_see_what_was_acknowledged() {
    let mut c = Cluster::new(3);
    c.elect();
    for i in 0..20 {
        let name = format!("n{i}");
        let held = token(&c.acquire(1, &name, 60_000));
        let ticket = c.read(2 + i % 2, &name, true);
        c.settle();
        assert_eq!(holders(c.reply(2 + i % 2, ticket)), [held]);
    }
}

#[test]
fn with_the_leader_gone_stale_reads_are_answered_and_linearizable_ones_are_not() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 60_000));
    c.run_ms(200);
    c.crash(1);
    c.crash(3);
    c.run_ms(5_000);
    let stale = c.read(2, "a", false);
    let strict = c.read(2, "a", true);
    c.settle();
    match c.reply(2, stale) {
        Some(Reply::Read { answer: Answer::Check { holders, .. }, stale_by_ms, .. }) => {
            assert_eq!(holders[0].token.0, held);
            assert!(stale_by_ms >= 5_000, "{stale_by_ms}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(c.reply(2, strict), Some(Reply::NoLeader));
}

#[test]
fn a_leader_that_is_cut_off_says_for_how_long_before_it_steps_down() {
    let mut c = Cluster::new(5);
    c.elect();
    c.acquire(1, "a", 60_000);
    c.run_ms(1_000);
    let ticket = c.read(1, "a", false);
    c.settle();
    assert!(matches!(c.reply(1, ticket), Some(Reply::Read { stale_by_ms: 0..=200, .. })));
    // One other and itself are no majority of five.
    for id in 3..=5 {
        c.crash(id);
    }
    c.run_ms(300);
    let ticket = c.read(1, "a", false);
    c.settle();
    assert_eq!(c.status(1).role, Role::Leader);
    assert!(matches!(c.reply(1, ticket), Some(Reply::Read { stale_by_ms: 300.., .. })));
}

#[test]
fn a_new_leader_does_not_call_fresh_what_it_has_not_applied() {
    let mut c = Cluster::new(3);
    c.elect();
    c.run_ms(1_000);
    let reply = c.acquire(1, "a", 60_000);
    assert!(matches!(reply, Reply::Done(Outcome::Granted(_))));
    let granted_ms = c.now_ms;
    // The others have the entry on disk; that it is committed would come with the next heartbeat,
    // which never comes.
    c.crash(1);
    let mut lacked_it = false;
    for _ in 0..400 {
        c.now_ms += 10;
        if c.now_ms.is_multiple_of(50) {
            let up = c.peers.values_mut().filter(|peer| peer.replica.is_some());
            up.for_each(|peer| peer.inbox.push(Input::Tick));
        }
        c.round();
        let Some(leader) = c.leader().filter(|leader| *leader != 1) else { continue };
        let check = c.read(leader, "a", false);
        c.round();
        match c.reply(leader, check) {
            Some(Reply::Read { answer: Answer::Check { holders, .. }, stale_by_ms, .. })
                if holders.is_empty() =>
            {
                lacked_it = true;
                assert!(stale_by_ms >= c.now_ms - granted_ms, "{stale_by_ms}");
            }
            _ => break,
        }
    }
    assert!(lacked_it, "it was never asked in that state");
}
